//! The watches of one connection.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;

use super::deferred::Deferral;
use crate::sync::Arc;
use crate::types::{Path, PathBuf};
use crate::watch::{Changed, Event};

/// A watch.
pub struct Watch {
    /// The watched path; shared by the connection's watches on it.
    pub path: Arc<PathBuf>,
    /// The client's name for the watch, echoed in events.
    pub token: Box<[u8]>,
    /// The number of bytes that events omit from paths: the length of `/local/domain/<n>/` if the client wrote a
    /// relative path.
    pub prefix_len: u32,
    /// See [`crate::watch::Entry::depth`].
    pub depth: Option<u16>,
    /// The watch's number, which rises with every watch set on the worker.
    pub seq: u64,
}

/// The memory of a watch in addition to its token and twice its path: entries in the tables of the connection, and two
/// nodes of the trie. Measured by `tests/bounds/charges.rs`.
const WATCH_BYTES: usize = 360;

impl Watch {
    /// Returns a path as the client sees it.
    pub fn shown<'p>(&self, path: &'p [u8]) -> &'p [u8] {
        path.get(self.prefix_len as usize..).unwrap_or(path)
    }

    /// Returns the charge for the watch in the quota `memory`.
    pub fn charge_bytes(&self) -> u64 {
        (WATCH_BYTES + 2 * self.path.as_path().bytes().len() + self.token.len()) as u64
    }

    /// Returns whether a change of the watched path, or below it, is within the watch's depth.
    fn reaches(&self, changed: Changed<'_>) -> bool {
        let levels = || levels_below(changed, self.path.as_path().bytes());
        self.depth.is_none_or(|depth| levels() <= usize::from(depth))
    }
}

/// The events of one connection for one change: one for each path that it watches.
pub type ChangeEvents = SmallVec<[Event; 1]>;

/// The name of a connection's watch: its slot, which is reused, and its number, which is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchId {
    slot: u32,
    /// The watch's number.
    pub seq: u64,
}

/// The watches on one path with a depth, or those without. A group is one entry in the tries. Watches with a depth are
/// apart, as for special paths they get other events: with the domid (xenstore.txt, WATCH).
struct Group {
    /// In the order in which the watches were set; never empty.
    slots: SmallVec<[u32; 2]>,
    /// The greatest depth of any watch that the group has had. Removals do not lower this depth, so the tries may
    /// report too many changes, which [`Watches::notified`] filters.
    depth: Option<u16>,
    /// The number of the first watch, which distinguishes the group from earlier and later ones in the same slot.
    birth: u64,
    /// Its deferred events.
    deferral: Option<Deferral>,
}

/// The data of a group in a trie.
pub struct GroupSummary<'w> {
    /// The group's slot.
    pub group: u32,
    /// The watched path.
    pub path: Path<'w>,
    /// The number of the newest watch.
    pub seq: u64,
    /// How many levels below the path the deepest watch reaches at most; `None` for all.
    pub depth: Option<u16>,
    /// The number of watches.
    pub watches: u16,
}

/// A connection's watches by slot, by path and token, by path, and in the order in which they were set. Adding, finding
/// and removing take constant time, except for a copy of the group's slots.
#[derive(Default)]
pub struct Watches {
    slots: Slab<Watch>,
    groups: Slab<Group>,
    // The tables have slots only: paths and tokens are in `slots`, once each.
    by_name: HashTable<u32>,
    by_path: HashTable<u32>,
    // Seeded anew in each process: guests choose paths and tokens, and could make them collide.
    hasher: RandomState,
    /// The number and slot of each watch, oldest first, with some entries of removed watches.
    order: Vec<(u64, u32)>,
    /// The slot and birth of each group with a deferral, with some entries of removed groups.
    deferred: VecDeque<(u32, u64)>,
    generation: u64,
}

/// The number of stale entries that `order` and `deferred` may have in addition to twice the number of watches. Beyond
/// that all stale entries are dropped at once, a cost amortised over the removals.
const GONE_MAX: usize = 16;

impl Watches {
    /// Creates an empty list. `generation` is returned by [`Watches::generation`]; it must not have been used before.
    pub fn new(generation: u64) -> Watches {
        Watches { generation, ..Watches::default() }
    }

    /// Returns a number that changes with the list.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the number of watches.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    fn find(&self, path: Path<'_>, token: &[u8]) -> Option<u32> {
        let is_it = |slot: &u32| {
            let watch = &self.slots[*slot as usize];
            watch.path.as_path() == path && *watch.token == *token
        };
        self.by_name.find(self.hasher.hash_one((path, token)), is_it).copied()
    }

    /// Returns whether a watch with this path and token is set.
    pub fn contains(&self, path: Path<'_>, token: &[u8]) -> bool {
        self.find(path, token).is_some()
    }

    fn find_group(&self, path: Path<'_>, has_depth: bool) -> Option<u32> {
        let is_it = |group: &u32| {
            let watch = self.first_of(*group);
            watch.path.as_path() == path && watch.depth.is_some() == has_depth
        };
        self.by_path.find(self.hasher.hash_one((path, has_depth)), is_it).copied()
    }

    fn first_of(&self, group: u32) -> &Watch {
        &self.slots[self.groups[group as usize].slots[0] as usize]
    }

    /// Adds a watch. Returns the watch's name and its group.
    pub fn insert(&mut self, mut watch: Watch) -> (WatchId, GroupSummary<'_>) {
        let (seq, depth, has_depth) = (watch.seq, watch.depth, watch.depth.is_some());
        let group = self.find_group(watch.path.as_path(), has_depth);
        if let Some(group) = group {
            watch.path = Arc::clone(&self.first_of(group).path);
        }
        let path = Arc::clone(&watch.path);
        let (slots, hasher) = (&mut self.slots, &self.hasher);
        let by_name = |watch: &Watch| hasher.hash_one((watch.path.as_path(), &*watch.token));
        let name_hash = by_name(&watch);
        let slot = as_slot(slots.insert(watch));
        let slots = &self.slots;
        self.by_name.insert_unique(name_hash, slot, |&slot| by_name(&slots[slot as usize]));
        let group = match group {
            Some(group) => {
                let known = &mut self.groups[group as usize];
                // Numbers rise, so the slots stay sorted by them.
                known.slots.push(slot);
                known.depth = known.depth.max(depth);
                group
            }
            None => {
                let slots_of_it = SmallVec::from_slice(&[slot]);
                let group = Group { slots: slots_of_it, depth, birth: seq, deferral: None };
                let group = as_slot(self.groups.insert(group));
                let (groups, path_hash) =
                    (&self.groups, hasher.hash_one((path.as_path(), has_depth)));
                self.by_path.insert_unique(path_hash, group, |&group| {
                    let watch = &slots[groups[group as usize].slots[0] as usize];
                    hasher.hash_one((watch.path.as_path(), watch.depth.is_some()))
                });
                group
            }
        };
        self.order.push((seq, slot));
        self.generation = seq;
        (WatchId { slot, seq }, self.summary(group))
    }

    /// Removes a watch, and sets the list's generation. Returns the watch, its group's slot, and the rest of the group.
    pub fn remove(
        &mut self,
        path: Path<'_>,
        token: &[u8],
        generation: u64,
    ) -> Option<(Watch, u32, Option<GroupSummary<'_>>)> {
        let slot = self.find(path, token)?;
        let has_depth = self.slots[slot as usize].depth.is_some();
        let group = self.find_group(path, has_depth)?;
        let name_hash = self.hasher.hash_one((path, token));
        if let Ok(entry) = self.by_name.find_entry(name_hash, |&other| other == slot) {
            entry.remove();
        }
        let slots = &mut self.groups[group as usize].slots;
        // The order within the group is that of the numbers, on which `next_deferred` relies.
        slots.retain(|other| *other != slot);
        let is_last = slots.is_empty();
        if is_last {
            let path_hash = self.hasher.hash_one((path, has_depth));
            if let Ok(entry) = self.by_path.find_entry(path_hash, |&other| other == group) {
                entry.remove();
            }
            self.groups.remove(group as usize);
        }
        let watch = self.slots.remove(slot as usize);
        self.generation = generation;
        let most = 2 * self.slots.len() + GONE_MAX;
        if self.order.len() > most || self.deferred.len() > most {
            self.forget_gone();
        }
        Some((watch, group, (!is_last).then(|| self.summary(group))))
    }

    fn summary(&self, group: u32) -> GroupSummary<'_> {
        let Group { slots, depth, .. } = &self.groups[group as usize];
        let newest = &self.slots[slots[slots.len() - 1] as usize];
        GroupSummary {
            group,
            path: newest.path.as_path(),
            seq: newest.seq,
            depth: *depth,
            watches: u16::try_from(slots.len()).unwrap_or(u16::MAX),
        }
    }

    /// Returns all groups.
    pub fn groups(&self) -> impl Iterator<Item = GroupSummary<'_>> {
        self.groups.iter().map(|(group, _)| self.summary(as_slot(group)))
    }

    /// Returns the watched path of a group, the number of its watches, and their charge in the quota `memory`. Cost:
    /// that number.
    pub fn charges(&self, group: u32) -> (Arc<PathBuf>, u64, u64) {
        let slots = &self.groups[group as usize].slots;
        let bytes = slots.iter().map(|&slot| self.slots[slot as usize].charge_bytes()).sum();
        (Arc::clone(&self.first_of(group).path), slots.len() as u64, bytes)
    }

    fn forget_gone(&mut self) {
        let slots = &self.slots;
        // The slot may have been reused: only the number identifies the watch.
        let is_there =
            |seq, slot: u32| slots.get(slot as usize).is_some_and(|watch: &Watch| watch.seq == seq);
        self.order.retain(|&(seq, slot)| is_there(seq, slot));
        let groups = &self.groups;
        let is_group =
            |group: u32, birth| groups.get(group as usize).is_some_and(|it| it.birth == birth);
        self.deferred.retain(|&(group, birth)| is_group(group, birth));
    }

    /// Returns the watches in the order in which they were set, from `index` on. Cost: linear in the returned watches;
    /// the first time after removals, in all watches.
    pub fn in_order(&mut self, index: usize) -> impl Iterator<Item = &Watch> {
        // Stale entries would shift the index.
        if self.order.len() > self.slots.len() {
            self.forget_gone();
        }
        let order = self.order.get(index..).unwrap_or_default();
        order.iter().filter_map(|&(_, slot)| self.slots.get(slot as usize))
    }

    /// Returns a watch that is still set.
    pub fn get(&self, id: WatchId) -> Option<&Watch> {
        self.slots.get(id.slot as usize).filter(|watch| watch.seq == id.seq)
    }

    /// Returns the watches of a group that an event concerns, in the order in which they were set: those numbered up to
    /// `seq` whose depth reaches the change.
    pub fn notified<'w>(
        &'w self,
        group: u32,
        seq: u64,
        changed: Changed<'w>,
    ) -> impl Iterator<Item = WatchId> + use<'w> {
        // The group may be gone. A later one in the same slot has only watches with greater numbers.
        let slots = self.groups.get(group as usize).map_or(&[][..], |group| &group.slots);
        let watches = slots.iter().map(|&slot| (slot, &self.slots[slot as usize]));
        // A later number means that the watch was set after the commit, whose event it must not get.
        let watches = watches.filter(move |(_, watch)| watch.seq <= seq && watch.reaches(changed));
        watches.map(|(slot, watch)| WatchId { slot, seq: watch.seq })
    }

    /// Defers an event with the watched path for which there is no room, for those of [`Watches::notified`] numbered
    /// above `after`. Returns whether this notifies any watch that would not be notified otherwise. Cost: constant.
    pub fn defer(&mut self, group: u32, seq: u64, changed: Changed<'_>, after: u64) -> bool {
        let Some(known) = self.groups.get_mut(group as usize) else { return false };
        // The event is that of an earlier group in the same slot.
        if known.birth > seq {
            return false;
        }
        let path = self.slots[known.slots[0] as usize].path.as_path();
        let levels = levels_below(changed, path.bytes());
        match &mut known.deferral {
            Some(deferral) => deferral.add(seq, levels),
            None => {
                known.deferral = Some(Deferral::new(seq, levels, after));
                self.deferred.push_back((group, known.birth));
                true
            }
        }
    }

    /// Returns whether events are deferred: then later ones are deferred too, or they would overtake them.
    pub fn has_deferred(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// Takes the next watch with a deferred event. Cost: constant, except for watches on the same path whose depth does
    /// not reach the change.
    pub fn next_deferred(&mut self) -> Option<WatchId> {
        while let Some(&(group, birth)) = self.deferred.front() {
            let known = self.groups.get_mut(group as usize).filter(|known| known.birth == birth);
            if let Some(Group { slots, deferral: Some(deferral), .. }) = known {
                let watches = &self.slots;
                let first =
                    slots.partition_point(|&slot| watches[slot as usize].seq <= deferral.after());
                let next = slots[first..].iter().find_map(|&slot| {
                    let Watch { seq, depth, .. } = watches[slot as usize];
                    deferral.concerns(seq, depth).then_some(WatchId { slot, seq })
                });
                if let Some(id) = next {
                    deferral.advance(id.seq);
                    return Some(id);
                }
            }
            self.finish_deferral();
        }
        None
    }

    /// Ends the round of the first group, all of whose watches have been notified.
    fn finish_deferral(&mut self) {
        let Some((group, birth)) = self.deferred.pop_front() else { return };
        let known = self.groups.get_mut(group as usize).filter(|known| known.birth == birth);
        let Some(known) = known else { return };
        known.deferral = known.deferral.take().and_then(Deferral::next_round);
        if known.deferral.is_some() {
            // At the end, so that a path that changes all the time does not starve the others.
            self.deferred.push_back((group, birth));
        }
    }

    /// Takes all watches, and sets the list's generation.
    pub fn take(&mut self, generation: u64) -> Watches {
        std::mem::replace(self, Watches::new(generation))
    }

    /// Returns all watches, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Watch> {
        self.slots.iter().map(|(_, watch)| watch)
    }
}

/// Returns how many levels below the watched path a change is.
fn levels_below(changed: Changed<'_>, watched: &[u8]) -> usize {
    match changed {
        Changed::Below(levels) => levels,
        Changed::Path(path) => {
            // The changed path is the watched one, or below it.
            let rest = path.get(watched.len()..).unwrap_or_default();
            rest.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).count()
        }
    }
}

/// Quotas and memory limit the slots far below this type's range.
fn as_slot(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

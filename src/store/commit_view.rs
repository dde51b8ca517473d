//! A commit as watchers see it: each watcher sees only the changes that permissions let it see.

use std::cell::{LazyCell, OnceCell};
use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

use super::access_set::AccessSet;
use super::context::Change;
use super::forest::Locked;
use super::looks::{Budget, NAME_LOOKS, TABLE_LOOKS, WATCH_LOOKS, looks_of};
use super::node::NodeArc;
use super::recipients::{ChangePerms, Recipients};
use super::removed_watches::RemovedWatches;
use super::shards::Shard;
use super::tree::find;
use super::unmatched::Snapshot;
use crate::domain::Registry;
use crate::types::{Layout, Partition, Path, ShardId};
use crate::watch::{Entries, Entry, Event, Matched, Matches, Nearest, Trie, matches_of};

/// Maximum number of changes of a guest's commit for which a watch gets an event each; the others collapse into one
/// last event with the watch's own path. A guest's commit has up to 1,024 changes, and a watch above all of them
/// matches each: without this bound, other guests' watches would determine how long the commit holds its locks. A
/// device has fewer nodes, so its watchers see each change.
pub const REPORTED_MAX: u32 = 16;
/// After this many events of a guest's commit, no more of its changes are reported one by one: guests that watch each
/// level of a path make every change match many watches.
const REPORTED_EVENTS_MAX: usize = 4096;
/// Maximum number of bytes of paths that the control domain's watches still get by name after these limits, from one
/// guest's commit: its kernel learns of backends only by name. The paths of one backend have fewer bytes. The bound
/// keeps one guest from filling the limit on this kernel's unread events, which all guests share.
pub const NAMED_BYTES_MAX: u64 = 64 << 10;

/// The number of levels found for an earlier change, which are only passed, that count as a look.
const LEVELS_PER_LOOK: usize = 4;

/// Access to locked shards, independent of the locks' lifetime.
pub trait LockedShards {
    /// Returns a shard if it is locked.
    fn get(&self, shard: ShardId) -> Option<&Shard>;
}

impl LockedShards for Locked<'_> {
    fn get(&self, shard: ShardId) -> Option<&Shard> {
        self.shard(shard)
    }
}

/// The source of a commit's watches and nodes.
pub enum Source<'a> {
    /// The shards, with the commit's locks held.
    Locked(&'a (dyn LockedShards + 'a)),
    /// The state of the shards when the locks were released.
    Snapshot(&'a Snapshot),
}

impl<'a> Source<'a> {
    /// Returns the watches of one of the commit's shards.
    pub fn watches(&self, shard: ShardId) -> Option<&'a Trie> {
        match self {
            Source::Locked(shards) => shards.get(shard).map(|shard| &shard.watches),
            Source::Snapshot(snapshot) => snapshot.watches(shard),
        }
    }

    fn root(&self, partition: &Partition<'_>) -> Option<&'a NodeArc> {
        match self {
            Source::Locked(shards) => shards.get(partition.shard)?.tree.root(partition),
            Source::Snapshot(snapshot) => snapshot.root(partition),
        }
    }
}

/// The events of a commit's first changes.
#[derive(Default)]
pub struct Found {
    pub events: Vec<Event>,
    /// The number of these changes.
    pub changes: usize,
}

/// A commit whose events are being collected.
pub struct CommitView<'a> {
    pub layout: Layout,
    pub registry: &'a Registry,
    pub source: Source<'a>,
    pub replaced: Option<&'a AccessSet>,
    pub changes: &'a [Change],
    /// Whether some changes removed nodes.
    pub removes: bool,
    /// Whether many changes that match one watch of a guest collapse into one event; true for a guest's commit.
    pub collapses: bool,
    /// The paths of `changes`, for [`CommitView::has_changed`].
    pub paths: OnceCell<HashSet<&'a [u8], RandomState>>,
    /// The global watch trie, if some of its watches may match.
    pub global: Option<&'a Trie>,
    /// The budget of looks. Once it is spent, the events of the current change are incomplete and must be discarded.
    pub budget: Budget,
    /// The remaining bytes for the control domain's watches of paths of changes beyond [`REPORTED_MAX`].
    pub names: Budget,
}

/// The position of the previous change in the tries, where the search for the next change starts.
#[derive(Default)]
pub struct WatchCursors<'a> {
    own: Matches<'a, 'a>,
    global: Matches<'a, 'a>,
    /// By the address of a watched path's entries, which stay in place during the search. Used only in commits that
    /// may collapse.
    reported: Option<HashMap<*const Entries, Reported<'a>, RandomState>>,
}

/// The progress in notifying the watches on one path.
#[derive(Default)]
struct Reported<'a> {
    changes: u32,
    /// The entries that later changes may still concern; `None` until the first change that is not reported one by one.
    open: Option<Vec<OpenEntry<'a>>>,
}

/// An entry that has not collapsed, or that may have watches with a depth smaller than the level of the nearest
/// change so far.
struct OpenEntry<'a> {
    entry: &'a Entry,
    /// The depth of the entry's last event, once the entry has collapsed.
    nearest: Option<Nearest>,
}

impl OpenEntry<'_> {
    /// Notifies the entry of a change that it reaches. Returns whether later changes may still concern it.
    fn collapse(
        &mut self,
        levels: impl Fn() -> usize,
        recipients: &mut Recipients<'_>,
        perms: ChangePerms<'_>,
        names: &Budget,
    ) -> bool {
        let Some(nearest) = &self.nearest else {
            let nearest = self.entry.depth.map(|_| Nearest::new(levels()));
            if !recipients.collapse(self.entry, perms, names, nearest.clone()) {
                return true;
            }
            // At distance 0 no later change can be nearer, so the entry is done.
            self.nearest = nearest.filter(|nearest| nearest.levels() > 0);
            return self.nearest.is_some();
        };
        if recipients.may_know(self.entry, perms) {
            nearest.add(levels());
        }
        nearest.levels() > 0
    }
}

impl<'a> Reported<'a> {
    /// Notifies the watches that a change matches. Cost: the entries, without those that collapsed and have no depth.
    fn report(
        &mut self,
        matched: &Matched<'a, '_>,
        recipients: &mut Recipients<'_>,
        perms: ChangePerms<'_>,
        view: &CommitView<'_>,
    ) {
        self.changes += 1;
        if self.changes <= REPORTED_MAX && recipients.found() < REPORTED_EVENTS_MAX {
            return report_each(matched, recipients, perms, &view.budget);
        }
        let entries = || matched.entries.iter().map(|entry| OpenEntry { entry, nearest: None });
        let open = self.open.get_or_insert_with(|| entries().collect());
        if view.budget.take(open.len() * WATCH_LOOKS) {
            open.retain_mut(|open| {
                !matched.reaches(open.entry)
                    || open.collapse(|| matched.levels(), recipients, perms, &view.names)
            });
        }
    }
}

/// Notifies all watches on a path that a change matches, one by one.
fn report_each(
    matched: &Matched<'_, '_>,
    recipients: &mut Recipients<'_>,
    perms: ChangePerms<'_>,
    budget: &Budget,
) {
    let entries = matched.entries.iter().take_while(|_| budget.take(WATCH_LOOKS));
    for entry in entries.filter(|entry| matched.reaches(entry)) {
        recipients.notify(entry, perms);
    }
}

impl<'a> CommitView<'a> {
    /// Returns the watches of the path's shard, if the commit locked it.
    pub fn watches(&self, path: Path<'_>) -> Option<&'a Trie> {
        self.source.watches(self.layout.partition(path).shard)
    }

    /// Returns the node at `path` before the transaction; the outer `None` means that no transaction changed it.
    fn before(&self, path: Path<'_>) -> Option<Option<&NodeArc>> {
        let replaced = self.replaced?;
        self.budget.take(looks_of(path));
        let partition = self.layout.partition(path);
        replaced.base(&partition).map(|root| find(root, &partition, path).node())
    }

    /// Returns whether `path`, which a change concerns, exists now.
    fn is_there(&self, path: Path<'_>) -> bool {
        // What an operation wrote exists unless an operation of the same commit removed something.
        if !self.removes {
            return true;
        }
        self.budget.take(looks_of(path));
        let partition = self.layout.partition(path);
        find(self.source.root(&partition), &partition, path).node().is_some()
    }

    /// Returns whether `path` existed only within the transaction. Cost: twice the depth of the path.
    pub fn never_was(&self, path: Path<'_>) -> bool {
        self.before(path).is_some_and(|before| before.is_none()) && !self.is_there(path)
    }

    /// Returns whether `path` has a change of its own, by which its watches are notified: once, also if the node was
    /// removed with an ancestor and created again.
    pub fn has_changed(&self, path: Path<'_>) -> bool {
        let paths = || {
            self.budget.take(self.changes.len() * TABLE_LOOKS);
            self.changes.iter().map(|change| change.path.as_path().bytes()).collect()
        };
        self.paths.get_or_init(paths).contains(path.bytes())
    }

    /// Returns the permissions that decide which domains may see the change; `None` if the path existed only within a
    /// transaction, which no domain may see (XSA-115).
    fn perms<'c>(&'c self, change: &'c Change) -> Option<ChangePerms<'c>> {
        let path = change.path.as_path();
        let (before, after) = match self.before(path) {
            None => (change.before.as_ref(), Some(&change.after)),
            Some(before) => {
                let after = Some(&change.after).filter(|_| self.is_there(path));
                (before.map(|node| &node.perms), after)
            }
        };
        (before.is_some() || after.is_some()).then_some([before, after, change.parent.as_ref()])
    }

    /// Adds the events of the changes that `found` lacks, in the order of the changes, as far as the budget allows.
    /// Returns whether it suffices. If it does not, the next search of a commit whose changes collapse begins anew, so
    /// nothing is kept.
    pub fn find(&self, found: &mut Found) -> bool {
        let mut cursors = WatchCursors::default();
        let Found { events, changes } = found;
        for change in &self.changes[*changes..] {
            let start = events.len();
            self.matches(change, &mut cursors, events);
            let unsorted = &mut events[start..];
            // Half a look for each comparison.
            let depth = unsorted.len().checked_ilog2().unwrap_or(0) as usize;
            if !self.budget.take(1 + unsorted.len() * depth / 2) || self.budget.is_spent() {
                events.truncate(start);
                if self.collapses {
                    // The counts of reported changes are in `cursors`, which end here: from a later change on, the
                    // limits would start anew.
                    *found = Found::default();
                }
                return false;
            }
            // A stable sort, which is fast here: the events of each watched path come as a sorted run.
            unsorted.sort_by_key(order);
            *changes += 1;
        }
        true
    }

    /// Adds the events of one change. If the budget runs out, the events are incomplete.
    fn matches<'c>(
        &'c self,
        change: &'c Change,
        cursors: &mut WatchCursors<'c>,
        found: &mut Vec<Event>,
    ) {
        let path = change.path.as_path();
        // Computed only at the first match: most changes match no watch.
        let perms = LazyCell::new(|| self.perms(change));
        let mut recipients = Recipients::new(self.registry, path, &self.budget, found);
        // A commit of fewer changes needs no table of counters: no watch can match more than `REPORTED_MAX` of them.
        let collapses = self.collapses && self.changes.len() > REPORTED_MAX as usize;
        let WatchCursors { own, global, reported } = cursors;
        let mut report = |matched: &Matched<'c, '_>| {
            let Some(perms) = *perms else { return };
            if collapses {
                let reported = reported.get_or_insert_default();
                let reported = reported.entry(std::ptr::from_ref(matched.entries)).or_default();
                reported.report(matched, &mut recipients, perms, self);
            } else {
                report_each(matched, &mut recipients, perms, &self.budget);
            }
        };
        let own = self.source.watches(change.shard).map(|watches| (own, watches));
        for (cursor, watches) in own.into_iter().chain(self.global.map(|watches| (global, watches)))
        {
            // One name more than the budget admits, so that a search that stops there also spends the budget.
            let max = self.budget.exceeded_by(NAME_LOOKS);
            let (passed, looked_up) = match self.changes {
                // A single change has no neighbour from which to go on.
                [_] => {
                    let found = |matched: &Matched<'c, '_>| {
                        report(matched);
                        !self.budget.is_spent()
                    };
                    (0, matches_of(watches, path, max, found))
                }
                _ => cursor.of(watches, path, max, &mut report),
            };
            self.budget.take(looked_up * NAME_LOOKS + passed / LEVELS_PER_LOOK);
        }
        if change.removes() && perms.is_some() {
            RemovedWatches::of(self, change).report(found);
        }
    }
}

/// The order of events of one change: a connection is notified in the order in which it set its watches.
pub fn order(event: &Event) -> (u16, u32, u64) {
    (event.watcher.thread, event.watcher.connection, event.watcher.seq)
}

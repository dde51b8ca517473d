//! The watches of one connection.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use slab::Slab;

use crate::words::PathBuf;

/// A watch as the client set it.
pub struct Watch {
    /// What it watches.
    pub path: PathBuf,
    /// The client's own name for it, echoed in events.
    pub token: Box<[u8]>,
    /// How many bytes of a path are left out in its events: `/local/domain/<n>/` if the client
    /// wrote the path as a relative one.
    pub prefix_len: usize,
    /// See [`crate::watch::Entry::depth`].
    pub depth: Option<u16>,
    /// See [`crate::watch::Watcher::seq`].
    pub seq: u64,
}

impl Watch {
    /// A path as the client sees it.
    pub fn shown<'p>(&self, path: &'p [u8]) -> &'p [u8] {
        path.get(self.prefix_len..).unwrap_or(path)
    }

    /// What it is charged with in the quota `memory`.
    pub fn charge_bytes(&self) -> u64 {
        (size_of::<Watch>() + self.path.as_path().bytes().len() + self.token.len()) as u64
    }
}

/// Watches by place, by path and token, and in the order in which they were set; adding, finding and
/// removing cost the same however many there are.
#[derive(Default)]
pub struct Watches {
    slots: Slab<Watch>,
    by_name: HashMap<(PathBuf, Box<[u8]>), usize, RandomState>,
    /// Number and place of each, oldest first, among those of some that are gone.
    order: Vec<(u64, usize)>,
    generation: u64,
}

/// So many entries of watches that are gone may be kept in the order, and as many as there are
/// watches; then all are dropped at once, at a cost that their removals have earned.
const GONE_MAX: usize = 16;

impl Watches {
    /// No watches yet. `generation` is what [`Watches::generation`] answers, and like all such
    /// numbers not used twice.
    pub fn new(generation: u64) -> Watches {
        Watches { generation, ..Watches::default() }
    }

    /// A number that changes with the list.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether a watch with this path and token is set.
    pub fn contains(&self, path: &PathBuf, token: &[u8]) -> bool {
        self.by_name.contains_key(&(path.clone(), token.into()))
    }

    /// Adds a watch and answers its place.
    pub fn insert(&mut self, watch: Watch) -> usize {
        let name = (watch.path.clone(), watch.token.clone());
        let seq = watch.seq;
        let slot = self.slots.insert(watch);
        self.by_name.insert(name, slot);
        self.order.push((seq, slot));
        self.generation = seq;
        slot
    }

    /// Takes a watch out; `generation` is the list's from now on.
    pub fn remove(
        &mut self,
        path: PathBuf,
        token: &[u8],
        generation: u64,
    ) -> Option<(usize, Watch)> {
        let slot = self.by_name.remove(&(path, token.into()))?;
        let watch = self.slots.remove(slot);
        self.generation = generation;
        if self.order.len() > 2 * self.slots.len() + GONE_MAX {
            self.forget_gone();
        }
        Some((slot, watch))
    }

    fn forget_gone(&mut self) {
        let slots = &self.slots;
        self.order.retain(|&(seq, slot)| slots.get(slot).is_some_and(|watch| watch.seq == seq));
    }

    /// The watches in the order in which they were set, from the one at `index` on. Cost: those that
    /// are looked at, and once after removals the number of all.
    pub fn in_order(&mut self, index: usize) -> impl Iterator<Item = &Watch> {
        if self.order.len() > self.slots.len() {
            self.forget_gone();
        }
        let order = self.order.get(index..).unwrap_or_default();
        order.iter().filter_map(|&(_, slot)| self.slots.get(slot))
    }

    /// The watch at a place, if it is still the one of this number.
    pub fn get(&self, slot: u32, seq: u64) -> Option<&Watch> {
        self.slots.get(slot as usize).filter(|watch| watch.seq == seq)
    }

    /// All watches with their places.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Watch)> {
        self.slots.iter()
    }

    /// Takes all watches out; `generation` is the list's from now on.
    pub fn take(&mut self, generation: u64) -> Watches {
        std::mem::replace(self, Watches::new(generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Path;

    fn watch(seq: u64) -> Watch {
        let token = seq.to_string().into_bytes().into();
        Watch { path: Path::ROOT.to_buf(), token, prefix_len: 0, depth: None, seq }
    }

    fn listed(watches: &mut Watches, index: usize) -> Vec<u64> {
        watches.in_order(index).map(|watch| watch.seq).collect()
    }

    #[test]
    fn the_list_is_in_the_order_of_setting_whatever_was_removed() {
        let mut watches = Watches::new(1);
        for seq in 2..102 {
            watches.insert(watch(seq));
        }
        for seq in 2..100 {
            let token = seq.to_string();
            assert!(watches.remove(Path::ROOT.to_buf(), token.as_bytes(), 200 + seq).is_some());
            assert!(watches.order.len() <= 2 * watches.len() + GONE_MAX);
        }
        assert_eq!(watches.generation(), 299);
        // Its place is that of one which is gone.
        watches.insert(watch(300));
        assert_eq!(listed(&mut watches, 0), [100, 101, 300]);
        assert_eq!(listed(&mut watches, 2), [300]);
        assert_eq!(listed(&mut watches, 3), [0; 0]);
        assert_eq!(listed(&mut watches, usize::MAX), [0; 0]);
        assert_eq!(watches.take(301).len(), 3);
        assert_eq!((watches.generation(), watches.len()), (301, 0));
    }
}

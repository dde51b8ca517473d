//! The watches set on one path.

use smallvec::SmallVec;

use crate::types::Domid;

/// Identifies the watches of one connection on one path, and the thread that serves it. The watches may no longer exist
/// when an event arrives: `seq` is never reused, so an event finds only watches that were set when it was caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watcher {
    /// The thread that serves the connection.
    pub thread: u16,
    /// The connection's slot on that thread.
    pub connection: u32,
    /// The path's slot among those that the connection watches.
    pub group: u32,
    /// The number of the newest of these watches. Numbers increase with every watch set on the thread.
    pub seq: u64,
}

/// The part of a [`Watcher`] that identifies a connection and path: without `seq`, which changes with each new watch.
type Key = (u16, u32, u32);

impl Watcher {
    fn key(self) -> Key {
        (self.thread, self.connection, self.group)
    }
}

/// The watches of one connection on one path, in a trie. A change takes one look at all of them, regardless of their
/// number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The watches to notify.
    pub watcher: Watcher,
    /// The domain whose permissions decide whether they are notified.
    pub domid: Domid,
    /// Number of levels below the path that the deepest of the watches reaches; `None` for all (xenstore.txt, WATCH).
    pub depth: Option<u16>,
    /// The number of watches; counts above 65,535 saturate.
    pub watches: u16,
}

/// The number of entries above which they are in a persistent map. Every domain may watch `@releaseDomain`, and a
/// change while a reader holds the trie must not copy all of them: with a vector a WATCH of it at 3,000 domains took
/// 67,633 instructions, with the map 5,234.
const FEW_MAX: usize = 32;

/// The watches set on one path, by connection.
#[derive(Clone)]
pub enum Entries {
    /// At most `FEW_MAX` connections. Most watched paths have one, which needs no allocation.
    Few(SmallVec<[Entry; 1]>),
    /// More than `FEW_MAX` connections; it stays a map when there are fewer again.
    Many(Box<im::OrdMap<Key, Entry>>),
}

impl Default for Entries {
    fn default() -> Entries {
        Entries::Few(SmallVec::new())
    }
}

impl Entries {
    /// Returns all entries, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        let (few, many) = match self {
            Entries::Few(few) => (Some(few), None),
            Entries::Many(many) => (None, Some(many)),
        };
        let few = few.into_iter().flatten();
        few.chain(many.into_iter().flat_map(|many| many.values()))
    }

    /// Returns whether there are no entries.
    pub fn is_empty(&self) -> bool {
        match self {
            Entries::Few(few) => few.is_empty(),
            Entries::Many(many) => many.is_empty(),
        }
    }

    /// Adds an entry, or replaces that of the same connection and path; returns whether it is new.
    pub(super) fn insert(&mut self, entry: Entry) -> bool {
        let key = entry.watcher.key();
        match self {
            Entries::Few(few) => {
                if let Some(known) = few.iter_mut().find(|known| known.watcher.key() == key) {
                    *known = entry;
                    return false;
                }
                if few.len() < FEW_MAX {
                    few.push(entry);
                } else {
                    let all = few.drain(..).chain([entry]);
                    let map = all.map(|entry| (entry.watcher.key(), entry)).collect();
                    *self = Entries::Many(Box::new(map));
                }
                true
            }
            Entries::Many(many) => many.insert(key, entry).is_none(),
        }
    }

    /// Removes the entry of a connection; returns `false` if it has none, or if newer watches replaced these.
    pub(super) fn remove(&mut self, watcher: Watcher) -> bool {
        match self {
            Entries::Few(few) => {
                let at = few.iter().position(|entry| entry.watcher == watcher);
                at.map(|at| few.remove(at)).is_some()
            }
            Entries::Many(many) => {
                let key = watcher.key();
                let is_it = many.get(&key).is_some_and(|entry| entry.watcher == watcher);
                is_it && many.remove(&key).is_some()
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn removing_an_old_watch_keeps_a_newer_one_of_its_slot() {
        for others in [0, 2 * FEW_MAX as u64] {
            let mut entries = Entries::default();
            (0..others).for_each(|seq| _ = entries.insert(entry(1000 + seq, None)));
            let older = entry(1, None);
            let newer = Entry { watcher: Watcher { seq: 5, ..older.watcher }, ..older };
            assert!(entries.insert(older) && !entries.insert(newer));
            assert!(!entries.remove(older.watcher), "beside {others}");
            assert!(entries.remove(newer.watcher) && !entries.remove(newer.watcher));
        }
    }

    /// Returns the entry of one watch.
    pub fn entry(seq: u64, depth: Option<u16>) -> Entry {
        let group = u32::try_from(seq).unwrap();
        let watcher = Watcher { thread: 0, connection: 0, group, seq };
        Entry { watcher, domid: Domid(1), depth, watches: 1 }
    }
}

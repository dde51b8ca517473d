//! The global watch trie: watches that changes in any shard may match.

use super::{Entry, Trie, Watcher};
use crate::sync::{Arc, AtomicU32, Mutex, Ordering, room_for};
use crate::types::{DOMAINS, Path};

/// The number of counters that domains share. A watch on one domain makes writes to the domains that share its counter
/// load the trie, and has no other cost.
const DOMAIN_PLACES: u16 = 64;

/// Watches on paths that can have partitions below them, and on special paths.
///
/// A writer loads the trie inside its exclusive section, so a watch set before that section began is seen, and one
/// set during it is ordered after the write.
///
/// Most writes concern domains that no watch here may match. Counters that only watches change show that; loading the
/// trie would make all threads write the cache lines of its lock and reference count. A writer that misses a watch's
/// counter is ordered before the watch: to read the written data, the watch's owner must take the writer's lock.
pub struct GlobalTrie {
    // Locked to clone the pointer or to change the trie: in place, or copy-on-write while a reader holds it. Cloning
    // and changing take a few microseconds at most.
    current: Mutex<Arc<Trie>>,
    /// The number of entries by [`GlobalTrie::place`]. A counter is raised before an entry is added and lowered after
    /// it was removed, under the lock, so it never misses one.
    counts: Box<[AtomicU32]>,
}

impl Default for GlobalTrie {
    fn default() -> GlobalTrie {
        let counts = (0..=room_for(DOMAIN_PLACES)).map(|_| AtomicU32::new(0)).collect();
        GlobalTrie { current: Mutex::default(), counts }
    }
}

impl GlobalTrie {
    /// Returns whether there may be watches on `path` or an ancestor. Cost: two loads.
    pub fn may_match(&self, path: Path<'_>) -> bool {
        let some = |place: usize| self.counts[place].load(Ordering::Acquire) > 0;
        path.is_special() || some(0) || some(self.place(path))
    }

    /// Returns the counter for watches on `path`: that of the domain at or above the path, the first if there is
    /// none. Watches on special paths are not counted, as all domains set them.
    fn place(&self, path: Path<'_>) -> usize {
        let Some(below) = path.bytes().strip_prefix(DOMAINS) else { return 0 };
        let domain = below.iter().take_while(|&&byte| byte != b'/');
        // Of any name and not only of domids, as `/local/domain/x` can be watched too.
        let number = domain.fold(0, |sum: usize, &byte| sum.wrapping_mul(10) + usize::from(byte));
        1 + number % (self.counts.len() - 1)
    }

    /// Returns a snapshot of the trie. Cost: a lock and a reference count that all threads share.
    pub fn load(&self) -> Arc<Trie> {
        Arc::clone(&self.current.lock())
    }

    /// Adds an entry, or replaces that of the same connection and path.
    pub fn insert(&self, path: Path<'_>, entry: Entry) {
        let mut current = self.current.lock();
        let count = (!path.is_special()).then(|| &self.counts[self.place(path)]);
        if let Some(count) = count {
            // Raised first: a writer that skips the trie because of this counter must not miss the entry.
            count.fetch_add(1, Ordering::Release);
        }
        // In place unless a reader holds it: copying each time took 2.6 times the instructions at 3,000 domains.
        let is_new = Arc::make_mut(&mut current).insert(path, entry);
        if let Some(count) = count.filter(|_| !is_new) {
            count.fetch_sub(1, Ordering::Release);
        }
    }

    /// Removes an entry; returns `false` if it does not exist.
    pub fn remove(&self, path: Path<'_>, watcher: Watcher) -> bool {
        let mut current = self.current.lock();
        let removed = Arc::make_mut(&mut current).remove(path, watcher);
        if removed && !path.is_special() {
            self.counts[self.place(path)].fetch_sub(1, Ordering::Release);
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::super::Matches;
    use super::*;

    fn entry(seq: u64) -> Entry {
        super::super::entries::tests::entry(seq, None)
    }

    #[test]
    fn may_match_is_true_for_every_matching_path() {
        let path = |text: &'static str| Path::parse(text.as_bytes()).unwrap();
        let watched = ["/", "/vm", "/local", "/local/domain", "/local/domain/7", "@releaseDomain"];
        let nested = ["/local/domain/0/backend", "/local/domain/0/backend/vif", "/local/domain/x"];
        let changed =
            ["/vm/a/b", "/local/domain/7/a", "/local/domain/0/backend/vif/7/0", "/local/domain/x"];
        for text in watched.into_iter().chain(nested) {
            let global = GlobalTrie::default();
            global.insert(path(text), entry(1));
            for other in watched.into_iter().chain(nested).chain(changed) {
                let mut matches = false;
                let trie = global.load();
                Matches::default().of(&trie, path(other), usize::MAX, |_| matches = true);
                assert!(!matches || global.may_match(path(other)), "{text} and {other}");
            }
            assert!(!global.remove(path(text), entry(2).watcher));
            assert!(global.remove(path(text), entry(1).watcher));
            assert!(global.counts.iter().all(|count| count.load(Ordering::Relaxed) == 0), "{text}");
        }
    }

    #[test]
    fn may_match_is_false_for_paths_watched_elsewhere() {
        let path = |text: &'static str| Path::parse(text.as_bytes()).unwrap();
        let global = GlobalTrie::default();
        for (seq, text) in (0..).zip(["@releaseDomain", "/local/domain/0/backend"]) {
            global.insert(path(text), entry(seq));
        }
        assert!(!global.may_match(path("/local/domain/7/data/a")));
        assert!(global.may_match(path("/local/domain/0/backend/vif/7/0")));
        global.insert(path("/local"), entry(3));
        assert!(global.may_match(path("/local/domain/7/data/a")));
    }
}

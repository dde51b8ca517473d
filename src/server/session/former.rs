//! Watches that are still in the tries although their connections have ended or were reset. Former watches are removed
//! in slices, since a guest may have enough of them to take tens of milliseconds. Events that they match meanwhile find
//! no watch and are dropped. The guest is charged for its former watches until they are removed.

use std::collections::VecDeque;

use crate::domain::{Domain, Quota};
use crate::store::Store;
use crate::sync::Arc;
use crate::types::PathBuf;
use crate::watch::Entry;

/// The bytes of paths removed in one pass: a few tenths of a millisecond. The watched paths of an ordinary guest have
/// fewer bytes in all.
const BYTES_PER_PASS: usize = 16 << 10;
/// The cost of removing a watched path in addition to its bytes, in bytes.
const PATH_COST: usize = 64;

/// A connection's watches on one path.
pub struct FormerGroup {
    /// The watched path.
    pub path: Arc<PathBuf>,
    /// The entry in the trie.
    pub entry: Entry,
    /// The domain charged for the watches.
    pub domain: Arc<Domain>,
    /// The number of watches.
    pub watches: u64,
    /// The watches' charge in the quota `memory`.
    pub charged_bytes: u64,
}

/// The former watches of a worker's connections, oldest first.
#[derive(Default)]
pub struct FormerWatches {
    groups: VecDeque<FormerGroup>,
    /// The number of groups ever added.
    added: u64,
}

impl FormerWatches {
    /// Adds the watches on one path. Returns a number for [`FormerWatches::are_out`].
    pub fn add(&mut self, group: FormerGroup) -> u64 {
        self.groups.push_back(group);
        self.added += 1;
        self.added
    }

    /// Returns whether all groups up to this number have left the tries.
    pub fn are_out(&self, number: u64) -> bool {
        // FIFO, so the groups that have left are the first ones.
        self.added - self.groups.len() as u64 >= number
    }

    /// Returns whether no group is left.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Returns the groups that are left.
    pub fn iter(&self) -> impl Iterator<Item = &FormerGroup> {
        self.groups.iter()
    }

    /// Removes the next slice from the tries, and releases its charges.
    pub fn take_out(&mut self, store: &Store) {
        let mut bytes = BYTES_PER_PASS;
        while bytes > 0
            && let Some(group) = self.groups.pop_front()
        {
            let path = group.path.as_path();
            bytes = bytes.saturating_sub(path.bytes().len() + PATH_COST);
            store.unwatch(path, group.entry.watcher);
            let account = &group.domain.account;
            account.release(Quota::Watches, group.watches);
            account.release(Quota::Memory, group.charged_bytes);
        }
    }
}

//! Watches that no connection has any more and that are still in the tries: they are taken out in slices, since a
//! guest may have as many as take tens of milliseconds. Events that they cause meanwhile find no watch. Their guest
//! is charged with them until they are out.

use std::collections::VecDeque;

use crate::domain::{Domain, Quota};
use crate::store::Store;
use crate::sync::Arc;
use crate::watch::Entry;
use crate::words::PathBuf;

/// What is taken out in one pass, in bytes of paths: a few tenths of a millisecond. Ordinary guests have less.
const BYTES_PER_PASS: usize = 16 << 10;
/// What a watched path costs beside its bytes, in these.
const PATH_COST: usize = 64;

/// The watches that a connection had on one path.
pub struct FormerGroup {
    /// The watched path.
    pub path: Arc<PathBuf>,
    /// How the trie knows them.
    pub entry: Entry,
    /// Is charged with them.
    pub domain: Arc<Domain>,
    /// How many they are.
    pub watches: u64,
    /// What they are charged with in the quota `memory`.
    pub charged_bytes: u64,
}

/// The former watches of a worker's connections, oldest first.
#[derive(Default)]
pub struct FormerWatches {
    groups: VecDeque<FormerGroup>,
    /// How many groups there ever were.
    added: u64,
}

impl FormerWatches {
    /// Adds the watches on one path; returns a number for [`FormerWatches::are_out`].
    pub fn add(&mut self, group: FormerGroup) -> u64 {
        self.groups.push_back(group);
        self.added += 1;
        self.added
    }

    /// Whether all up to that number are out of the tries.
    pub fn are_out(&self, number: u64) -> bool {
        self.added - self.groups.len() as u64 >= number
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// All that are left.
    pub fn iter(&self) -> impl Iterator<Item = &FormerGroup> {
        self.groups.iter()
    }

    /// Takes the next ones out of the tries.
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

//! Who changed what lately: only to explain conflicts.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

use crate::words::{Domid, Path};

/// How many changes of a shard are remembered: more than a transaction usually spans.
const CHANGES: usize = 256;

/// The last changes of a shard, by a hash of their path.
pub struct Recent {
    changes: Box<[(u64, Domid)]>,
    next: usize,
}

impl Recent {
    /// Nothing yet.
    pub fn new() -> Recent {
        Recent { changes: vec![(0, Domid::CONTROL); CHANGES].into(), next: 0 }
    }

    /// Remembers a change. Cost: the path's length.
    pub fn note(&mut self, path: Path<'_>, by: Domid) {
        self.changes[self.next] = (hash(path), by);
        self.next = (self.next + 1) % CHANGES;
    }

    /// Who changed `path` last.
    pub fn changed_by(&self, path: Path<'_>) -> Option<Domid> {
        let hash = hash(path);
        let (newer, older) = (&self.changes[..self.next], &self.changes[self.next..]);
        let mut latest_first = newer.iter().rev().chain(older.iter().rev());
        latest_first.find(|(other, _)| *other == hash).map(|(_, by)| *by)
    }
}

fn hash(path: Path<'_>) -> u64 {
    let mut hasher = FixedState::with_seed(1).build_hasher();
    hasher.write(path.bytes());
    // 0 marks a place without a change.
    hasher.finish() | 1
}

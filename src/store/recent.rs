//! The last changes and their authors, only to explain conflicts.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

use crate::types::{Domid, Path};

/// Number of a shard's changes that are remembered: more than a transaction usually spans.
pub const CHANGES: usize = 256;

/// The last changes of a shard in a ring buffer, by a hash of their path. A collision names the wrong domain in a
/// diagnosis and does no other harm.
pub struct Recent {
    /// Hashes, as guests choose the lengths of paths.
    changes: Box<[(u64, Domid)]>,
    next: usize,
}

impl Recent {
    /// Creates an empty buffer.
    pub fn new() -> Recent {
        Recent { changes: vec![(0, Domid::CONTROL); CHANGES].into(), next: 0 }
    }

    /// Records a change. Cost: the path's length.
    pub fn note(&mut self, path: Path<'_>, by: Domid) {
        self.changes[self.next] = (hash(path), by);
        self.next = (self.next + 1) % CHANGES;
    }

    /// Returns the domain that last changed `path`. Cost: a comparison for each recorded change.
    pub fn changed_by(&self, path: Path<'_>) -> Option<Domid> {
        let hash = hash(path);
        let (newer, older) = (&self.changes[..self.next], &self.changes[self.next..]);
        let mut latest_first = newer.iter().rev().chain(older.iter().rev());
        latest_first.find(|(other, _)| *other == hash).map(|(_, by)| *by)
    }
}

fn hash(path: Path<'_>) -> u64 {
    // The seed may be fixed: a guest that makes paths collide only spoils the explanation of a conflict.
    let mut hasher = FixedState::with_seed(1).build_hasher();
    hasher.write(path.bytes());
    // 0 marks an empty slot.
    hasher.finish() | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_writer_of_a_path_is_known_until_later_changes_evict_it() {
        let path = |text: &'static str| Path::parse(text.as_bytes()).unwrap();
        let mut recent = Recent::new();
        recent.note(path("/a"), Domid(1));
        recent.note(path("/b"), Domid(2));
        assert_eq!(recent.changed_by(path("/a")), Some(Domid(1)));
        assert_eq!(recent.changed_by(path("/c")), None);
        recent.note(path("/a"), Domid(3));
        assert_eq!(recent.changed_by(path("/a")), Some(Domid(3)));
        (1..CHANGES).for_each(|_| recent.note(path("/b"), Domid(2)));
        assert_eq!(recent.changed_by(path("/a")), Some(Domid(3)));
        recent.note(path("/b"), Domid(4));
        assert_eq!(recent.changed_by(path("/a")), None);
        assert_eq!(recent.changed_by(path("/b")), Some(Domid(4)));
    }
}

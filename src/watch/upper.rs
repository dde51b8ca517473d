//! The trie of the watches that concern every shard.

use super::{Entry, Trie, Watcher};
use crate::sync::{Arc, Mutex};
use crate::words::Path;

/// Watches on paths that can have homes below them, and on special paths.
///
/// A writer loads the trie inside its exclusive section. So a watch set before the section began
/// is seen, and one set meanwhile is ordered after the write.
#[derive(Default)]
pub struct Upper {
    // Held for a copy of the pointer, or for a change: of the trie in its place if nobody looks at
    // it, else of a copy of what the change touches. Either takes a few microseconds at most.
    current: Mutex<Arc<Trie>>,
}

impl Upper {
    /// The trie as it stands.
    pub fn load(&self) -> Arc<Trie> {
        Arc::clone(&self.current.lock())
    }

    /// Adds a watch.
    pub fn insert(&self, path: Path<'_>, entry: Entry) {
        Arc::make_mut(&mut self.current.lock()).insert(path, entry);
    }

    /// Takes a watch out; `false` if it is not there.
    pub fn remove(&self, path: Path<'_>, watcher: Watcher) -> bool {
        Arc::make_mut(&mut self.current.lock()).remove(path, watcher)
    }
}

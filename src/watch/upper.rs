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
    // Held for the copy of a pointer only; changes are made to a copy and put in its place.
    current: Mutex<Arc<Trie>>,
    // Serialises those who change it, so that nobody who only looks waits for a change.
    changing: Mutex<()>,
}

impl Upper {
    /// The trie as it stands.
    pub fn load(&self) -> Arc<Trie> {
        Arc::clone(&self.current.lock())
    }

    /// Adds a watch.
    pub fn insert(&self, path: Path<'_>, entry: Entry) {
        self.change(|trie| trie.insert(path, entry));
    }

    /// Takes a watch out; `false` if it is not there.
    pub fn remove(&self, path: Path<'_>, watcher: Watcher) -> bool {
        self.change(|trie| trie.remove(path, watcher))
    }

    fn change<R>(&self, change: impl FnOnce(&mut Trie) -> R) -> R {
        let _serial = self.changing.lock();
        let mut trie = Trie::clone(&self.load());
        let result = change(&mut trie);
        let new = Arc::new(trie);
        let _old = std::mem::replace(&mut *self.current.lock(), new);
        result
    }
}

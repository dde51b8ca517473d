//! Keeps tools apart that move domains between the same daemons.
//!
//! A move holds a shared lock on the directories of both daemons' migration sockets. A tool that gets
//! both exclusively knows that no other move is under way, so a domain between two states was left
//! there by one that ended: it may take that domain's import back. The kernel drops the locks of a
//! process that is killed.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;

/// The locks of a move.
pub struct Lock {
    /// None if one of the directories cannot be opened: such a move never is the only one.
    directories: Option<Vec<File>>,
}

impl Lock {
    /// Opens the directories of two sockets. Nothing is locked yet.
    pub fn of(sockets: [&Path; 2]) -> Lock {
        let mut directories: Vec<File> = Vec::new();
        for socket in sockets {
            let directory = socket.parent().and_then(|directory| File::open(directory).ok());
            let Some(directory) = directory else { return Lock { directories: None } };
            // A lock of the same directory by another descriptor would be in the way.
            if directories.iter().all(|known| identity(known) != identity(&directory)) {
                directories.push(directory);
            }
        }
        Lock { directories: Some(directories) }
    }

    /// Takes the locks exclusively, which is never waited for; if that fails, shared ones.
    pub fn take(&self) -> bool {
        let Some(directories) = &self.directories else { return false };
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        let is_alone = directories.iter().all(|directory| flock(directory, exclusive).is_ok());
        if !is_alone {
            self.share();
        }
        is_alone
    }

    /// Lets other moves begin. Waits for one that holds the locks exclusively, which waits for none.
    pub fn share(&self) {
        for directory in self.directories.iter().flatten() {
            // A file system without locks has no other tool that is kept out.
            let _ = retry_on_intr(|| flock(directory, FlockOperation::LockShared));
        }
    }
}

fn identity(file: &File) -> Option<(u64, u64)> {
    file.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exclusive_lock_is_had_by_one_and_not_beside_shared_ones() {
        let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let sockets = [0, 1, 1].map(|at| directories[at].path().join("socket"));
        let both = || Lock::of([&sockets[0], &sockets[1]]);
        let second = Lock::of([&sockets[1], &sockets[2]]);
        let first = both();
        assert!(first.take());
        first.share();
        assert!(!second.take(), "the first has shared ones");
        assert!(!first.take(), "the second has a shared one");
        drop(first);
        assert!(second.take());
        drop(second);
        assert!(both().take());
        let absent = Path::new("/nonexistent/socket");
        assert!(!Lock::of([absent, &sockets[0]]).take());
    }
}

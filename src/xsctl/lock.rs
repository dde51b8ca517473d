//! Mutual exclusion between xsctl processes that move domains between the same daemons.
//!
//! A move holds a shared lock on the directories of both daemons' migration sockets. A process that holds both
//! exclusively knows that no other move is in progress. A domain in an intermediate state was then left by a move that
//! has ended, so its import may be rolled back. The kernel releases the locks of a killed process.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;

use super::tunnel::{Address, Tunnel};

/// The locks of a move.
pub struct Lock {
    /// `None` if one of the directories cannot be opened; such a move never counts as the only one.
    directories: Option<Vec<File>>,
    /// The tunnels to daemons of other hosts, whose ends hold the locks there.
    tunnels: Vec<Arc<Tunnel>>,
}

impl Lock {
    /// Opens the directories of migration sockets without locking them.
    pub fn of<'a>(sockets: impl IntoIterator<Item = &'a Address>) -> Lock {
        let mut directories: Vec<File> = Vec::new();
        let mut tunnels = Vec::new();
        for socket in sockets {
            let directory = match socket {
                Address::Socket(path) => path.parent().and_then(|path| File::open(path).ok()),
                Address::Client(url) | Address::Migration(url) => match Tunnel::to(url) {
                    Ok(tunnel) => {
                        tunnels.push(tunnel);
                        continue;
                    }
                    Err(_) => None,
                },
            };
            let Some(directory) = directory else { return Lock { directories: None, tunnels } };
            // A second descriptor of the same directory would conflict with the lock on the first.
            if directories.iter().all(|known| identity(known) != identity(&directory)) {
                directories.push(directory);
            }
        }
        Lock { directories: Some(directories), tunnels }
    }

    /// Tries to take the locks exclusively, without waiting; otherwise takes them shared. Returns whether the locks are
    /// exclusive.
    pub fn take(&self) -> bool {
        let Some(directories) = &self.directories else { return false };
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        let is_alone = directories.iter().all(|directory| flock(directory, exclusive).is_ok())
            && self.tunnels.iter().all(|tunnel| tunnel.lock());
        if !is_alone {
            self.share();
        }
        is_alone
    }

    /// Downgrades the locks to shared, so that other moves can start. May wait for an exclusive holder, which never
    /// waits itself, so there is no deadlock.
    pub fn share(&self) {
        for directory in self.directories.iter().flatten() {
            // On a file system without locks, nothing is excluded.
            let _ = retry_on_intr(|| flock(directory, FlockOperation::LockShared));
        }
        self.tunnels.iter().for_each(|tunnel| tunnel.share());
    }

    /// Releases the locks.
    pub fn release(&self) {
        for directory in self.directories.iter().flatten() {
            // It also ends with the descriptor.
            let _ = flock(directory, FlockOperation::Unlock);
        }
        self.tunnels.iter().for_each(|tunnel| tunnel.release());
    }
}

/// The end of a tunnel outlives a lock, so each lock there is released explicitly.
impl Drop for Lock {
    fn drop(&mut self) {
        self.release();
    }
}

fn identity(file: &File) -> Option<(u64, u64)> {
    file.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusive_lock_excludes_exclusive_and_shared_ones() {
        let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let sockets = [0, 1, 1].map(|at| Address::Socket(directories[at].path().join("socket")));
        let both = || Lock::of([&sockets[0], &sockets[1]]);
        let second = Lock::of([&sockets[1], &sockets[2]]);
        let first = both();
        assert!(first.take());
        first.share();
        assert!(!second.take(), "the first has shared ones");
        assert!(!first.take(), "the second has a shared one");
        drop(first);
        assert!(second.take());
        second.release();
        assert!(both().take());
        let absent = Address::Socket("/nonexistent/socket".into());
        assert!(!Lock::of([&absent, &sockets[0]]).take());
    }
}

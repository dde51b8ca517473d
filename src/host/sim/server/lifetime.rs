//! When a host ends by itself.

use std::fs::symlink_metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Interval at which a host without a daemon checks whether it is of any use.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a host lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is stopped.
    UntilStopped,
    /// Until its daemon stops, or there has been no daemon, no client and no living guest for this time.
    UntilUnused(Duration),
}

impl Lifetime {
    /// The lifetime of a host that a daemon starts. A restart after a crash has a minute: a service manager restarts
    /// within seconds, also after it has written a core dump, and a person within a minute. A guest that lives extends
    /// the time, so this only bounds what hosts without guests leave behind, such as those of killed tests.
    pub const OF_A_DAEMON: Lifetime = Lifetime::UntilUnused(Duration::from_secs(60));
}

/// The file of the host's socket.
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode, which identify the file.
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    /// Identifies the socket that was bound at `path`.
    pub fn of(path: &Path) -> SocketFile {
        SocketFile { path: path.to_path_buf(), identity: identity(path) }
    }

    /// Returns whether the socket is where clients look for it. Costs a system call.
    pub fn is_there(&self) -> bool {
        self.identity.is_some() && identity(&self.path) == self.identity
    }
}

impl Drop for SocketFile {
    /// Removes the socket, but not another host's.
    fn drop(&mut self) {
        if self.is_there() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// The time without a daemon, a client or a living guest.
pub struct Unused {
    lifetime: Lifetime,
    since: Instant,
}

impl Unused {
    /// Begins at `now`.
    pub fn new(lifetime: Lifetime, now: Instant) -> Unused {
        Unused { lifetime, since: now }
    }

    /// Returns whether the host ends with its daemon.
    pub fn ends_with_daemon(&self) -> bool {
        self.lifetime != Lifetime::UntilStopped
    }

    /// Notes that the host is in use.
    pub fn used(&mut self, now: Instant) {
        self.since = now;
    }

    /// Returns whether the host has been unused for its lifetime. Only then asks whether a guest lives, which costs a
    /// look at each domain and, if one does, counts as use.
    pub fn is_over(&mut self, now: Instant, guest_lives: impl FnOnce() -> bool) -> bool {
        let Lifetime::UntilUnused(time) = self.lifetime else { return false };
        if now.duration_since(self.since) < time {
            return false;
        }
        let lives = guest_lives();
        if lives {
            self.since = now;
        }
        !lives
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_host_is_over_after_its_lifetime_unless_a_guest_lives() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut unused = Unused::new(Lifetime::UntilUnused(Duration::from_secs(60)), start);
        assert!(!unused.is_over(at(59), || panic!("asked too early")));
        assert!(!unused.is_over(at(60), || true));
        assert!(!unused.is_over(at(119), || panic!("asked too early")));
        unused.used(at(100));
        assert!(!unused.is_over(at(159), || panic!("asked too early")));
        assert!(unused.is_over(at(160), || false));
        let mut kept = Unused::new(Lifetime::UntilStopped, start);
        assert!(!kept.is_over(at(1_000_000), || false));
        assert!(unused.ends_with_daemon() && !kept.ends_with_daemon());
    }
}

//! Live update: the whole state of the daemon, written for the process that goes on, and read by it.
//!
//! ```text
//!   Server -- pause --> Paused -- write --> stream in memory -- read, restore --> Parts -- start --> Server
//!                         |                                                                (another process)
//!                         +-- resume: the update has failed, the server goes on
//! ```
//!
//! The stream is Xen's (xenstore-migration.md) with the records that a live update has: connections with their
//! descriptors, watches, transactions, all nodes. What Xen's records do not have is in `LIVE` records of our own, which
//! other daemons skip.

mod read;
mod write;

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

use crate::host::{SavedChannels, SavedHost};
use crate::server::SavedServer;

pub use read::{LiveState, ReadStateError, read};
pub use write::{Written, write};

/// What Xen's records do not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Live {
    /// The server.
    pub server: SavedServer,
    /// The process; `None` in a state that is only checked.
    pub process: Option<SavedProcess>,
}

/// What the process has beside its server. Descriptors keep their numbers in the process that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedProcess {
    /// The host.
    pub host: SavedHost,
    /// The event channel handles of the workers.
    pub channels: Vec<SavedChannels>,
    /// Its sockets and lock files.
    pub files: SavedFiles,
    /// The time at which the last request was replied to, in nanoseconds of the monotonic clock.
    pub paused_at: u64,
}

/// The sockets and lock files of the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFiles {
    /// The listening socket of clients.
    pub listener: RawFd,
    /// The listening migration socket, if there is one.
    pub migration: Option<RawFd>,
    /// The lock file, and the pid file, if there is one; both are locked.
    pub locks: (RawFd, Option<RawFd>),
    /// The sockets' files, which the daemon removes at its end.
    pub sockets: Vec<String>,
}

impl SavedProcess {
    /// Returns the numbers of all descriptors that the process that goes on inherits, except those of clients.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let channels = self.channels.iter().flat_map(SavedChannels::descriptors);
        let SavedFiles { listener, migration, locks, .. } = self.files;
        let files = [listener, locks.0].into_iter().chain(migration).chain(locks.1);
        files.chain(self.host.descriptors()).chain(channels).collect()
    }
}

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

pub use read::{LiveState, ReadStateError, read};
pub use write::{Written, write};

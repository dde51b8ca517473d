//! The error of the store's operations.

use thiserror::Error;

use crate::types::{Errno, ShardId};

/// Why an operation was not done; it changed nothing.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum StoreError {
    /// The request is refused; this is its reply.
    #[error("{0}")]
    Refused(Errno),
    /// The check whether the caller may write was made in an earlier epoch ([`super::Caller::epoch`]) and must be
    /// repeated.
    #[error("the caller's epoch has ended")]
    StaleEpoch,
    /// The operation needs the lock of a shard, exclusively if the flag is set. `Shards::with_locks` takes it and
    /// restarts, so this does not leave the store.
    #[error("the lock of shard {shard} is needed", shard = .0.0)]
    NeedsLock(ShardId, bool),
}

impl From<Errno> for StoreError {
    fn from(errno: Errno) -> StoreError {
        StoreError::Refused(errno)
    }
}

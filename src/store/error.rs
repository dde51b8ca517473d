//! Why an operation did not happen.

use thiserror::Error;

use crate::words::{Errno, ShardId};

/// Why an operation did not happen: nothing was changed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum StoreError {
    /// It is refused: the reply is this error.
    #[error("{0}")]
    Refused(Errno),
    /// The caller asked in an earlier epoch whether it may write ([`super::Caller::epoch`]), and has to ask again.
    #[error("the epoch of the caller is over")]
    StaleEpoch,
    /// It needs the lock of a shard, exclusively if that is said. The store takes it and begins again, so no caller
    /// of the store sees this.
    #[error("the lock of shard {shard} is needed", shard = .0.0)]
    NeedsLock(ShardId, bool),
}

impl From<Errno> for StoreError {
    fn from(errno: Errno) -> StoreError {
        StoreError::Refused(errno)
    }
}

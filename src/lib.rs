//! A multi-threaded xenstored.

pub mod control;
pub mod daemon;
pub mod domain;
pub mod guest;
pub mod host;
pub mod listener;
pub mod log;
pub mod protocol;
pub mod shard;
pub mod store;
// For tests/schedules.rs, which runs on the same locks and atomics.
#[doc(hidden)]
pub mod sync;
pub mod transport;
pub mod watch;
pub mod words;

//! A multi-threaded xenstored.

pub mod control;
pub mod daemon;
pub mod domain;
pub mod host;
pub mod listener;
pub mod log;
pub mod protocol;
pub mod shard;
pub mod store;
mod sync;
#[cfg(feature = "holds")]
pub use sync::holds;
pub mod transport;
pub mod watch;
pub mod words;

//! A multi-threaded xenstored.

pub mod daemon;
pub mod domain;
pub mod host;
pub mod log;
pub mod store;
mod sync;
pub mod watch;
pub mod words;

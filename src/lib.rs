//! A multi-threaded xenstored.

pub mod domain;
pub mod host;
pub mod protocol;
pub mod store;
mod sync;
pub mod transport;
pub mod watch;
pub mod words;

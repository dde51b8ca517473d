//! A multi-threaded xenstored.

pub mod domain;
pub mod host;
pub mod store;
mod sync;
pub mod watch;
pub mod words;

//! A multi-threaded xenstored.

pub mod daemon;
pub mod domain;
pub mod host;
pub mod log;
mod sync;
pub mod words;

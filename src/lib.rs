//! A multi-threaded xenstored.

pub mod domain;
pub mod host;
mod sync;
pub mod words;

//! Clients of a daemon, over its socket or a ring.
//!
//! ```text
//!   Blocking   one request after another, or pipelined: for the preparation of measurements
//!   Load       many connections on one thread, each with several outstanding requests: throughput
//!   Paced      one connection that sends at fixed times, regardless of replies: latency
//!   Stage      clients as async functions on one thread: boots, deaths, events
//!
//!   Blocking uses a Wire, which blocks; the others use Connections, each a non-blocking Link
//!   (socket or ring) with its buffers
//! ```

mod blocking;
mod connection;
mod dialogue;
mod link;
mod load;
mod message;
mod paced;
mod random;
mod recording;
mod stage;
mod timer;
mod wire;

pub use blocking::Blocking;
pub use connection::Connection;
pub use dialogue::{Client, Reply, Watch};
pub use link::Link;
pub use load::{Load, Mix, Tally, histogram, record};
pub use message::{Expect, Request, event, payload, words};
pub use paced::Paced;
pub use random::Random;
pub use recording::{Actor, Asked, Recording};
pub use stage::{Counts, Stage};
pub use timer::Until;
pub use wire::{Arrived, Wire};

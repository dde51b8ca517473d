//! Clients of a daemon, over its socket or a ring.
//!
//! ```text
//!   Blocking   one request after another, or many at once: for what goes before a measurement
//!   Load       many connections on one thread, each with so many requests under way: throughput
//!   Paced      one connection that sends at fixed times, whatever comes back: latency
//!   Stage      clients with a story each, as async functions on one thread: boots, deaths, events
//!
//!   Blocking is on a Wire, which waits; the others on Connections, each a Link (socket or ring)
//!   with its buffers, which never do
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
pub use connection::{Connection, Message};
pub use dialogue::{Client, Reply, Watch};
pub use link::Link;
pub use load::{Load, Mix, Tally, histogram, record};
pub use message::{Expect, Request, append, event, payload, words};
pub use paced::Paced;
pub use random::Random;
pub use recording::{Actor, Asked, Recording};
pub use stage::{Counts, Stage};
pub use timer::Until;
pub use wire::{Arrived, Wire};

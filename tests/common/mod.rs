//! Shared code of the tests over the wire. The tests do not use the daemon's protocol code, so that a defect cannot
//! hide on both sides; only the ring page and the client of the simulated host are the library's, because mapping needs
//! unsafe code.
//!
//! - `wire`: messages as bytes.
//! - `ring`: the guest's side of the ring page.
//! - `client`: a connection over either transport, which keeps replies in order and events in a separate queue.
//! - `daemon`: a daemon in a directory of its own, ended with the test.
//! - `host`: a simulated host that is started by hand.
//! - `world`: a daemon, the simulated host, and connections by name.
//! - `bulk`: the migration socket.
//! - `stock`: where Debian's clients are.
//! - `table`: rows of requests with the expected replies and events.

// Every test binary compiles all of these modules and uses only a part.
#![allow(dead_code, unused_imports)]

pub mod bulk;
pub mod client;
pub mod daemon;
pub mod host;
pub mod random;
pub mod ring;
pub mod stock;
pub mod table;
pub mod wire;
pub mod world;

pub use client::{Client, Event, Reply};
pub use daemon::Daemon;
pub use random::Random;
pub use table::{check, check_with};
pub use wire::{Message, op};
pub use world::{Control, World};

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Timeout that turns a hang into a failure; no test depends on its value.
pub const HANG: Duration = Duration::from_secs(20);

/// Sets a flag on drop. A scope joins its threads, so a failing test must end their loops too, or its failure becomes a
/// hang.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

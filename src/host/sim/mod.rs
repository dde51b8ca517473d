//! The simulated host: guests are processes on this machine (docs/SIM.md), and so is the host itself. Like a hypervisor
//! it outlives the daemon: pages, event channels and domains are there for the next one.
//!
//! ```text
//!    a guest (client, guest)          the host (server)              the daemon (daemon)
//!   +------------------------+       +---------------------+        +------------------------+
//!   | SimClient -------------|-lines-|-> SimServer <-------|-lines--|- SimHost               |
//!   |                        |  +fds |     create, destroy |  +fds  |   at an INTRODUCE only |
//!   |                        |       |   domains: states ==|=memfd==|=> States: alive?       |
//!   | SimGuest               |       |     |               |        |                        |
//!   |   page     ============|= memfd, kept by the host ===|========|=> RingPage             |
//!   |   channel  ------------|- packets; the end is kept --|--------|-> SimChannels: epolls  |
//!   +------------------------+       +---------------------+        +------------------------+
//! ```
//!
//! A domain costs the host two descriptors and the daemon one, its copy of the host's end of the channel. A domain that
//! moves to another host takes page and channel along (server/adopted).

mod channels;
mod client;
mod daemon;
mod fds;
mod guest;
mod lines;
mod server;
mod socket;
mod start;
mod states;
#[cfg(test)]
mod tests;

pub use client::SimClient;
pub use daemon::SimHost;
pub use guest::SimGuest;
pub use lines::{Listed, Reason, Status, XENSTORE_PORT};
pub use server::{Lifetime, SimServer, Stop};
pub use start::start;

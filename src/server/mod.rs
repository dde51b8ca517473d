//! The worker threads, which serve clients: one for each shard, with its own poll, mailbox and event-channel handle.
//! Shards and workers are numbered alike but independent: any worker operates on any shard of the store, under its
//! lock.
//!
//! ```text
//!   socket / ring -> transport -> protocol -> requests -> store ---+
//!                                                  |               | batches of events,
//!   socket / ring <- transport <- output <---------+               | pushed under the
//!                                   ^                              v locks of a commit
//!                                   +--------- deliver <-------- mailbox
//! ```
//!
//! A *session* is one client's protocol without I/O: its input, output, watches and transactions. *Requests* are
//! functions of a session and of the part of a worker that sessions use. A *worker* is a thread: it moves bytes between
//! transports and sessions, and handles domains and event channels. Imports between files have no cycles.
//!
//! A request runs on the worker that has read it. Only requests that concern a domain as a whole, such as INTRODUCE,
//! are forwarded, to the domain's *owner thread*, which also handles the domain's death and so serializes all of them.
//! The client's connection is parked meanwhile. No worker ever blocks on another, so there is no deadlock between them.
//! Forwarding costs 6.2 us, as much as twenty operations, an uncontended lock 10 to 20 ns, so requests on nodes are not
//! forwarded (docs/DESIGN.md).

mod announcements;
mod author;
mod clock;
mod gate;
mod mailbox;
mod migration;
mod pause;
mod requests;
mod reservations;
mod saved;
mod session;
mod shared;
mod shared_reservations;
mod signal;
mod standing;
mod state;
#[doc(hidden)] // For tests/simulator.
pub mod stepped;
mod trace;
mod worker;
mod workers;

pub use author::Author;
#[doc(hidden)] // For tests/schedules.
pub use mailbox::ReplyTo;
pub use migration::move_request::{Expected, ImportEnd};
pub use migration::owner_threads::OwnerThreads;
#[doc(hidden)] // For tests/schedules.
pub use migration::scatter_gather::{Joined, Part, parts};
pub use pause::{PauseError, Paused};
#[doc(hidden)]
pub use reservations::{Claim, Reservations};
pub use saved::{Adopt, RestoreError, Restoring, SavedServer};
#[doc(hidden)]
pub use shared_reservations::SharedReservations;
#[doc(hidden)]
pub use signal::Signal;
pub use standing::{Note, Standing};
pub use workers::{Census, Parts, Server, Setup, Times};

//! The threads that serve clients: one for each shard, with a poll, a mailbox and an event-channel
//! handle of its own. Store and threads are numbered alike but independent: any thread works on
//! any shard of the store, under its lock.
//!
//! ```text
//!   socket / ring -> transport -> protocol -> requests -> store ---+
//!                                                  |               | batches of events,
//!   socket / ring <- transport <- output <---------+               | pushed under the
//!                                   ^                              v locks of a commit
//!                                   +--------- deliver <-------- mailbox
//! ```
//!
//! A *session* is one client's protocol without I/O: its input, its output, its watches and transactions. *Requests*
//! are functions of a session and of the part of a worker that it runs on. A *worker* is a thread: it moves bytes
//! between transports and sessions, and knows domains and event channels. Files import in no circle.
//!
//! A request never leaves its thread. What concerns one domain (INTRODUCE, its death) is told to
//! the domain's *home thread*; the one who asked is parked, and no thread ever waits for another.

mod announcements;
mod guards;
mod mailbox;
mod migration;
mod requests;
mod server;
mod session;
mod shared;
mod signal;
mod standing;
mod state;
mod trace;
mod turns;
mod worker;

#[doc(hidden)]
pub use guards::Guards;
#[doc(hidden)] // For tests/schedules.
pub use mailbox::Asker;
pub use migration::move_request::{Expected, ImportEnd};
pub use migration::owner_threads::OwnerThreads;
#[doc(hidden)] // For tests/schedules.
pub use migration::scatter_gather::{Gathered, Share, shares};
pub use server::{Census, Server, Times};
#[doc(hidden)]
pub use signal::Signal;
pub use standing::Standing;
#[doc(hidden)]
pub use turns::{Answer, Turns};

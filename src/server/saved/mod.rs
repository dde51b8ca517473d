//! The state of a paused server as data, with which another process goes on: what the records of a stream do not have.
//!
//! ```text
//!   Paused --- save ---> clients, SavedServer --> stream --> clients, SavedServer --- restore ---> Parts
//! ```
//!
//! Left behind, as the new process begins them anew: the memory of failed transactions and their reservations (a
//! question of fairness), the age of snapshots, of stalls and of pending events (their timeouts begin again), tickets of
//! requests whose events are not delivered (they hold back nothing any more), and counters of quotas' peaks and refusals.

mod data;
mod domains;
mod restore;
mod save;
mod sessions;

pub use data::SavedServer;
pub use restore::{Adopt, RestoreError, Restoring};

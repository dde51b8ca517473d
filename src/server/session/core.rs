//! The part of a worker that its sessions use.

use std::time::Instant;

use super::former::FormerWatches;
use super::snapshots::Snapshots;
use crate::domain::Registry;
use crate::server::mailbox::{Backlog, Mailbox};
use crate::server::shared::Shared;
use crate::store::Generations;
use crate::sync::Arc;

/// Why a worker takes no more requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The server stops. Replies to the requests taken are awaited until this time.
    Stop(Instant),
    /// The server is paused between two requests, and may go on.
    Pause,
}

/// The store, the time of the pass, and counters, for the sessions of one worker. A session has access to neither a
/// transport nor another session: effects beyond its own output are left here for the worker, or go to a mailbox.
pub struct Core {
    /// The worker's number.
    pub number: u16,
    /// The state that all workers share.
    pub shared: Arc<Shared>,
    /// The time at which the pass began. Sessions have no other clock, which makes them repeatable in the simulator.
    pub now: Instant,
    /// The last number given to a connection or watch. It also numbers marks and versions, which therefore never repeat
    /// on this worker.
    sequence: u64,
    /// The generations for changed nodes.
    pub generations: Generations,
    /// The cost of transactions in the current quantum, so that it can end in time; see
    /// [`Transaction::work`](crate::store::Transaction::work).
    pub work: u64,
    /// The backlog of the mailboxes in the current quantum, or the last one. The backlog decides whether the connection
    /// is read.
    pub backlog: Backlog,
    /// Set while no more requests are taken.
    pub halt: Option<Halt>,
    /// Snapshots of transactions, for their age limit.
    pub snapshots: Snapshots,
    /// Watches of connections that have ended or were reset.
    pub former: FormerWatches,
}

impl Core {
    /// Creates a core at the time `now`.
    pub fn new(number: u16, shared: Arc<Shared>, now: Instant) -> Core {
        Core {
            number,
            shared,
            now,
            sequence: 0,
            generations: Generations::default(),
            work: 0,
            backlog: Backlog::Low,
            halt: None,
            snapshots: Snapshots::default(),
            former: FormerWatches::default(),
        }
    }

    /// Returns a number that this worker has not used before.
    pub fn next_number(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Returns the last number that this worker has used.
    pub fn last_number(&self) -> u64 {
        self.sequence
    }

    /// Continues the numbers of another process.
    pub fn continue_numbers(&mut self, last: u64) {
        self.sequence = self.sequence.max(last);
    }

    /// Returns the registry of known domains.
    pub fn registry(&self) -> &Registry {
        self.shared.store.registry()
    }

    /// Returns the worker's own mailbox.
    pub fn mailbox(&self) -> &Mailbox {
        &self.shared.mailboxes.0[usize::from(self.number)]
    }
}

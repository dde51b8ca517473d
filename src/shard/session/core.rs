//! What a worker's sessions run on.

use std::time::Instant;

use super::former::FormerWatches;
use super::snapshots::Snapshots;
use crate::domain::Registry;
use crate::shard::mailbox::{Backlog, Mailbox};
use crate::shard::shared::Shared;
use crate::store::Generations;
use crate::sync::Arc;

/// The part of a worker that its sessions run on: the store, the time of the pass, and numbers. A session reaches
/// neither a transport nor another session. What it causes beyond its own output is left here for the worker, or goes
/// to a mailbox.
pub struct Core {
    /// The worker's number.
    pub number: u16,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// When the pass began.
    pub now: Instant,
    /// Numbers for connections and watches.
    sequence: u64,
    /// The generations of what is changed.
    pub generations: Generations,
    /// What the transactions of the connection that is being served have cost in this pass; see
    /// [`Transaction::work`](crate::store::Transaction::work).
    pub work: u64,
    /// How far the mailboxes were behind while the connection was served that was served last.
    pub backlog: Backlog,
    /// No more requests are taken; until when those taken may still be answered.
    pub stopping: Option<Instant>,
    /// Snapshots of transactions.
    pub snapshots: Snapshots,
    /// Watches of connections that have ended or were reset.
    pub former: FormerWatches,
}

impl Core {
    /// A core at the time `now`.
    pub fn new(number: u16, shared: Arc<Shared>, now: Instant) -> Core {
        Core {
            number,
            shared,
            now,
            sequence: 0,
            generations: Generations::default(),
            work: 0,
            backlog: Backlog::Low,
            stopping: None,
            snapshots: Snapshots::default(),
            former: FormerWatches::default(),
        }
    }

    /// A number that this worker has not used.
    pub fn next_number(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// The domains that are known.
    pub fn registry(&self) -> &Registry {
        self.shared.store.registry()
    }

    /// The worker's own mailbox.
    pub fn mailbox(&self) -> &Mailbox {
        &self.shared.mailboxes.0[usize::from(self.number)]
    }
}

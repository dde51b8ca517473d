//! What is pushed towards those who watch.

use std::collections::VecDeque;

use super::Watcher;
use crate::domain::{Load, Ticket};
use crate::sync::Arc;

/// The watches of one connection on one path are notified of one change.
#[derive(Clone, Debug)]
pub struct Event {
    /// Which watches.
    pub watcher: Watcher,
    /// How many they are, which is what the delivery costs.
    pub watches: u16,
    /// The path that changed, absolute or special; `None` for the watched path itself, where more of one
    /// commit's changes match than are reported one by one.
    pub path: Option<Arc<[u8]>>,
}

/// The events of one commit for one thread, in order.
#[derive(Debug)]
pub struct Batch {
    /// In order of the changes, and for one change in the order in which a connection set its
    /// watches.
    pub events: VecDeque<Event>,
    /// Keeps the guest's request that caused them outstanding until their readers have them.
    pub ticket: Option<Arc<Ticket>>,
    /// Holds the guest back that caused them until they are delivered.
    pub load: Option<Load>,
}

impl Batch {
    /// A batch that a guest's request caused, if there is a ticket.
    pub fn new(events: Vec<Event>, ticket: Option<&Arc<Ticket>>) -> Batch {
        let batch = Batch { events: events.into(), ticket: ticket.cloned(), load: None };
        Batch { load: ticket.map(|ticket| Load::new(ticket, batch.weight())), ..batch }
    }

    /// What the delivery costs: the number of watches to be notified.
    pub fn weight(&self) -> u64 {
        self.events.iter().map(|event| u64::from(event.watches)).sum()
    }
}

/// Where batches go: the mailboxes of the threads. Called with the commit's locks held, so that
/// the order of batches is the order of commits; it must neither block nor take a lock that is
/// ever held together with the store's.
pub trait Outlet: Send + Sync {
    /// Queues `batch` for `thread`.
    fn push(&self, thread: u16, batch: Batch);
}

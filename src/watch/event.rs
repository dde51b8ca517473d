//! What is pushed towards those who watch.

use super::Watcher;
use crate::domain::Ticket;
use crate::sync::Arc;

/// One watch is to be told of one path.
#[derive(Clone, Debug)]
pub struct Event {
    /// Whom to tell.
    pub watcher: Watcher,
    /// The path that changed, absolute or special.
    pub path: Arc<[u8]>,
}

/// The events of one commit for one thread, in order.
#[derive(Debug)]
pub struct Batch {
    /// In order of the changes, and for one change in the order in which a connection set its
    /// watches.
    pub events: Vec<Event>,
    /// Keeps the guest's request that caused them outstanding until they are delivered.
    pub ticket: Option<Arc<Ticket>>,
}

/// Where batches go: the mailboxes of the threads. Called with the commit's locks held, so that
/// the order of batches is the order of commits; it must neither block nor take a lock that is
/// ever held together with the store's.
pub trait Outlet: Send + Sync {
    /// Queues `batch` for `thread`.
    fn push(&self, thread: u16, batch: Batch);
}

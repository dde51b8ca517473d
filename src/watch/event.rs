//! What is pushed towards those who watch.

use std::collections::VecDeque;
use std::convert::Infallible;

use crossbeam::channel::{Receiver, Sender};

use super::Watcher;
use crate::domain::{Load, Ticket, UNDELIVERED_MAX};
use crate::sync::{Arc, AtomicU32, Ordering};

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
    /// Of an event without a path for watches with a depth.
    pub nearest: Option<Nearest>,
}

/// How many levels below a watched path the nearest of the changes is that one event stands for. It is known once all
/// changes of the commit are looked at, before the event is pushed: an event for each that is nearer than those before
/// would be as many as a guest makes them.
#[derive(Clone, Debug)]
pub struct Nearest(Arc<AtomicU32>);

impl Nearest {
    /// A change so many levels below.
    pub fn new(levels: usize) -> Nearest {
        let nearest = Nearest(Arc::new(AtomicU32::new(u32::MAX)));
        nearest.add(levels);
        nearest
    }

    /// One more.
    pub fn add(&self, levels: usize) {
        let levels = u32::try_from(levels).unwrap_or(u32::MAX);
        if levels < self.0.load(Ordering::Relaxed) {
            self.0.store(levels, Ordering::Relaxed);
        }
    }

    /// How many levels.
    pub fn levels(&self) -> usize {
        usize::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }
}

/// What changed, as watches with a depth see it.
#[derive(Clone, Copy, Debug)]
pub enum Changed<'e> {
    /// A path.
    Path(&'e [u8]),
    /// So many levels below the watched path.
    Below(usize),
}

impl Event {
    /// What it says.
    pub fn changed(&self) -> Changed<'_> {
        match &self.path {
            Some(path) => Changed::Path(path),
            None => Changed::Below(self.nearest.as_ref().map_or(0, Nearest::levels)),
        }
    }
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
    /// Where the events come from if they were not found under the commit's locks.
    pending: Option<Pending>,
}

/// The place of events that are not found yet.
#[derive(Debug)]
struct Pending {
    /// Gets them all at once; nothing once they are taken.
    events: Option<Receiver<Vec<Event>>>,
    // Dropped with the batch, by which the matcher knows that they are delivered.
    _delivered: Sender<Infallible>,
}

/// What events count as, and weigh, that are not found yet: the guest that caused them is not read meanwhile.
pub const PENDING_WEIGHT: u64 = UNDELIVERED_MAX;

impl Batch {
    /// A batch that a guest's request caused, if there is a ticket.
    pub fn new(events: Vec<Event>, ticket: Option<&Arc<Ticket>>) -> Batch {
        let watches = || events.iter().map(|event| u64::from(event.watches)).sum();
        let load = ticket.map(|ticket| Load::undelivered(ticket, watches()));
        Batch { events: events.into(), ticket: ticket.cloned(), load, pending: None }
    }

    /// The same of events that come from `events` later; `delivered` is kept as long as the batch.
    pub fn pending(
        events: Receiver<Vec<Event>>,
        delivered: Sender<Infallible>,
        ticket: Option<&Arc<Ticket>>,
    ) -> Batch {
        let pending = Some(Pending { events: Some(events), _delivered: delivered });
        let load = ticket.map(|ticket| Load::undelivered(ticket, PENDING_WEIGHT));
        Batch { events: VecDeque::new(), ticket: ticket.cloned(), load, pending }
    }

    /// Part of a batch, of one whose events are found.
    pub fn part(&self, events: VecDeque<Event>) -> Batch {
        Batch { events, ticket: self.ticket.clone(), load: None, pending: None }
    }

    /// Whether the events are not found yet.
    pub fn is_pending(&self) -> bool {
        let events = self.pending.as_ref().and_then(|pending| pending.events.as_ref());
        events.is_some_and(Receiver::is_empty)
    }

    /// Takes the events over if they were found since the batch was pushed; returns whether they were.
    pub fn take_found(&mut self) -> bool {
        let Some(pending) = &mut self.pending else { return false };
        let Some(Ok(events)) = pending.events.as_ref().map(Receiver::try_recv) else {
            return false;
        };
        pending.events = None;
        self.events = events.into();
        true
    }

    /// As how many events it counts in a mailbox.
    pub fn count(&self) -> u64 {
        if self.is_pending() { PENDING_WEIGHT } else { self.events.len() as u64 }
    }
}

/// Where batches go: the mailboxes of the threads. Called with the commit's locks held, so that
/// the order of batches is the order of commits; it must neither block nor take a lock that is
/// ever held together with the store's.
pub trait Outlet: Send + Sync {
    /// Queues `batch` for `thread`.
    fn push(&self, thread: u16, batch: Batch);

    /// The events of a batch that was pushed to `thread` were found.
    fn wake(&self, thread: u16);
}

//! Events on their way to watchers.

use std::collections::VecDeque;
use std::convert::Infallible;

use crossbeam::channel::{Receiver, Sender};

use super::Watcher;
use crate::domain::{Load, Ticket, UNDELIVERED_MAX};
use crate::sync::{Arc, AtomicU32, Ordering};

/// The notification of one connection's watches on one path about one change.
#[derive(Clone, Debug)]
pub struct Event {
    /// The watches to notify.
    pub watcher: Watcher,
    /// The number of these watches, which determines the cost of the delivery.
    pub watches: u16,
    /// The changed path, absolute or special; `None` stands for the watched path itself, after more of one commit's
    /// changes match than are reported one by one.
    pub path: Option<Arc<[u8]>>,
    /// The nearest change, in an event without a path for watches with a depth.
    pub nearest: Option<Nearest>,
}

/// The distance, in levels, from a watched path to the nearest change that one event stands for. The value is shared,
/// because it is final only once all changes of the commit have been matched, before the event is pushed. The
/// alternative, an event for each change nearer than those before it, would let a guest cause any number.
#[derive(Clone, Debug)]
pub struct Nearest(Arc<AtomicU32>);

impl Nearest {
    /// Creates the distance of a first change, in levels.
    pub fn new(levels: usize) -> Nearest {
        let nearest = Nearest(Arc::new(AtomicU32::new(u32::MAX)));
        nearest.add(levels);
        nearest
    }

    /// Takes another change into account.
    pub fn add(&self, levels: usize) {
        let levels = u32::try_from(levels).unwrap_or(u32::MAX);
        // Not a race: only the thread that finds the commit's events writes, and the push publishes the result.
        if levels < self.0.load(Ordering::Relaxed) {
            self.0.store(levels, Ordering::Relaxed);
        }
    }

    /// Returns the smallest distance so far.
    pub fn levels(&self) -> usize {
        usize::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }
}

/// The change, as watches with a depth see it.
#[derive(Clone, Copy, Debug)]
pub enum Changed<'e> {
    /// The path that changed.
    Path(&'e [u8]),
    /// The number of levels of the change below the watched path.
    Below(usize),
}

impl Event {
    /// Returns the change that the event reports.
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
    /// The events, in the order of the changes; for one change, in the order in which a connection set its watches.
    pub events: VecDeque<Event>,
    /// Keeps the guest's request outstanding until its events have been delivered, merged or dropped.
    pub ticket: Option<Arc<Ticket>>,
    /// Back-pressure on the guest that caused the events until they are delivered.
    pub load: Option<Load>,
    /// The source of the events if they were not found under the commit's locks.
    pending: Option<Pending>,
}

/// The source of events that are not found yet.
#[derive(Debug)]
struct Pending {
    /// Receives all events of the batch at once; `None` after they were taken.
    events: Option<Receiver<Vec<Event>>>,
    // Dropped with the batch, which tells the matcher that its events are delivered.
    _delivered: Sender<Infallible>,
}

/// The count and weight of a batch whose events are not found yet: the maximum, so the guest that caused it is not
/// read meanwhile.
pub const PENDING_WEIGHT: u64 = UNDELIVERED_MAX;

impl Batch {
    /// Creates a batch; a ticket means that a guest's request caused it.
    pub fn new(events: Vec<Event>, ticket: Option<&Arc<Ticket>>) -> Batch {
        let watches = || events.iter().map(|event| u64::from(event.watches)).sum();
        let load = ticket.map(|ticket| Load::undelivered(ticket, watches()));
        Batch { events: events.into(), ticket: ticket.cloned(), load, pending: None }
    }

    /// Creates a batch whose events come from `events` later. The batch keeps `delivered` alive as long as it exists.
    pub fn pending(
        events: Receiver<Vec<Event>>,
        delivered: Sender<Infallible>,
        ticket: Option<&Arc<Ticket>>,
    ) -> Batch {
        let pending = Some(Pending { events: Some(events), _delivered: delivered });
        let load = ticket.map(|ticket| Load::undelivered(ticket, PENDING_WEIGHT));
        Batch { events: VecDeque::new(), ticket: ticket.cloned(), load, pending }
    }

    /// Creates a batch of some of this one's events, which have been found. The weight stays with this batch.
    pub fn part(&self, events: VecDeque<Event>) -> Batch {
        Batch { events, ticket: self.ticket.clone(), load: None, pending: None }
    }

    /// Returns whether the events are not found yet.
    pub fn is_pending(&self) -> bool {
        let events = self.pending.as_ref().and_then(|pending| pending.events.as_ref());
        events.is_some_and(Receiver::is_empty)
    }

    /// Takes over the events if they were found since the batch was pushed; returns whether they were.
    pub fn take_found(&mut self) -> bool {
        let Some(pending) = &mut self.pending else { return false };
        let Some(Ok(events)) = pending.events.as_ref().map(Receiver::try_recv) else {
            return false;
        };
        pending.events = None;
        self.events = events.into();
        true
    }

    /// Returns the number of events as which the batch counts in a mailbox.
    pub fn count(&self) -> u64 {
        if self.is_pending() { PENDING_WEIGHT } else { self.events.len() as u64 }
    }
}

/// The destination of batches: the threads' mailboxes. The methods are called with the commit's locks held, so that the
/// order of batches is the order of commits. An implementation must neither block nor take a lock that is ever held
/// while a thread acquires one of the store's.
pub trait Outlet: Send + Sync {
    /// Queues `batch` for `thread`.
    fn push(&self, thread: u16, batch: Batch);

    /// Wakes `thread`, for which the events of a pushed batch have been found. Called without locks.
    fn wake(&self, thread: u16);
}

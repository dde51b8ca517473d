//! The mailboxes by which threads communicate.

use std::io;
use std::os::unix::net::UnixStream;

use crossbeam::queue::SegQueue;
use mio::Waker;

use super::author::Author;
use super::migration::move_request::MoveRequest;
use super::migration::scatter_gather::Part;
use super::signal::Signal;
use crate::protocol::operations::DomainRequest;
use crate::store::WatchList;
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::types::{Domid, Errno};
use crate::watch::{Batch, Outlet};

/// A message to a worker.
pub enum Message {
    /// Events for connections of this worker.
    Events(Batch),
    /// A request about a domain whose owner thread this is, with its client.
    Domain(ReplyTo, Domid, DomainRequest, Arc<Author>),
    /// Quiesces a domain whose owner thread this is, for this client.
    Quiesce(Part, Arc<Author>),
    /// Undoes the quiescing of such a domain; forced or not.
    Unquiesce { part: Part, forced: bool, by: Arc<Author> },
    /// The reply for which a connection of this worker is parked.
    Reply(ReplyTo, Result<Vec<u8>, Errno>),
    /// A new client of the socket.
    Accepted(UnixStream),
    /// The host reports that a domain has changed.
    DomainChanged(Domid),
    /// The domain's outstanding requests are below their quota again.
    Unblocked(Domid),
    /// A connection parked for a reservation, or for the end of one, may proceed.
    ReservationEnded(ReplyTo),
    /// Asks for the watches of this worker's connections, with the store's tries of the same moment.
    CheckWatches(crossbeam::channel::Sender<WatchList>),
    /// A request of a migration thread about a domain whose owner thread this is.
    Move(MoveRequest),
    /// Pauses the worker between two requests: its thread ends, and returns it.
    Pause,
    /// Stops the worker: it takes no more requests, and ends once those taken are replied to.
    Stop,
}

/// The index of a connection in its worker's table, which is reused.
pub type Slot = usize;

/// A reply address. The address contains the connection's number besides its slot, so that a reply never reaches a
/// later connection in the same slot. For instance, an RM's reply may come from the reaper after its client has closed
/// the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReplyTo {
    /// The worker.
    pub thread: u16,
    /// The connection's slot there.
    pub connection: Slot,
    /// The connection's number, which is never reused on that worker.
    pub id: u64,
}

/// A worker's mailbox: two FIFO queues that any thread may push to.
pub struct Mailbox {
    /// Events, and messages that must not overtake them. Commits push under the store's locks, so a push must never
    /// wait for the consumer.
    events: SegQueue<Message>,
    /// All other messages; they are kept apart so that a toolstack's request or a new client does not wait behind
    /// events that guests cause.
    urgent: SegQueue<Message>,
    /// Raised by each push, taken by the thread that wakes the worker.
    signal: Signal,
    waker: Waker,
    /// The number of undelivered events, by which producers hold back before the queue grows without limit. Relaxed
    /// suffices, as it only throttles.
    undelivered: AtomicU64,
}

/// With more events than this undelivered in any mailbox, no request is taken of a guest that has caused some of them:
/// a few milliseconds of work.
const BACKLOG_FULL: u64 = 1 << 16;
/// With more events than this undelivered in any mailbox, no request is taken at all: about 60 MB at most. Only clients
/// of the control domain, which [`BACKLOG_FULL`] does not hold back, can fill it: a guest's commit pushes a few
/// thousand events at most with its locks held, and the matcher adds those of one commit after the other.
const BACKLOG_OVER: u64 = 1 << 20;

/// How far the delivery of events is behind. Ordered by severity, as the greatest of all workers counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backlog {
    /// Every request may be taken.
    #[default]
    Low,
    /// Guests with undelivered events wait.
    Full,
    /// Every client waits.
    Over,
}

impl Message {
    /// Returns whether the message keeps its order among events. An export must find in a connection's output every
    /// event that was caused before the export asked for it.
    fn is_in_order(&self) -> bool {
        matches!(self, Message::Events(_) | Message::Move(_))
    }
}

impl Mailbox {
    /// Creates an empty mailbox whose worker `waker` wakes.
    pub fn new(waker: Waker) -> Mailbox {
        Mailbox {
            events: SegQueue::new(),
            urgent: SegQueue::new(),
            signal: Signal::default(),
            waker,
            undelivered: AtomicU64::new(0),
        }
    }

    /// Queues a message. The worker is woken by [`Mailbox::wake`], which the producer calls once a pass.
    pub fn push(&self, message: Message) {
        if let Message::Events(batch) = &message {
            // The events are counted before the batch is queued, or the consumer could subtract first and the counter
            // would wrap.
            self.undelivered.fetch_add(batch.count(), Ordering::Relaxed);
        }
        let queue = if message.is_in_order() { &self.events } else { &self.urgent };
        // The batch is queued before the signal is raised, or the worker could be woken, find nothing, and sleep.
        queue.push(message);
        self.signal.raise();
    }

    /// Wakes the worker if there was a push since it was last woken or last prepared to sleep. That costs an eventfd
    /// write of 344 ns, a push to a thread that is awake 2 ns (docs/DESIGN.md).
    pub fn wake(&self) {
        if self.signal.take() {
            self.wake_now();
        }
    }

    fn wake_now(&self) {
        if let Err(error) = self.waker.wake()
            // The counter of the eventfd is full: the worker wakes up anyway.
            && error.kind() != io::ErrorKind::WouldBlock
        {
            tracing::error!(%error, "cannot wake a worker");
        }
    }

    /// Takes the oldest message that may overtake events.
    pub fn pop_urgent(&self) -> Option<Message> {
        self.urgent.pop()
    }

    /// Takes the oldest batch of events or message that must not overtake events. The events count as undelivered until
    /// [`Mailbox::delivered`].
    pub fn pop_event(&self) -> Option<Message> {
        self.events.pop()
    }

    /// Subtracts events that were delivered or dropped.
    pub fn delivered(&self, events: u64) {
        self.undelivered.fetch_sub(events, Ordering::Relaxed);
    }

    /// Replaces the placeholder weight `before` of a batch by the number of events that the matcher found for it.
    pub fn found(&self, before: u64, events: u64) {
        self.undelivered.fetch_add(events, Ordering::Relaxed);
        self.delivered(before);
    }

    /// Returns whether the calling worker may sleep until it is woken: no urgent message is queued, and no event that
    /// can be delivered. Messages that it has taken already, or pushed itself, no longer wake it.
    pub fn may_sleep(&self, has_events: impl FnOnce() -> bool) -> bool {
        // `has_events` is false behind a batch that waits for the matcher, which then raises the signal.
        self.signal.may_sleep(|| self.urgent.is_empty() && !has_events())
    }

    /// Returns whether events, or messages that must not overtake events, are queued.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Returns whether both queues are empty.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.urgent.is_empty()
    }

    fn backlog(&self) -> Backlog {
        let undelivered = self.undelivered.load(Ordering::Relaxed);
        if undelivered > BACKLOG_OVER {
            Backlog::Over
        } else if undelivered > BACKLOG_FULL {
            Backlog::Full
        } else {
            Backlog::Low
        }
    }
}

/// The mailboxes of all workers, by number.
#[derive(Clone)]
pub struct Mailboxes(pub Arc<[Mailbox]>);

impl Mailboxes {
    /// Queues a message for a worker, which is woken at the end of the caller's pass.
    pub fn post(&self, thread: u16, message: Message) {
        if let Some(mailbox) = self.0.get(usize::from(thread)) {
            mailbox.push(message);
        }
    }

    /// Queues a message and wakes the worker, for callers without passes.
    pub fn send(&self, thread: u16, message: Message) {
        if let Some(mailbox) = self.0.get(usize::from(thread)) {
            mailbox.push(message);
            mailbox.wake();
        }
    }

    /// Wakes every worker with new messages except the caller `but`, which looks into its own mailbox before it sleeps.
    pub fn wake_all(&self, but: u16) {
        for (thread, mailbox) in self.0.iter().enumerate() {
            if thread != usize::from(but) {
                mailbox.wake();
            }
        }
    }

    /// Returns the greatest backlog of all workers. Cost: one load for each worker.
    pub fn backlog(&self) -> Backlog {
        self.0.iter().map(Mailbox::backlog).max().unwrap_or_default()
    }
}

impl Outlet for Mailboxes {
    fn push(&self, thread: u16, batch: Batch) {
        self.post(thread, Message::Events(batch));
    }

    fn wake(&self, thread: u16) {
        if let Some(mailbox) = self.0.get(usize::from(thread)) {
            // Wakes without a push: the matcher has completed a batch that is queued already.
            mailbox.signal.raise();
            mailbox.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use mio::{Poll, Token};

    use super::*;

    #[test]
    fn undelivered_events_raise_the_backlog_in_two_steps() {
        let polls = [Poll::new().unwrap(), Poll::new().unwrap()];
        let waker = |poll: &Poll| Waker::new(poll.registry(), Token(0)).unwrap();
        let mailboxes =
            Mailboxes(Arc::from(polls.each_ref().map(|poll| Mailbox::new(waker(poll)))));
        let steps = [
            (BACKLOG_FULL, Backlog::Low),
            (1, Backlog::Full),
            (BACKLOG_OVER - BACKLOG_FULL - 1, Backlog::Full),
            (1, Backlog::Over),
        ];
        let behind = &mailboxes.0[1];
        for (more, backlog) in steps {
            behind.found(0, more);
            assert_eq!(mailboxes.backlog(), backlog);
        }
        behind.delivered(BACKLOG_OVER);
        assert_eq!(mailboxes.backlog(), Backlog::Low);
    }
}

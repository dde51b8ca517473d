//! What threads tell each other.

use std::io;
use std::os::unix::net::UnixStream;

use crossbeam::queue::SegQueue;
use mio::Waker;

use super::migration::move_request::MoveRequest;
use super::migration::scatter_gather::Share;
use super::signal::Signal;
use crate::protocol::operations::DomainRequest;
use crate::store::WatchList;
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::watch::{Batch, Outlet};
use crate::words::{Domid, Errno};

/// One thing told to a thread.
pub enum Message {
    /// Events for connections of the thread.
    Events(Batch),
    /// A request about a domain whose home thread it is.
    Domain(Asker, Domid, DomainRequest),
    /// Quiesce a domain whose home thread it is.
    Quiesce(Share),
    /// Serve such a domain again.
    Unquiesce(Share),
    /// The answer to a request of a connection of the thread that is parked.
    Answer(Asker, Result<Vec<u8>, Errno>),
    /// A client connected.
    Accepted(UnixStream),
    /// The host says that something changed about a domain.
    DomainChanged(Domid),
    /// The domain's outstanding requests are below their quota again.
    Unblocked(Domid),
    /// A connection that waits for a turn or for its end may go on.
    Unguarded(Asker),
    /// Name the watches of the thread's connections, and what the store's tries are at that moment.
    CheckWatches(crossbeam::channel::Sender<WatchList>),
    /// A request of a thread that moves domains, about one whose home thread it is.
    Move(MoveRequest),
    /// Answer what was taken, take no more, end.
    Stop,
}

/// A connection's place on its worker.
pub type Place = usize;

/// A connection that waits for an answer: its thread, its place there, and its number, so that an
/// answer never reaches another that took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asker {
    /// The thread.
    pub thread: u16,
    /// The place.
    pub connection: Place,
    /// The number.
    pub id: u64,
}

/// A thread's mailbox: two queues, each first in, first out, from any thread.
pub struct Mailbox {
    /// Events, and what must not overtake them.
    events: SegQueue<Message>,
    /// All else: a toolstack's request or a new client does not wait for the events that guests cause.
    urgent: SegQueue<Message>,
    /// Pushed to since it was last taken.
    signal: Signal,
    waker: Waker,
    /// How many events are not delivered, so that producers can hold back before it grows without limit.
    undelivered: AtomicU64,
}

/// With so many events undelivered in any mailbox, no request is taken of a guest that has caused some of them
/// already: a few milliseconds' work.
const BACKLOG_FULL: u64 = 1 << 16;
/// With so many events undelivered in any mailbox no request is taken at all: at most some 60 MB. Only the control
/// domain's clients get here, which are not held back before: a guest's commit pushes some thousand events at most
/// with its locks held, and what the matcher finds comes one commit after the other.
const BACKLOG_OVER: u64 = 1 << 20;

/// How far the delivery of events is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backlog {
    /// Every request may be taken.
    #[default]
    Low,
    /// Guests whose events are undelivered wait.
    Full,
    /// Every client waits.
    Over,
}

impl Message {
    /// Whether it keeps its place among events. An export finds in a connection's output every event that was
    /// caused before it was asked for.
    fn is_in_order(&self) -> bool {
        matches!(self, Message::Events(_) | Message::Move(_))
    }
}

impl Mailbox {
    /// An empty mailbox whose thread `waker` wakes.
    pub fn new(waker: Waker) -> Mailbox {
        Mailbox {
            events: SegQueue::new(),
            urgent: SegQueue::new(),
            signal: Signal::default(),
            waker,
            undelivered: AtomicU64::new(0),
        }
    }

    /// Queues a message. The thread is woken by [`Mailbox::wake`], once a pass.
    pub fn push(&self, message: Message) {
        if let Message::Events(batch) = &message {
            self.undelivered.fetch_add(batch.count(), Ordering::Relaxed);
        }
        let queue = if message.is_in_order() { &self.events } else { &self.urgent };
        queue.push(message);
        self.signal.raise();
    }

    /// Wakes the thread if something was pushed since it was last woken, or last looked before it slept.
    pub fn wake(&self) {
        if self.signal.take() {
            self.wake_now();
        }
    }

    fn wake_now(&self) {
        if let Err(error) = self.waker.wake()
            && error.kind() != io::ErrorKind::WouldBlock
        {
            tracing::error!(%error, "cannot wake a thread");
        }
    }

    /// Takes the oldest message that may overtake events.
    pub fn pop_urgent(&self) -> Option<Message> {
        self.urgent.pop()
    }

    /// Takes the oldest batch of events, or what must not overtake it. The events count until
    /// [`Mailbox::delivered`].
    pub fn pop_event(&self) -> Option<Message> {
        self.events.pop()
    }

    /// Notes that so many events were delivered or dropped.
    pub fn delivered(&self, events: u64) {
        self.undelivered.fetch_sub(events, Ordering::Relaxed);
    }

    /// Notes that the events of a batch were found, for which `before` stood.
    pub fn found(&self, before: u64, events: u64) {
        self.undelivered.fetch_add(events, Ordering::Relaxed);
        self.delivered(before);
    }

    /// Whether the thread, which asks, may sleep until it is woken: nothing is there, and no events that can be
    /// delivered. From now on it is not woken for what it took already, or told itself.
    pub fn may_sleep(&self, has_events: impl FnOnce() -> bool) -> bool {
        self.signal.may_sleep(|| self.urgent.is_empty() && !has_events())
    }

    /// Whether there are events to take, or what must not overtake them.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Whether there is nothing to take.
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

/// The mailboxes of all threads, by number.
#[derive(Clone)]
pub struct Mailboxes(pub Arc<[Mailbox]>);

impl Mailboxes {
    /// Queues a message for a thread, which is woken when the caller's pass ends.
    pub fn post(&self, thread: u16, message: Message) {
        if let Some(mailbox) = self.0.get(usize::from(thread)) {
            mailbox.push(message);
        }
    }

    /// Queues a message and wakes the thread: for those who have no pass that ends.
    pub fn send(&self, thread: u16, message: Message) {
        if let Some(mailbox) = self.0.get(usize::from(thread)) {
            mailbox.push(message);
            mailbox.wake();
        }
    }

    /// Wakes every thread that something was pushed to, but for `but`, who knows.
    pub fn wake_all(&self, but: u16) {
        for (thread, mailbox) in self.0.iter().enumerate() {
            if thread != usize::from(but) {
                mailbox.wake();
            }
        }
    }

    /// How far the thread is behind that is most. Cost: a look at each.
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
    fn backlog_when_events_are_undelivered_rises_in_two_steps() {
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

//! What threads tell each other.

use std::io;
use std::os::unix::net::UnixStream;

use crossbeam::queue::SegQueue;
use mio::Waker;

use super::domains::DomainRequest;
use super::gathering::Share;
use super::signal::Signal;
use super::thread::Thread;
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
    /// Do this, between requests.
    Run(Box<dyn FnOnce(&mut Thread) + Send>),
    /// Answer what was taken, take no more, end.
    Stop,
}

/// A connection that waits for an answer: its thread, its place there, and its number, so that an
/// answer never reaches another that took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asker {
    /// The thread.
    pub thread: u16,
    /// The place.
    pub connection: usize,
    /// The number.
    pub id: u64,
}

/// A thread's mailbox: first in, first out, from any thread.
pub struct Mailbox {
    queue: SegQueue<Message>,
    /// Pushed to since it was last taken.
    signal: Signal,
    waker: Waker,
    /// Events in the queue, so that producers can hold back before it grows without limit.
    events: AtomicU64,
}

/// With this many events undrained in any mailbox, threads take no new requests until it is drained:
/// some 10 MB, a few milliseconds' work.
const EVENTS_MAX: u64 = 1 << 16;

impl Mailbox {
    /// An empty mailbox whose thread `waker` wakes.
    pub fn new(waker: Waker) -> Mailbox {
        Mailbox {
            queue: SegQueue::new(),
            signal: Signal::default(),
            waker,
            events: AtomicU64::new(0),
        }
    }

    /// Queues a message. The thread is woken by [`Mailbox::wake`], once a pass.
    pub fn push(&self, message: Message) {
        if let Message::Events(batch) = &message {
            self.events.fetch_add(batch.events.len() as u64, Ordering::Relaxed);
        }
        self.queue.push(message);
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

    /// Takes the oldest message.
    pub fn pop(&self) -> Option<Message> {
        let message = self.queue.pop()?;
        if let Message::Events(batch) = &message {
            self.events.fetch_sub(batch.events.len() as u64, Ordering::Relaxed);
        }
        Some(message)
    }

    /// Whether the thread, which asks, may sleep until it is woken: nothing is there. From now on nobody
    /// wakes it for what it took already, or told itself.
    pub fn may_sleep(&self) -> bool {
        self.signal.may_sleep(|| self.is_empty())
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether those who would push more should wait.
    pub fn is_full(&self) -> bool {
        self.events.load(Ordering::Relaxed) > EVENTS_MAX
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

    /// Whether any thread is so far behind that no more should be pushed.
    pub fn are_full(&self) -> bool {
        self.0.iter().any(Mailbox::is_full)
    }
}

impl Outlet for Mailboxes {
    fn push(&self, thread: u16, batch: Batch) {
        self.post(thread, Message::Events(batch));
    }
}

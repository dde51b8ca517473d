//! What other threads say: when it is taken, and who does what it asks.

use std::time::Duration;

use super::connection::Connection;
use super::mailbox::Message;
use super::thread::Thread;
use crate::protocol::operations::DomainRequest;
use crate::sync::Ordering;
use crate::watch::{Batch, PENDING_WEIGHT};

/// How many watches are notified, or marked, in one pass; those of one change on one path may be above it. A few
/// tenths of a millisecond: the rest waits for the next pass, or guests that cause events faster than this thread
/// delivers them would keep it from serving others.
pub const WEIGHT_PER_PASS: usize = 256;
/// Messages that are no events taken in one pass.
const URGENT_PER_PASS: usize = 1024;
/// How long a stop waits for requests that were taken to be answered.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

impl Thread {
    /// Takes what other threads said, and what had to wait: first what may overtake events.
    pub(super) fn take_messages(&mut self) {
        for _ in 0..URGENT_PER_PASS {
            let Some(message) = self.mailbox().pop_urgent() else { break };
            let releases = matches!(message, Message::Domain(_, _, DomainRequest::Release(_)));
            if releases && self.has_pending_events() {
                // Some of these may be the domain's, and are not to be lost.
                self.undelivered.push_back(message);
            } else {
                self.take_message(message);
            }
        }
        while let Some(message) = self.inbox.pop_front().or_else(|| self.next_event()) {
            self.take_message(message);
        }
    }

    /// The next batch of events, or what must not overtake it, if this pass may still deliver some.
    fn next_event(&mut self) -> Option<Message> {
        if self.may_deliver == 0 {
            return None;
        }
        let mut message = self.undelivered.pop_front().or_else(|| self.mailbox().pop_event())?;
        if let Message::Events(batch) = &mut message {
            if batch.is_pending() {
                self.undelivered.push_front(message);
                return None;
            }
            self.take_found(batch);
        }
        Some(message)
    }

    /// Takes the events of a batch over that were found since it was pushed.
    pub(super) fn take_found(&self, batch: &mut Batch) {
        if batch.take_found() {
            self.mailbox().found(PENDING_WEIGHT, batch.count());
        }
    }

    /// Whether there is a message for [`Thread::next_event`]: all wait behind events that are not found yet.
    pub(super) fn has_events(&self) -> bool {
        match self.undelivered.front() {
            Some(Message::Events(batch)) => !batch.is_pending(),
            Some(_) => true,
            None => self.mailbox().has_events(),
        }
    }

    /// Between two requests of a connection: events must follow the reply that was just queued. Other work
    /// waits until the connection is back in its place.
    pub(super) fn take_events(&mut self, connection: &mut Connection) {
        while self.inbox.is_empty()
            && let Some(message) = self.next_event()
        {
            match message {
                Message::Events(batch) => self.deliver(batch, Some(connection)),
                other => self.inbox.push_back(other),
            }
        }
    }

    fn take_message(&mut self, message: Message) {
        match message {
            Message::Events(batch) => self.deliver(batch, None),
            Message::Answer(asker, result) => self.answered(asker, result),
            Message::Domain(asker, domid, request) => self.domain_request(asker, domid, request),
            Message::Quiesce(share) => self.quiesce(share),
            Message::Unquiesce(share) => self.unquiesce(share),
            Message::DomainChanged(domid) => self.domain_changed(domid),
            Message::Accepted(socket) => self.accepted(socket),
            Message::Unblocked(domid) => {
                if let Some(&place) = self.rings.get(&domid) {
                    self.make_ready(place);
                }
            }
            Message::Unguarded(asker) => {
                let connection = self.connections.get(asker.connection).and_then(Option::as_ref);
                if connection.is_some_and(|connection| connection.asker.id == asker.id) {
                    self.make_ready(asker.connection);
                }
            }
            Message::CheckWatches(reply) => {
                // Who asked may have given up waiting.
                let _ = reply.send(self.watch_list());
            }
            Message::Move(request) => self.move_request(request),
            Message::Stop => {
                self.stopping = Some(self.now + STOP_PATIENCE);
                self.shared.stopping.fetch_add(1, Ordering::AcqRel);
            }
        }
    }
}

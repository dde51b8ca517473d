//! The messages that a worker has taken from its mailbox and not handled.

use std::collections::VecDeque;

use crate::server::mailbox::{Mailbox, Message};
use crate::watch::{Batch, PENDING_WEIGHT};

/// The number of watches notified or deferred in one pass; a single change of one path may exceed it. A few tenths of a
/// millisecond: without a limit, guests that cause events faster than this worker delivers them would starve its other
/// clients.
const WEIGHT_PER_PASS: usize = 256;

/// The messages that a worker has taken from its mailbox and not handled.
#[derive(Default)]
pub struct Inbox {
    /// Messages that wait until the connection being served is back in its slot. Such a message may end or replace any
    /// connection.
    pub postponed: VecDeque<Message>,
    /// Events, and messages that must not overtake events, which exceed the pass; oldest first.
    pub undelivered: VecDeque<Message>,
    /// The weight of events that this pass may still deliver.
    pub may_deliver: usize,
}

impl Inbox {
    /// Resets the weight for a new pass.
    pub fn begin_pass(&mut self) {
        self.may_deliver = WEIGHT_PER_PASS;
    }

    /// Takes the next batch of events, or the next message that must not overtake events, if this pass may still
    /// deliver some.
    pub fn next_event(&mut self, mailbox: &Mailbox) -> Option<Message> {
        if self.may_deliver == 0 {
            return None;
        }
        // Those taken earlier are older.
        let mut message = self.undelivered.pop_front().or_else(|| mailbox.pop_event())?;
        if let Message::Events(batch) = &mut message {
            // Later events wait behind it, so that none overtakes it.
            if batch.is_pending() {
                self.undelivered.push_front(message);
                return None;
            }
            take_found(mailbox, batch);
        }
        Some(message)
    }

    /// Returns whether [`Inbox::next_event`] has a message. There is no message while the first batch waits for the
    /// matcher, as all others wait behind that batch.
    pub fn has_events(&self, mailbox: &Mailbox) -> bool {
        match self.undelivered.front() {
            Some(Message::Events(batch)) => !batch.is_pending(),
            Some(_) => true,
            None => mailbox.has_events(),
        }
    }

    /// Takes all events from the mailbox, behind those taken before.
    pub fn take_queued(&mut self, mailbox: &Mailbox) {
        while let Some(message) = mailbox.pop_event() {
            self.undelivered.push_back(message);
        }
    }

    /// Returns whether any queued batch waits for the matcher. Cost: visits each queued batch of this worker.
    pub fn has_pending_events(&mut self, mailbox: &Mailbox) -> bool {
        self.take_queued(mailbox);
        let is_pending =
            |message: &Message| matches!(message, Message::Events(batch) if batch.is_pending());
        self.undelivered.iter().any(is_pending)
    }
}

/// Adds the events that the matcher has found since the batch was pushed.
pub fn take_found(mailbox: &Mailbox, batch: &mut Batch) {
    if batch.take_found() {
        mailbox.found(PENDING_WEIGHT, batch.count());
    }
}

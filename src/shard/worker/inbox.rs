//! What a worker took from its mailbox and has not done yet.

use std::collections::VecDeque;

use crate::shard::mailbox::{Mailbox, Message};
use crate::watch::{Batch, PENDING_WEIGHT};

/// How many watches are notified, or marked, in one pass; those of one change on one path may be above it. A few
/// tenths of a millisecond: the rest waits for the next pass, or guests that cause events faster than this worker
/// delivers them would keep it from serving others.
const WEIGHT_PER_PASS: usize = 256;

/// What a worker took from its mailbox and has not done yet.
#[derive(Default)]
pub struct Inbox {
    /// Messages that have to wait until the connection that is being served is back in its place.
    pub postponed: VecDeque<Message>,
    /// Events, and what must not overtake them: too much for a pass, the oldest first.
    pub undelivered: VecDeque<Message>,
    /// The weight of the events that may still be delivered in this pass.
    pub may_deliver: usize,
}

impl Inbox {
    /// A pass begins.
    pub fn begin_pass(&mut self) {
        self.may_deliver = WEIGHT_PER_PASS;
    }

    /// The next batch of events, or what must not overtake it, if this pass may still deliver some.
    pub fn next_event(&mut self, mailbox: &Mailbox) -> Option<Message> {
        if self.may_deliver == 0 {
            return None;
        }
        let mut message = self.undelivered.pop_front().or_else(|| mailbox.pop_event())?;
        if let Message::Events(batch) = &mut message {
            if batch.is_pending() {
                self.undelivered.push_front(message);
                return None;
            }
            take_found(mailbox, batch);
        }
        Some(message)
    }

    /// Whether there is a message for [`Inbox::next_event`]: all wait behind events that are not found yet.
    pub fn has_events(&self, mailbox: &Mailbox) -> bool {
        match self.undelivered.front() {
            Some(Message::Events(batch)) => !batch.is_pending(),
            Some(_) => true,
            None => mailbox.has_events(),
        }
    }

    /// Takes all events from the mailbox, behind those that were taken before.
    pub fn take_queued(&mut self, mailbox: &Mailbox) {
        while let Some(message) = mailbox.pop_event() {
            self.undelivered.push_back(message);
        }
    }

    /// Whether events are queued that are not found yet. Cost: a look at each queued batch of this worker.
    pub fn has_pending_events(&mut self, mailbox: &Mailbox) -> bool {
        self.take_queued(mailbox);
        let is_pending =
            |message: &Message| matches!(message, Message::Events(batch) if batch.is_pending());
        self.undelivered.iter().any(is_pending)
    }
}

/// Takes the events of a batch over that were found since it was pushed.
pub fn take_found(mailbox: &Mailbox, batch: &mut Batch) {
    if batch.take_found() {
        mailbox.found(PENDING_WEIGHT, batch.count());
    }
}

//! What other threads say: when it is taken, and who does what it asks.

use std::time::Duration;

use super::connection::Connection;
use super::mailbox::Message;
use super::thread::{Place, Thread};
use crate::sync::Ordering;

/// What other threads said is taken in one pass until it is so many events: as many as one change
/// causes that a guest watches with all its quota. The rest waits for the next, or whoever tells this
/// thread of events faster than it takes them would keep it from serving anybody.
pub const TOLD_PER_PASS: usize = 1024;
/// How long a stop waits for requests that were taken to be answered.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

impl Thread {
    /// Takes what other threads said, and what had to wait.
    pub(super) fn take_messages(&mut self) {
        while let Some(message) = self.inbox.pop_front().or_else(|| self.next_told()) {
            self.take_message(message, None);
        }
    }

    /// What another thread said next, if it may still be taken in this pass.
    fn next_told(&mut self) -> Option<Message> {
        if self.may_take == 0 {
            return None;
        }
        let message = self.mailbox().pop()?;
        let size = if let Message::Events(batch) = &message { batch.events.len() } else { 1 };
        self.may_take = self.may_take.saturating_sub(size);
        Some(message)
    }

    /// Between two requests of a connection: events must follow the reply that was just queued.
    /// What concerns domains, or is the answer to this connection's own request, waits until it is
    /// back in its place.
    pub(super) fn take_events(&mut self, place: Place, connection: &mut Connection) {
        while self.inbox.is_empty()
            && let Some(message) = self.next_told()
        {
            let takes = match &message {
                Message::Events(_) => true,
                Message::Answer(asker, _) => asker.connection != place,
                _ => false,
            };
            if takes {
                self.take_message(message, Some((place, connection)));
            } else {
                self.inbox.push_back(message);
            }
        }
    }

    fn take_message(&mut self, message: Message, serving: Option<(Place, &mut Connection)>) {
        match message {
            Message::Events(batch) => self.deliver(batch, serving),
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
                if connection.is_some_and(|connection| connection.id == asker.id) {
                    self.make_ready(asker.connection);
                }
            }
            Message::CheckWatches(reply) => {
                // Who asked may have given up waiting.
                let _ = reply.send(self.watch_list());
            }
            Message::Run(work) => work(self),
            Message::Stop => {
                self.stopping = Some(self.now + STOP_PATIENCE);
                self.shared.stopping.fetch_add(1, Ordering::AcqRel);
            }
        }
    }
}

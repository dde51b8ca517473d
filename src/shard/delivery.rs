//! The delivery of events to the connections of a thread, and what happens to those that are not read.

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::connection::Connection;
use super::mailbox::Message;
use super::thread::{Place, Thread};
use super::watches::WatchId;
use crate::domain::{Notice, Quota, Registry, Ticket};
use crate::sync::Arc;
use crate::transport::{Disconnect, Transport};
use crate::watch::{Batch, Event, Watcher};

/// So many events of one connection wait for its reply; with one more, all are queued in front of it.
const LATE_MAX: usize = 1024;

impl Thread {
    /// Delivers a commit's events to connections of this thread; events for connections and watches that are
    /// gone are dropped. Stops when this pass has delivered its share; the rest is for the next.
    pub(super) fn deliver(&mut self, mut batch: Batch, mut serving: Option<&mut Connection>) {
        let version = self.next_number();
        let registry = self.shared.store.registry();
        let (now, full) = (self.now, Cell::default());
        let sender = EventSender { now, version, registry, full };
        let mut behind: Vec<Place> = Vec::new();
        while let Some(events) = same_change(&mut batch.events) {
            self.mailbox().delivered(events.len() as u64);
            let mut cost = 1;
            let place = events[0].watcher.connection as usize;
            let connection = match &mut serving {
                Some(connection) if connection.asker.connection == place => Some(&mut **connection),
                _ => self.connections.get_mut(place).and_then(|slot| slot.as_deref_mut()),
            };
            if let Some(connection) = connection {
                cost = sender.send_or_defer(connection, events, batch.ticket.as_ref());
                if behind.last() != Some(&place) {
                    behind.push(place);
                }
            }
            self.may_deliver = self.may_deliver.saturating_sub(cost);
            if self.may_deliver == 0 && !batch.events.is_empty() {
                self.undelivered.push_front(Message::Events(batch));
                break;
            }
        }
        for place in behind {
            self.make_ready(place);
            self.check_backlog(place);
        }
    }

    /// Takes all events from the mailbox, behind those that were taken before.
    fn take_queued(&mut self) {
        while let Some(message) = self.mailbox().pop_event() {
            self.undelivered.push_back(message);
        }
    }

    /// Whether events are queued that are not found yet. Cost: a look at each queued batch of this thread.
    pub(super) fn has_pending_events(&mut self) -> bool {
        self.take_queued();
        let is_pending =
            |message: &Message| matches!(message, Message::Events(batch) if batch.is_pending());
        self.undelivered.iter().any(is_pending)
    }

    /// Delivers the queued events of a connection that is about to end ahead of all others, so that RELEASE,
    /// which overtakes events, loses none that is found. Cost: a look at each queued event of this thread.
    pub(super) fn deliver_ahead(&mut self, place: Place) {
        self.take_queued();
        let mut queued = std::mem::take(&mut self.undelivered);
        let may_deliver = std::mem::replace(&mut self.may_deliver, usize::MAX);
        for message in &mut queued {
            let Message::Events(batch) = message else { continue };
            self.take_found(batch);
            let is_own = |event: &Event| event.watcher.connection as usize == place;
            if !batch.events.iter().any(is_own) {
                continue;
            }
            let (own, others) = std::mem::take(&mut batch.events).into_iter().partition(is_own);
            batch.events = others;
            self.deliver(batch.part(own), None);
        }
        self.may_deliver = may_deliver;
        self.undelivered = queued;
    }

    /// Queues what came while a connection waited for the settling of what it removed.
    pub(super) fn send_late(&mut self, connection: &mut Connection) {
        let version = self.next_number();
        let registry = self.shared.store.registry();
        let (now, full) = (self.now, Cell::default());
        let sender = EventSender { now, version, registry, full };
        sender.send_late(connection);
    }

    /// Queues deferred events while there is room for them, and one if nothing else waits.
    pub(super) fn queue_deferred(&self, connection: &mut Connection) {
        while connection.watches.has_deferred() {
            let full = is_at_memory_quota(self.shared.store.registry(), connection);
            let room = if full { 0 } else { connection.output_limits().1 };
            if connection.output.len() > room {
                return;
            }
            connection.queue_next_deferred(self.now);
        }
    }

    /// Closes a socket client that takes nothing, or it would take all memory.
    fn check_backlog(&mut self, place: Place) {
        if let Some(Some(connection)) = self.connections.get(place)
            && connection.is_over_its_limit()
        {
            self.close(place);
        }
    }

    /// Drops the events that a guest has not taken for too long, though it could.
    pub(super) fn expire_events(&mut self, connection: &mut Connection) {
        let timeout = self.shared.watch_event_timeout;
        if !connection.is_guest() || timeout == Duration::ZERO || connection.is_quiesced {
            return;
        }
        let Some(deadline) = self.now.checked_sub(timeout) else { return };
        if connection.output.oldest_event().is_some_and(|queued| queued < deadline) {
            let dropped = connection.output.drop_events_before(deadline);
            connection.recharge_output();
            if let Some(count) = connection.domain.notice(Notice::EventsDropped) {
                let domid = connection.domid().0;
                tracing::warn!(domid, dropped, count, "events not taken in time");
            }
        }
    }
}

/// Whether a guest's events would put its use of memory above its quota.
fn is_at_memory_quota(registry: &Registry, connection: &Connection) -> bool {
    let limit = u64::from(registry.limit(&connection.domain, Quota::Memory));
    let uncharged = (connection.output.len() as u64).saturating_sub(connection.output_charged);
    limit != 0 && connection.domain.account.used(Quota::Memory) + uncharged >= limit
}

/// What it takes to queue events.
struct EventSender<'a> {
    now: Instant,
    /// Of connections that are quiesced, from then on.
    version: u64,
    registry: &'a Registry,
    /// The socket that took no more when it was last tried.
    full: Cell<Option<Place>>,
}

/// The events of one connection for one change: one for each path that it watches.
pub type ChangeEvents = SmallVec<[Event; 1]>;

/// Takes the next events that are of one connection and one change.
fn same_change(events: &mut VecDeque<Event>) -> Option<ChangeEvents> {
    let first = events.pop_front()?;
    let mut taken = ChangeEvents::new();
    let is_same = |event: &Event| {
        let same_path = match (&event.path, &first.path) {
            (Some(path), Some(first)) => Arc::ptr_eq(path, first),
            _ => false,
        };
        same_path && event.watcher.connection == first.watcher.connection
    };
    while events.front().is_some_and(is_same) {
        taken.extend(events.pop_front());
    }
    taken.insert(0, first);
    Some(taken)
}

impl EventSender<'_> {
    /// Queues the events of one change, behind the reply that the connection waits for if it does. Returns what that
    /// took: the watches that were looked at.
    fn send_or_defer(
        &self,
        connection: &mut Connection,
        events: ChangeEvents,
        ticket: Option<&Arc<Ticket>>,
    ) -> usize {
        match &mut connection.late {
            Some(late) if late.len() < LATE_MAX => {
                late.push((events, ticket.cloned()));
                1
            }
            Some(_) => {
                self.send_late(connection);
                self.send(connection, &events, ticket)
            }
            None => self.send(connection, &events, ticket),
        }
    }

    /// Queues the events of one change for a connection's watches that are still there, in the order in which
    /// it set them; of a guest that has no room, that it is to have them. Returns as above.
    fn send(
        &self,
        connection: &mut Connection,
        events: &[Event],
        ticket: Option<&Arc<Ticket>>,
    ) -> usize {
        if self.has_no_room(connection) {
            self.defer(connection, events, 0);
            return events.len();
        }
        let waits = !connection.is_quiesced;
        // The writer never waits for a process of the control domain, which may have stopped.
        let ticket = ticket.filter(|_| waits && matches!(connection.transport, Transport::Ring(_)));
        let notified = events.iter().flat_map(|event| {
            let Watcher { group, seq, .. } = event.watcher;
            let changed = event.path.as_deref();
            connection.watches.notified(group, seq, changed).map(move |id| (id, changed))
        });
        let mut notified: SmallVec<[_; 4]> = notified.collect();
        if events.len() > 1 {
            notified.sort_unstable_by_key(|(id, _)| id.seq);
        }
        let looked_at = events.len().max(notified.len());
        let mut last = 0;
        for (id, changed) in notified {
            if last > 0 && self.has_no_room(connection) {
                self.defer(connection, events, last);
                break;
            }
            self.send_one(connection, id, changed, ticket);
            last = id.seq;
        }
        looked_at
    }

    /// Whether the events of a guest have to wait until it has read others.
    fn has_no_room(&self, connection: &Connection) -> bool {
        connection.is_guest()
            && (connection.output.len() > connection.output_limits().1
                || connection.watches.has_deferred()
                || is_at_memory_quota(self.registry, connection))
    }

    /// Notes that the watches numbered above `after` are to have an event.
    fn defer(&self, connection: &mut Connection, events: &[Event], after: u64) {
        let mut outdates = false;
        for event in events {
            let Watcher { group, seq, .. } = event.watcher;
            outdates |= connection.watches.defer(group, seq, event.path.as_deref(), after);
        }
        if outdates && connection.is_quiesced {
            connection.outdate(self.version);
        }
    }

    /// Queues the event of one watch.
    fn send_one(
        &self,
        connection: &mut Connection,
        id: WatchId,
        changed: Option<&[u8]>,
        ticket: Option<&Arc<Ticket>>,
    ) {
        // Equal events merge, so what collapses adds one until that is visible.
        let changed = changed.filter(|_| !self.collapses(connection));
        let outdates = connection.queue_event(id, changed, ticket.cloned(), self.now);
        if outdates && connection.is_quiesced {
            connection.outdate(self.version);
        }
    }

    /// Whether so much is unread that events name the watched path only. A client that reads has room again
    /// once what was queued in this pass is sent.
    fn collapses(&self, connection: &mut Connection) -> bool {
        let limit = connection.output_limits().1;
        let reads = matches!(connection.transport, Transport::Socket(_))
            && !connection.listens_for_room
            && self.full.get() != Some(connection.asker.connection);
        if connection.output.len() > limit && reads {
            // Should its socket be closed, its next pass finds out.
            let _: Result<(), Disconnect> = connection.flush();
            self.full
                .set(Some(connection.asker.connection).filter(|_| !connection.output.is_empty()));
        }
        connection.output.len() > limit
    }

    fn send_late(&self, connection: &mut Connection) {
        for (events, ticket) in connection.late.take().into_iter().flatten() {
            self.send(connection, &events, ticket.as_ref());
        }
    }
}

#[cfg(test)]
mod tests;

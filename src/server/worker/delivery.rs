//! The delivery of events to the connections of a worker.

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Instant;

use smallvec::SmallVec;

use super::Worker;
use super::connection::Connection;
use super::ending::close;
use super::inbox::take_found;
use crate::domain::{Quota, Registry, Ticket};
use crate::server::mailbox::{Message, Slot};
use crate::server::session::Session;
use crate::server::session::core::Core;
use crate::server::session::watches::{ChangeEvents, WatchId};
use crate::sync::Arc;
use crate::transport::{Disconnect, Transport};
use crate::watch::{Batch, Event, Watcher};

/// The limit on post-reply events of one connection: with one more, all of them are queued in front of the reply.
const POST_REPLY_MAX: usize = 1024;

/// Delivers a commit's events to connections of this worker; events for connections and watches that are gone are
/// dropped. Ends when the pass has delivered its share, and leaves the rest to the next pass.
pub fn deliver(worker: &mut Worker, mut batch: Batch, mut serving: Option<&mut Connection>) {
    let Worker { core, clients, inbox, .. } = worker;
    let version = core.next_number();
    let sender = EventSender::new(core, version);
    let mut behind: Vec<Slot> = Vec::new();
    while let Some(events) = same_change(&mut batch.events) {
        // Whether it is sent or not: dropped events are no longer undelivered.
        core.mailbox().delivered(events.len() as u64);
        let mut cost = 1;
        let slot = events[0].watcher.connection as usize;
        // The connection being served is not in its slot.
        let connection = match &mut serving {
            Some(connection) if connection.session.reply_to.connection == slot => {
                Some(&mut **connection)
            }
            _ => clients.get_mut(slot),
        };
        if let Some(connection) = connection {
            cost = sender.send_or_defer(connection, events, batch.ticket.as_ref());
            if behind.last() != Some(&slot) {
                behind.push(slot);
            }
        }
        inbox.may_deliver = inbox.may_deliver.saturating_sub(cost);
        if inbox.may_deliver == 0 && !batch.events.is_empty() {
            // In front, since later events must not overtake it.
            inbox.undelivered.push_front(Message::Events(batch));
            break;
        }
    }
    for slot in behind {
        worker.clients.make_ready(slot);
        check_backlog(worker, slot);
    }
}

/// Delivers, ahead of all others, the queued events of a connection that is about to end. RELEASE overtakes queued
/// events, so it would lose them otherwise. Cost: visits each queued event of this worker.
pub fn deliver_ahead(worker: &mut Worker, slot: Slot) {
    // Those still in the mailbox, too.
    worker.inbox.take_queued(worker.core.mailbox());
    let mut queued = std::mem::take(&mut worker.inbox.undelivered);
    // Without the limit of the pass: the rest would be lost with the connection.
    let may_deliver = std::mem::replace(&mut worker.inbox.may_deliver, usize::MAX);
    for message in &mut queued {
        let Message::Events(batch) = message else { continue };
        take_found(worker.core.mailbox(), batch);
        let is_own = |event: &Event| event.watcher.connection as usize == slot;
        if !batch.events.iter().any(is_own) {
            continue;
        }
        let (own, others) = std::mem::take(&mut batch.events).into_iter().partition(is_own);
        batch.events = others;
        deliver(worker, batch.part(own), None);
    }
    worker.inbox.may_deliver = may_deliver;
    worker.inbox.undelivered = queued;
}

/// Queues the post-reply events of a connection, behind the reply.
pub fn send_post_reply(core: &mut Core, connection: &mut Connection) {
    let version = core.next_number();
    EventSender::new(core, version).send_post_reply(connection);
}

/// Queues deferred events while there is room, or one if the output is empty.
pub fn queue_deferred(core: &Core, connection: &mut Connection) {
    let session = &mut connection.session;
    while session.watches.has_deferred() {
        // At its quota a guest gets one event at a time: reading it makes room for the next.
        let full = is_at_memory_quota(core.registry(), session);
        let room = if full { 0 } else { session.output_limits().1 };
        if session.output.len() > room {
            return;
        }
        session.queue_next_deferred(core.now);
    }
}

/// Closes a socket client that takes nothing, as its output would grow without limit.
fn check_backlog(worker: &mut Worker, slot: Slot) {
    if worker.clients.get(slot).is_some_and(|connection| connection.session.is_over_its_limit()) {
        close(worker, slot);
    }
}

/// Returns whether a guest's pending events would exceed its quota of memory.
fn is_at_memory_quota(registry: &Registry, session: &Session) -> bool {
    let limit = u64::from(registry.limit(&session.domain, Quota::Memory));
    let uncharged = session.output.charge_bytes().saturating_sub(session.output_charged);
    limit != 0 && session.domain.account.used(Quota::Memory) + uncharged >= limit
}

/// The state needed to queue events.
struct EventSender<'a> {
    now: Instant,
    /// The new version of quiesced connections to which events are added.
    version: u64,
    registry: &'a Registry,
    /// The socket that took no more bytes when last tried, so that it is not tried for each event.
    full: Cell<Option<Slot>>,
}

/// Takes the next events that are for one connection and of one change.
fn same_change(events: &mut VecDeque<Event>) -> Option<ChangeEvents> {
    let first = events.pop_front()?;
    let mut taken = ChangeEvents::new();
    let is_same = |event: &Event| {
        // The events of one change share the allocation of its path.
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

impl<'a> EventSender<'a> {
    fn new(core: &'a Core, version: u64) -> EventSender<'a> {
        EventSender { now: core.now, version, registry: core.registry(), full: Cell::default() }
    }

    /// Queues the events of one change, or keeps them as post-reply events. Returns the cost: the number of watches
    /// visited.
    fn send_or_defer(
        &self,
        connection: &mut Connection,
        events: ChangeEvents,
        ticket: Option<&Arc<Ticket>>,
    ) -> usize {
        match &mut connection.session.post_reply {
            Some(kept) if kept.len() < POST_REPLY_MAX => {
                kept.push((events, ticket.cloned()));
                1
            }
            // Their memory must be bounded, even at the price of the order.
            Some(_) => {
                self.send_post_reply(connection);
                self.send(connection, &events, ticket)
            }
            None => self.send(connection, &events, ticket),
        }
    }

    /// Queues the events of one change for a connection's watches that are still set, in the order in which it set
    /// them; defers those of a guest without room. Returns the cost: the number of watches visited.
    fn send(
        &self,
        connection: &mut Connection,
        events: &[Event],
        ticket: Option<&Arc<Ticket>>,
    ) -> usize {
        if self.has_no_room(&connection.session) {
            self.defer(&mut connection.session, events, 0);
            return events.len();
        }
        // A quiesced domain may never be served again, so its events hold no other guest back.
        let waits = !connection.session.is_quiesced();
        // Only events on a ring hold back the guest that caused them: it must never wait for a process of the control
        // domain, which may have stopped.
        let ticket = ticket.filter(|_| waits && matches!(connection.transport, Transport::Ring(_)));
        let notified = events.iter().flat_map(|event| {
            let Watcher { group, seq, .. } = event.watcher;
            let notified = connection.session.watches.notified(group, seq, event.changed());
            notified.map(|id| (id, event.path.as_deref()))
        });
        let mut notified: SmallVec<[_; 4]> = notified.collect();
        // The events of several paths are by path; watches fire in the order in which they were set.
        if events.len() > 1 {
            notified.sort_unstable_by_key(|(id, _)| id.seq);
        }
        let looked_at = events.len().max(notified.len());
        // The numbers of watches begin at 1.
        let mut last = 0;
        for (id, changed) in notified {
            if last > 0 && self.has_no_room(&connection.session) {
                self.defer(&mut connection.session, events, last);
                break;
            }
            self.send_one(connection, id, changed, ticket);
            last = id.seq;
        }
        looked_at
    }

    /// Returns whether a guest has to read other events first.
    fn has_no_room(&self, session: &Session) -> bool {
        session.is_guest()
            && (session.output.len() > session.output_limits().1
                || session.watches.has_deferred()
                || is_at_memory_quota(self.registry, session))
    }

    /// Defers the events of the watches numbered above `after`.
    fn defer(&self, session: &mut Session, events: &[Event], after: u64) {
        let mut outdates = false;
        for event in events {
            let Watcher { group, seq, .. } = event.watcher;
            outdates |= session.watches.defer(group, seq, event.changed(), after);
        }
        if outdates && session.is_quiesced() {
            session.outdate(self.version);
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
        // Equal events merge, so collapsed ones add only one until that is partly sent.
        let changed = changed.filter(|_| !self.collapses(connection));
        let session = &mut connection.session;
        let outdates = session.queue_event(id, changed, ticket.cloned(), self.now);
        if outdates && session.is_quiesced() {
            session.outdate(self.version);
        }
    }

    /// Returns whether so much is unread that events name the watched path only. A socket client that reads is sent the
    /// queued output first, which may make room.
    fn collapses(&self, connection: &mut Connection) -> bool {
        let limit = connection.session.output_limits().1;
        // A socket that is registered for writability took nothing when last tried.
        let reads = matches!(connection.transport, Transport::Socket(_))
            && !connection.interest.is_writable()
            && self.full.get() != Some(connection.session.reply_to.connection);
        if connection.session.output.len() > limit && reads {
            // If the socket is closed, the connection's next quantum notices it.
            let _: Result<(), Disconnect> = connection.flush();
            self.full.set(
                Some(connection.session.reply_to.connection)
                    .filter(|_| !connection.session.output.is_empty()),
            );
        }
        connection.session.output.len() > limit
    }

    // In the order in which they were caused.
    fn send_post_reply(&self, connection: &mut Connection) {
        for (events, ticket) in connection.session.post_reply.take().into_iter().flatten() {
            self.send(connection, &events, ticket.as_ref());
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests;

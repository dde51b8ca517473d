//! The dispatch of messages from other threads: their order, and the function that handles each.

use std::time::Duration;

use super::Worker;
use super::accepting::accepted;
use super::connection::Connection;
use super::delivery::deliver;
use super::domains::{domain_changed, domain_request};
use super::inbox::Inbox;
use super::replies::take_reply;
use super::watch_list::watch_list;
use crate::protocol::operations::DomainRequest;
use crate::server::mailbox::{Mailbox, Message};
use crate::server::migration::quiesce::{quiesce, unquiesce};
use crate::server::migration::serve_move::move_request;
use crate::server::session::core::Halt;
use crate::sync::Ordering;

/// The number of urgent messages taken in one pass. The others wait for the next pass, so that clients are served in
/// between.
const URGENT_PER_PASS: usize = 1024;
/// The timeout of replies to requests that were taken before a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Takes messages, including postponed ones: first those that may overtake events.
pub fn take_messages(worker: &mut Worker) {
    for _ in 0..URGENT_PER_PASS {
        let Some(message) = worker.core.mailbox().pop_urgent() else { break };
        let releases = matches!(message, Message::Domain(_, _, DomainRequest::Release(_), _));
        if releases && worker.inbox.has_pending_events(worker.core.mailbox()) {
            // Events still searched by the matcher may be the domain's, so RELEASE waits behind them, or it would lose
            // them.
            worker.inbox.undelivered.push_back(message);
        } else {
            take_message(worker, message);
        }
    }
    while let Some(message) = next_message(&mut worker.inbox, worker.core.mailbox()) {
        take_message(worker, message);
    }
}

fn next_message(inbox: &mut Inbox, mailbox: &Mailbox) -> Option<Message> {
    inbox.postponed.pop_front().or_else(|| inbox.next_event(mailbox))
}

/// Delivers events between two requests of a connection, as its own must follow the reply just queued. Other messages
/// wait until the connection is back in its slot. C xenstored sends the event first, which breaks a libxenstore built
/// without threads.
pub fn take_events(worker: &mut Worker, connection: &mut Connection) {
    // A postponed message was ahead of all events that are still queued.
    while worker.inbox.postponed.is_empty()
        && let Some(message) = worker.inbox.next_event(worker.core.mailbox())
    {
        match message {
            Message::Events(batch) => deliver(worker, batch, Some(connection)),
            other => worker.inbox.postponed.push_back(other),
        }
    }
}

fn take_message(worker: &mut Worker, message: Message) {
    match message {
        Message::Events(batch) => deliver(worker, batch, None),
        Message::Reply(reply_to, result) => take_reply(worker, reply_to, result),
        Message::Domain(reply_to, domid, request, by) => {
            domain_request(worker, reply_to, (domid, request), &by)
        }
        Message::Quiesce(part, by) => quiesce(worker, part, &by),
        Message::Unquiesce { part, forced, by } => unquiesce(worker, part, forced, &by),
        Message::DomainChanged(domid) => domain_changed(worker, domid),
        Message::Accepted(socket) => {
            accepted(&mut worker.core, &mut worker.clients, worker.poll.registry(), socket)
        }
        Message::Unblocked(domid) => {
            if let Some(slot) = worker.clients.of_domain(domid) {
                worker.clients.make_ready(slot);
            }
        }
        Message::ReservationEnded(reply_to) => {
            // The slot may have been reused since.
            let connection = worker.clients.get(reply_to.connection);
            if connection.is_some_and(|connection| connection.session.reply_to == reply_to) {
                worker.clients.make_ready(reply_to.connection);
            }
        }
        Message::CheckWatches(reply) => {
            // Fails if the caller has timed out.
            let _ = reply.send(watch_list(&worker.core, &worker.clients));
        }
        Message::Move(request) => move_request(worker, request),
        Message::Pause => worker.core.halt = Some(Halt::Pause),
        Message::Stop => {
            worker.core.halt = Some(Halt::Stop(worker.core.now + STOP_TIMEOUT));
            // AcqRel: a worker that reads the full number in `is_over` also sees every connection parked before.
            worker.core.shared.stopping.fetch_add(1, Ordering::AcqRel);
        }
    }
}

//! QUIESCE and UNQUIESCE, on the domain's owner thread.
//!
//! The owner thread executes a domain's requests one after another, and QUIESCE among them. So the domain's last
//! request is done by then, unless it is parked for a reply of another thread (the reaper settles its RM). QUIESCE
//! waits for that reply and for nothing else:
//!
//! - A request that waits for a reservation to end has not begun: it stays in the page, with those behind it.
//! - Output for which the guest makes no room stays queued: QUIESCE never waits for a guest.
//!
//! From then on the page is neither written nor read, so that a saved connection stays valid. Events are queued within
//! the usual limits, without a ticket: a domain that may never be served again must not hold back the domains that
//! cause its events. No timeout ends a quiesce: by then the domain may run on another host.

use std::time::Instant;

use super::scatter_gather::Part;
use crate::server::author::Author;
use crate::server::mailbox::Slot;
use crate::server::session::core::Core;
use crate::server::session::reservations::leave_reservations;
use crate::server::session::{self, Parked};
use crate::server::standing::Standing;
use crate::server::state::kept::Elsewhere;
use crate::server::state::{Effects, Event, Service};
use crate::server::worker::Worker;
use crate::server::worker::clients::Clients;
use crate::server::worker::connection::Stream;
use crate::server::worker::rings::give_up;
use crate::sync::Arc;
use crate::transport::Disconnect;
use crate::types::{Domid, Errno, Presence};

/// Quiesces a domain whose owner thread this is.
pub fn quiesce(worker: &mut Worker, part: Part, by: &Arc<Author>) {
    let domid = part.domid();
    let was_running = worker.presence(domid) == Presence::Running;
    // A refused part was dropped, which reports ENOENT for its domain.
    if let Ok(effects) = worker.step_of(domid, Event::Quiesce(part)) {
        // A repeated QUIESCE finds the domain quiesced, so its client is not the author.
        if was_running {
            worker.domains.note(domid, by, None);
        }
        perform(worker, domid, effects);
        drain(worker, domid);
    }
}

/// Undoes the quiescing of a domain whose owner thread this is.
pub fn unquiesce(worker: &mut Worker, part: Part, forced: bool, by: &Author) {
    let domid = part.domid();
    // Before the step, which forgets both.
    let Standing { elsewhere, note, .. } = worker.domains.standing(worker.core.registry(), domid);
    match worker.step_of(domid, Event::Unquiesce { forced }) {
        Ok(effects) => {
            perform(worker, domid, effects);
            part.done();
            if elsewhere != Elsewhere::No {
                tracing::info!(
                    domid = domid.0,
                    elsewhere = elsewhere.name(),
                    to = note.and_then(|note| note.to).as_deref(),
                    pid = by.pid,
                    command = by.command,
                    "domain served by force"
                );
            }
        }
        Err(errno) => part.failed(errno),
    }
}

/// Undoes the quiescing of a domain whose export failed.
///
/// # Errors
/// `ENOENT` if it is not introduced.
pub fn undo_quiesce(worker: &mut Worker, domid: Domid) -> Result<(), Errno> {
    let effects = worker.step_of(domid, Event::ExportFailed)?;
    perform(worker, domid, effects);
    Ok(())
}

/// Completes the quiescing of a domain unless a request of it is in progress. Output for which the guest has room is in
/// the page before QUIESCE is replied to.
pub fn drain(worker: &mut Worker, domid: Domid) {
    let Some(slot) = worker.clients.of_domain(domid) else { return };
    let connection = worker.clients.get(slot);
    let is_drained = connection.is_some_and(|connection| connection.session.parked.is_none());
    if !is_drained || worker.presence(domid) != Presence::Quiescing {
        return;
    }
    if let Ok(effects) = worker.step_of(domid, Event::Drained) {
        // Before the parts end: the reply promises that the page has all the output that fits.
        flush_quiesced(worker, slot);
        perform(worker, domid, effects);
    }
}

fn flush_quiesced(worker: &mut Worker, slot: Slot) {
    let Some(connection) = worker.clients.get_mut(slot) else { return };
    let is_given_up = connection.stream == Stream::GivenUp;
    let mut flushed = Ok(());
    // An abandoned ring is not served, and the queues of one that reconnects are about to be reset.
    if let Some(ring) = connection.ring()
        && !is_given_up
        && !ring.wants_reconnect()
    {
        flushed = ring.begin().map_err(Disconnect::from).and_then(|()| connection.flush());
    }
    if let Some(ring) = connection.ring()
        && ring.publish()
    {
        worker.channels.notify(ring.port);
    }
    if let Err(Disconnect::Broken(error)) = flushed {
        give_up(worker, slot, error);
    }
}

/// Executes the effects of an event of an introduced domain.
fn perform(worker: &mut Worker, domid: Domid, effects: Effects) {
    match effects.service {
        Some(Service::Begins) => begin_service(&mut worker.clients, domid, worker.core.now),
        Some(Service::Ends) => end_service(&mut worker.core, &mut worker.clients, domid),
        None => {}
    }
    if effects.ends_import {
        tracing::info!(domid = domid.0, "domain served after its import");
    }
    // Last: the reply that the last part sends lets the client proceed.
    effects.quiesced.into_iter().for_each(Part::done);
    effects.overtaken.into_iter().for_each(|part| part.failed(Errno::EAGAIN));
}

fn end_service(core: &mut Core, clients: &mut Clients, domid: Domid) {
    let slot = clients.of_domain(domid);
    let Some(connection) = slot.and_then(|slot| clients.get_mut(slot)) else { return };
    let session = &mut connection.session;
    if session.parked.take_if(|parked| matches!(parked, Parked::Reserved(_))).is_some() {
        // The parked request will not begin, so the next reservation need not wait for it.
        leave_reservations(core, session);
    }
    session.service = session::Service::Quiesced;
    // While it was served, its requests did not change the version, so an export of before must not seem current.
    session.outdate(core.next_number());
    // A domain that may never be served again must not hold back the guests that cause its events.
    session.output.forget_tickets();
    session.trace(format_args!("quiesce"));
}

fn begin_service(clients: &mut Clients, domid: Domid, now: Instant) {
    let Some(slot) = clients.of_domain(domid) else { return };
    let Some(connection) = clients.get_mut(slot) else { return };
    let session = &mut connection.session;
    session.service = session::Service::Running;
    // The guest could not take the events meanwhile, so their timeout begins anew.
    session.output.renew_events(now);
    session.trace(format_args!("unquiesce"));
    clients.make_ready(slot);
}

//! QUIESCE and UNQUIESCE, on the domain's home thread.
//!
//! A domain's requests run on its home thread, one after another, and so does QUIESCE: when it is
//! looked at, the domain's last request is done, or it waits for one answer that somebody else gives
//! (its RM is being settled). Then QUIESCE waits for that answer, and for nothing else:
//!
//! - A request that waits for a guard has not begun: it stays in the page, like those behind it.
//! - What the guest does not take stays queued: QUIESCE never waits for a guest.
//!
//! From then on the page is not written and nothing in it is looked at, so that whatever is taken of
//! this connection stays what it is. Events are queued within the usual limits, without a ticket:
//! nobody else is held up by a domain that may not be served.

use super::scatter_gather::Share;
use crate::shard::mailbox::Place;
use crate::shard::session::reservations::leave_turns;
use crate::shard::session::{self, Parked};
use crate::shard::state::{Effects, Event, Service};
use crate::shard::worker::Worker;
use crate::shard::worker::connection::Stream;
use crate::shard::worker::rings::give_up;
use crate::transport::Disconnect;
use crate::words::{Domid, Errno, Presence};

/// QUIESCE of a domain whose home thread this is.
pub fn quiesce(worker: &mut Worker, share: Share) {
    let domid = share.domid();
    // A share that is refused has said so.
    if let Ok(effects) = worker.step_of(domid, Event::Quiesce(share)) {
        perform(worker, domid, effects);
        drain(worker, domid);
    }
}

/// UNQUIESCE of a domain whose home thread this is.
pub fn unquiesce(worker: &mut Worker, share: Share) {
    let domid = share.domid();
    if let Ok(effects) = worker.step_of(domid, Event::Unquiesce) {
        perform(worker, domid, effects);
        share.done();
    }
}

/// Serves a domain again that an export quiesced which failed.
///
/// # Errors
/// `ENOENT` if it is not introduced.
pub fn undo_quiesce(worker: &mut Worker, domid: Domid) -> Result<(), Errno> {
    let effects = worker.step_of(domid, Event::ExportFailed)?;
    perform(worker, domid, effects);
    Ok(())
}

/// Ends the quiescing of a domain of which nothing is under way. What its guest has room for is in the page
/// before QUIESCE is replied to.
pub fn drain(worker: &mut Worker, domid: Domid) {
    let Some(place) = worker.clients.of_domain(domid) else { return };
    let connection = worker.clients.get(place);
    let is_drained = connection.is_some_and(|connection| connection.session.parked.is_none());
    if !is_drained || worker.presence(domid) != Presence::Quiescing {
        return;
    }
    if let Ok(effects) = worker.step_of(domid, Event::Drained) {
        flush_quiesced(worker, place);
        perform(worker, domid, effects);
    }
}

fn flush_quiesced(worker: &mut Worker, place: Place) {
    let Some(connection) = worker.clients.get_mut(place) else { return };
    let is_given_up = connection.stream == Stream::GivenUp;
    let mut flushed = Ok(());
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
        give_up(worker, place, error);
    }
}

/// Does what follows an event of an introduced domain.
fn perform(worker: &mut Worker, domid: Domid, effects: Effects) {
    match effects.service {
        Some(Service::Begins) => begin_service(worker, domid),
        Some(Service::Ends) => end_service(worker, domid),
        None => {}
    }
    if effects.ends_import {
        tracing::info!(domid = domid.0, "served after its import");
    }
    effects.quiesced.into_iter().for_each(Share::done);
    effects.overtaken.into_iter().for_each(|share| share.failed(Errno::EAGAIN));
}

fn end_service(worker: &mut Worker, domid: Domid) {
    let Worker { core, clients, .. } = worker;
    let place = clients.of_domain(domid);
    let Some(connection) = place.and_then(|place| clients.get_mut(place)) else { return };
    let session = &mut connection.session;
    if session.parked.take_if(|parked| matches!(parked, Parked::Guard(_))).is_some() {
        // Others do not wait until it has written.
        leave_turns(core, session);
    }
    session.service = session::Service::Quiesced;
    session.outdate(core.next_number());
    session.output.forget_tickets();
    session.trace(format_args!("quiesce"));
}

fn begin_service(worker: &mut Worker, domid: Domid) {
    let Some(place) = worker.clients.of_domain(domid) else { return };
    let Some(connection) = worker.clients.get_mut(place) else { return };
    let session = &mut connection.session;
    session.service = session::Service::Running;
    // It could not take them: it has all the time again.
    session.output.renew_events(worker.core.now);
    session.trace(format_args!("unquiesce"));
    worker.clients.make_ready(place);
}

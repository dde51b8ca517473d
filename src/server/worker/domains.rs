//! The requests and host events that concern one domain: INTRODUCE, RELEASE, RESUME, SET_TARGET, shutdown and death.
//! The domain's owner thread executes all of them, between requests, so they are serialized and no thread blocks.
//! RELEASE ends a connection only: rights and nodes belong to the incarnation, on which migration and a change of
//! daemon depend.

use super::Worker;
use super::connection::Connection;
use super::delivery::deliver_ahead;
use super::ending::disconnect_ring;
use super::rings::{connect_ring, introduce_again};
use crate::domain::{Domain, Registry};
use crate::host::{Gfn, Port};
use crate::protocol::Header;
use crate::protocol::operations::DomainRequest;
use crate::server::author::Author;
use crate::server::mailbox::{Message, ReplyTo};
use crate::server::migration::domain_watches::{add_watches, list_watches};
use crate::server::migration::marks::leave;
use crate::server::migration::saved_connection::reserve_transaction;
use crate::server::requests::context::ACK;
use crate::server::standing::DomainStates;
use crate::server::state::Event;
use crate::server::state::kept::StreamRemainder;
use crate::store::sweep;
use crate::sync::{Arc, Ordering};
use crate::types::{Domid, Errno, INTRODUCE_DOMAIN, RELEASE_DOMAIN};

/// Executes a request about a domain whose owner thread this is. The reply is posted before the event that reports the
/// change, so no client sees the event of its own request before the reply.
pub fn domain_request(
    worker: &mut Worker,
    reply_to: ReplyTo,
    (domid, request): (Domid, DomainRequest),
    by: &Arc<Author>,
) {
    let reported = |special| (ACK.to_vec(), special);
    let silent = |()| (ACK.to_vec(), None);
    let result = match request {
        DomainRequest::Introduce(gfn, port) => {
            introduce(worker, domid, (gfn, port), by).map(reported)
        }
        DomainRequest::Release(mark) => release(worker, domid, mark, by).map(reported),
        DomainRequest::Resume => resume(worker.core.registry(), domid).map(silent),
        DomainRequest::SetTarget(target) => {
            set_target(worker.core.registry(), domid, target).map(silent)
        }
        DomainRequest::ListWatches(index, listing) => {
            list_watches(&mut worker.clients, domid, index, listing).map(|list| (list, None))
        }
        DomainRequest::AddWatches(watches) => {
            add_watches(&mut worker.core, &mut worker.clients, domid, &watches).map(silent)
        }
        DomainRequest::StartTransaction(id) => {
            reserve_transaction(&mut worker.core, &mut worker.clients, domid, id).map(silent)
        }
    };
    let event = result.as_ref().ok().and_then(|(_, special)| *special);
    let reply = Message::Reply(reply_to, result.map(|(reply, _)| reply));
    worker.core.shared.mailboxes.post(reply_to.thread, reply);
    if let Some(special) = event {
        worker.core.shared.store.publish_special(special, domid);
    }
}

/// Executes INTRODUCE, and returns the special path whose watches fire then.
///
/// # Errors
/// `EINVAL` if the host has no such domain or its ring cannot be mapped; those of the domain's state.
pub fn introduce(
    worker: &mut Worker,
    domid: Domid,
    (gfn, port): (Option<Gfn>, Port),
    by: &Arc<Author>,
) -> Result<Option<&'static [u8]>, Errno> {
    // An earlier incarnation may have ended, with the host's notification still on its way.
    domain_changed(worker, domid);
    let domain = worker.core.shared.known_domain(domid).ok_or(Errno::EINVAL)?;
    let Some(connect) = worker.domains.step(&domain, Event::Introduce)?.connect else {
        // The page is not written: the guest may be in the middle of a message.
        let slot = worker.clients.of_domain(domid).ok_or(Errno::EIO)?;
        return introduce_again(worker, slot, port).map(|()| None);
    };
    match connect_ring(worker, &domain, (gfn, port), connect) {
        Ok(()) => {
            worker.domains.note(domid, by, None);
            Ok((domid != Domid::CONTROL).then_some(INTRODUCE_DOMAIN))
        }
        Err(error) => {
            tracing::warn!(%error, domid = domid.0, port, "cannot introduce a domain");
            Err(Errno::EINVAL)
        }
    }
}

fn release(
    worker: &mut Worker,
    domid: Domid,
    mark: Option<u64>,
    by: &Arc<Author>,
) -> Result<Option<&'static [u8]>, Errno> {
    let slot = worker.clients.of_domain(domid).ok_or(Errno::ENOENT)?;
    deliver_ahead(worker, slot);
    if mark.is_some() && worker.inbox.has_pending_events(worker.core.mailbox()) {
        // Events still searched by the matcher may be the domain's, and its new host would never send them.
        return Err(Errno::EAGAIN);
    }
    // The only step of a move that cannot be reverted is also the last that can fail.
    let client = mark.map(|mark| leave(worker, domid, mark)).transpose()?;
    // After `leave`, which saves the connection.
    let Some((connection, waits)) = disconnect_ring(worker, slot) else {
        return Err(Errno::ENOENT);
    };
    let domain = Arc::clone(&connection.session.domain);
    let event = match client {
        Some(client) => Event::ReleaseWithMark(client),
        None => Event::Release(carry_on(&mut worker.domains, connection, waits)),
    };
    worker.domains.step(&domain, event)?;
    if mark.is_some() {
        worker.domains.note(domid, by, None);
        tracing::info!(
            domid = domid.0,
            mark,
            pid = by.pid,
            command = by.command,
            "domain released with a mark"
        );
    }
    Ok(Some(RELEASE_DOMAIN))
}

/// Returns the stream remainder of an ended connection for an INTRODUCE of the same ring, unless it is empty.
fn carry_on(
    domains: &mut DomainStates,
    mut connection: Box<Connection>,
    waits: Option<Header>,
) -> Option<Box<StreamRemainder>> {
    let position = connection.ring().map(|ring| ring.position()).unwrap_or_default();
    let partial = std::mem::take(&mut connection.session.partial);
    let output = std::mem::take(&mut connection.session.output).remainder();
    let waits = waits.map(|header| (connection.session.reply_to.id, header));
    if waits.is_some() {
        domains.note_released(connection.session.reply_to.id, connection.session.domid());
    }
    let is_empty = partial.is_empty() && output.is_empty() && waits.is_none();
    (!is_empty).then(|| Box::new(StreamRemainder { position, partial, output, waits }))
}

fn resume(registry: &Registry, domid: Domid) -> Result<(), Errno> {
    connected_domain(registry, domid)?.swap_shutdown(false);
    Ok(())
}

fn set_target(registry: &Registry, domid: Domid, target: Domid) -> Result<(), Errno> {
    let domain = connected_domain(registry, domid)?;
    // The target has another owner thread, but its state's name is published.
    let target = connected_domain(registry, target)?;
    registry.set_target(&domain, &target);
    Ok(())
}

fn connected_domain(registry: &Registry, domid: Domid) -> Result<Arc<Domain>, Errno> {
    let domain = registry.get(domid);
    domain.filter(|domain| domain.is_introduced()).ok_or(Errno::ENOENT)
}

/// Handles a possible shutdown or death of a domain whose owner thread this is.
pub fn domain_changed(worker: &mut Worker, domid: Domid) {
    let Some(domain) = worker.core.registry().get(domid) else { return };
    let state = match worker.core.shared.host.domain(domid) {
        // With another id the domid was reused: this incarnation is dead.
        Ok(state) => state.filter(|state| state.unique_id == domain.unique_id && !state.dying),
        // An error is no death: a running guest's nodes would be removed.
        Err(error) => return worker.channels.domain_failed(&worker.core, domid, &error),
    };
    match state {
        None if domid != Domid::CONTROL => domain_died(worker, &domain),
        Some(state) if state.shutdown && domain.is_introduced() => {
            // Once for a shutdown, however often the host reports it, until RESUME.
            let reported = domain.swap_shutdown(true);
            if !reported {
                worker.core.shared.store.publish_special(RELEASE_DOMAIN, domid);
            }
        }
        _ => {}
    }
}

/// Ends a dead domain: first its connection and its rights, then its nodes; the event is published last, so that its
/// watchers find the nodes gone.
fn domain_died(worker: &mut Worker, domain: &Arc<Domain>) {
    let was_introduced = domain.is_introduced();
    if let Some(slot) = worker.clients.of_domain(domain.domid) {
        disconnect_ring(worker, slot);
    }
    // Refused only for an incarnation that has ended already, which leaves nothing to do.
    let _ = worker.domains.step(domain, Event::Died);
    // The rights end before the sweep. A creator of a node checks under the shard's lock that the owner lives, so none
    // is created behind the sweep.
    if !worker.core.registry().bury(domain) {
        // Another report of the same death came first.
        return;
    }
    let store = Arc::clone(&worker.core.shared.store);
    let by = worker.core.shared.daemon_caller();
    for executed in sweep(&store, domain, &by, &mut worker.core.generations) {
        if let Some(rest) = store.settle(executed.removed) {
            store.reap(rest, Box::new(|| {}));
        }
    }
    if was_introduced {
        store.publish_special(RELEASE_DOMAIN, domain.domid);
    }
    worker.core.shared.deaths.fetch_add(1, Ordering::Relaxed);
}

//! The start and the reset of rings' connections.

use std::io;

use super::Worker;
use super::connection::{Connection, Stream};
use super::ending::{close, withdraw};
use super::event_channels::EventChannels;
use crate::domain::{Domain, Notice};
use crate::host::{Gfn, Host, Port};
use crate::server::mailbox::{Message, ReplyTo, Slot};
use crate::server::migration::saved_connection::restore_connection;
use crate::server::session::core::Core;
use crate::server::session::{Kind, Pending, Session};
use crate::server::state::{Connect, Connected, Event, Imported};
use crate::server::trace;
use crate::store::Unblocked;
use crate::sync::Arc;
use crate::transport::{Ring, RingError, Transport};
use crate::types::{Domid, Errno};

/// Binds the port of domain changes to this worker, and serves the control domain's own ring if the host has one.
///
/// # Errors
/// The host's.
pub fn serve_control_domain(worker: &mut Worker) -> io::Result<()> {
    // First: it fails if another daemon serves this host, before anything of a ring is touched.
    worker.channels.bind_changes()?;
    if let Some(port) = worker.core.shared.host.control_port()? {
        let domain = Arc::clone(&worker.core.shared.control_domain);
        let introduced = worker.domains.step(&domain, Event::Introduce);
        if let Some(connect) = introduced.ok().and_then(|effects| effects.connect) {
            connect_ring(worker, &domain, (None, port), connect)?;
        }
    }
    Ok(())
}

/// Maps a domain's ring, binds its port, and serves it from now on.
///
/// # Errors
/// The host's.
pub fn connect_ring(
    worker: &mut Worker,
    domain: &Arc<Domain>,
    (gfn, port): (Option<Gfn>, Port),
    connect: Connect,
) -> io::Result<()> {
    let (domid, slot) = (domain.domid, worker.clients.next_slot());
    let mut ring =
        match map_ring(&*worker.core.shared.host, &mut worker.channels, (domid, gfn, port), slot) {
            Ok(ring) => ring,
            Err(error) => {
                // Refused only if the incarnation has ended.
                let _ = worker.domains.step(domain, Event::ConnectFailed(connect));
                return Err(error);
            }
        };
    ring.offer(domain.features());
    // A migrated domain that has requested a reconnection gets it when UNQUIESCE serves it, as if it had not moved.
    if matches!(connect, Connect::New(_)) {
        ring.connected();
    }
    let (position, port) = (ring.position(), ring.port);
    let core = &mut worker.core;
    let reply_to = ReplyTo { thread: core.number, connection: slot, id: core.next_number() };
    let kind = ring_kind(core, domid);
    let mut connection = Connection::new(reply_to, Arc::clone(domain), kind, Transport::Ring(ring));
    let connected = take_over(core, &mut connection.session, connect, position);
    connection.session.trace(format_args!("create connection of a ring"));
    worker.clients.add(connection);
    worker.clients.add_ring(domid, slot);
    worker.scan.ring_added(core.now, worker.clients.ring_count());
    // The transition cannot fail: the state is Connecting, which accepts the event.
    let _ = worker.domains.step(domain, Event::Connected(connected));
    // Bytes that the guest wrote before its port was bound caused no notification.
    worker.clients.make_ready(slot);
    worker.channels.notify(port);
    Ok(())
}

fn map_ring(
    host: &dyn Host,
    channels: &mut EventChannels,
    (domid, gfn, port): (Domid, Option<Gfn>, Port),
    slot: Slot,
) -> io::Result<Ring> {
    let page = host.map_ring(domid, gfn)?;
    let remote = Ring::named_port(&page).unwrap_or(port);
    // If this fails the page is dropped and unmapped, so a failed INTRODUCE leaves nothing.
    let port = channels.bind(domid, remote, slot)?;
    Ok(Ring::new(page, port, remote, gfn))
}

/// Initializes a new session from the data kept for its domain.
fn take_over(
    core: &mut Core,
    session: &mut Session,
    connect: Connect,
    position: (u32, u32),
) -> Connected {
    match connect {
        Connect::New(remainder) => {
            // Other indices mean that the ring was used or reset since, and the bytes would be out of place.
            if let Some(remainder) = remainder.filter(|remainder| remainder.position == position) {
                session.partial = remainder.partial;
                session.output = remainder.output;
                session.recharge_output();
                if let Some((id, header)) = remainder.waits {
                    // The reply on its way is addressed to this number.
                    session.reply_to.id = id;
                    session.park(core, &header);
                }
            }
            Connected::New
        }
        Connect::Left(moved) => {
            restore_connection(core, session, *moved);
            Connected::Left
        }
        Connect::Arrived(moved, before) => {
            let seen = restore_connection(core, session, *moved);
            Connected::Arrived(Imported { seen, before })
        }
    }
}

/// Returns the kind of a client that is a domain's ring.
pub fn ring_kind(core: &Core, domid: Domid) -> Kind {
    // A domain with the control domain's rights (`--priv-domid`) is not throttled either.
    match core.registry().is_privileged(domid) {
        true => Kind::Kernel,
        false => Kind::Guest(unblocked(core)),
    }
}

/// Returns the callback that notifies this worker, from any thread, when the domain may proceed.
fn unblocked(core: &Core) -> Unblocked {
    let (mailboxes, thread) = (core.shared.mailboxes.clone(), core.number);
    // `send`: the last reference to a ticket may be dropped on a thread without passes.
    Arc::new(move |domain| mailboxes.send(thread, Message::Unblocked(domain.domid)))
}

/// Resets the event channel and the connection of a domain that is introduced again; the queues in the page are kept.
///
/// # Errors
/// `EINVAL` if the host does not bind the channel.
pub fn introduce_again(worker: &mut Worker, slot: Slot, remote: Port) -> Result<(), Errno> {
    let connection = worker.clients.get_mut(slot).ok_or(Errno::EIO)?;
    withdraw(&mut worker.core, &mut connection.session);
    // Replies stay: the guest may be in the middle of a message, and does not repeat its requests.
    connection.session.output.drop_events();
    connection.session.recharge_output();
    connection.session.trace(format_args!("introduce again"));
    let bound = bind_again(connection, &mut worker.channels, remote);
    worker.clients.make_ready(slot);
    bound
}

/// Rebinds the event channel of a ring.
fn bind_again(
    connection: &mut Connection,
    channels: &mut EventChannels,
    remote: Port,
) -> Result<(), Errno> {
    let slot = connection.session.reply_to.connection;
    let was_given_up = std::mem::replace(&mut connection.stream, Stream::Open) == Stream::GivenUp;
    let domid = connection.session.domid();
    let ring = connection.ring().ok_or(Errno::EINVAL)?;
    // Unbound first: the guest's port can be bound only once, and may be the same.
    channels.unbind(ring.port);
    let Ok(port) = channels.bind(domid, remote, slot) else {
        // The freed number may be given to another domain's port.
        ring.port = 0;
        return Err(Errno::EINVAL);
    };
    (ring.port, ring.remote, ring.masked) = (port, remote, false);
    ring.connected();
    // The page's error means that the ring is not served, which is over.
    if was_given_up {
        ring.mend();
    }
    Ok(())
}

/// Resets a session with its stream. The session gets a new number, so that replies to its earlier requests are
/// discarded.
fn reset(core: &mut Core, session: &mut Session) {
    withdraw(core, session);
    session.unpark(core);
    session.post_reply = None;
    session.output = Default::default();
    session.recharge_output();
    session.partial.clear();
    session.pending = Pending::Nothing;
    session.trace(format_args!("destroy connection"));
    session.reply_to.id = core.next_number();
    session.outdate(session.reply_to.id);
    session.trace(format_args!("create connection of a ring"));
}

/// Reconnects a guest that requests it (xenstore-ring.txt, "The ring reconnection feature"), and returns whether it
/// did.
pub fn reconnects(core: &mut Core, connection: &mut Connection) -> bool {
    if !connection.ring().is_some_and(|ring| ring.wants_reconnect()) {
        return false;
    }
    reset(core, &mut connection.session);
    connection.stream = Stream::Open;
    if let Some(ring) = connection.ring() {
        ring.reconnect();
    }
    true
}

/// Abandons a connection after a protocol error: closes a socket; stops serving a ring until the guest reconnects,
/// while its domain stays known until it is dead (XSA-325).
pub fn give_up(worker: &mut Worker, slot: Slot, error: RingError) {
    let Some(connection) = worker.clients.get_mut(slot) else { return };
    log_given_up(connection, error);
    // A socket's client can connect again; a domain has only this ring.
    if connection.ring().is_none() {
        return close(worker, slot);
    }
    reset(&mut worker.core, &mut connection.session);
    connection.stream = Stream::GivenUp;
    if let Some(ring) = connection.ring() {
        ring.give_up(error);
        let (port, _) = (ring.port, ring.publish());
        // The guest may still ask for a reconnection, for which its notification must arrive.
        ring.masked = false;
        worker.channels.notify(port);
        worker.channels.unmask(&worker.core, slot, port);
    }
}

/// Logs that a connection is abandoned. A guest can break its ring and reconnect thousands of times a second, so for
/// each domain only the 1st, 2nd, 4th, 8th ... time is logged.
fn log_given_up(connection: &mut Connection, error: RingError) {
    let is_ring = connection.ring().is_some();
    let session = &connection.session;
    let times = is_ring.then(|| session.domain.notice(Notice::GivenUp)).flatten();
    if !is_ring || times.is_some() {
        let (domid, pid) = (session.domid().0, connection.transport.pid());
        let connection = trace::name(&session.reply_to);
        tracing::warn!(%connection, domid, pid, times, %error, "connection stopped, protocol error");
    }
}

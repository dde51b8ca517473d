//! The connections of rings: how they begin, and begin anew.

use std::io;

use super::Worker;
use super::connection::{Connection, Stream};
use super::ending::{close, withdraw};
use crate::domain::{Domain, Notice};
use crate::host::{Gfn, Port};
use crate::shard::mailbox::{Asker, Message, Place};
use crate::shard::migration::saved_connection::restore_connection;
use crate::shard::session::core::Core;
use crate::shard::session::{Kind, Pending, Session};
use crate::shard::state::{Connect, Connected, Event, Imported};
use crate::shard::trace;
use crate::store::Unblocked;
use crate::sync::Arc;
use crate::transport::{Ring, RingError, Transport};
use crate::words::{Domid, Errno};

/// Makes this worker the one that is told when domains change, and serves the control domain's
/// own ring.
///
/// # Errors
/// The host's.
pub fn serve_control_domain(worker: &mut Worker) -> io::Result<()> {
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
    let (domid, place) = (domain.domid, worker.clients.next_place());
    let mut ring = match map_ring(worker, domid, (gfn, port), place) {
        Ok(ring) => ring,
        Err(error) => {
            // The domain is gone if this is refused.
            let _ = worker.domains.step(domain, Event::ConnectFailed(connect));
            return Err(error);
        }
    };
    ring.offer(domain.features());
    // A domain that moved and asked for a new beginning gets it with UNQUIESCE, as if it had stayed.
    if matches!(connect, Connect::New(_)) {
        ring.connected();
    }
    let (position, port) = (ring.position(), ring.port);
    let core = &mut worker.core;
    let asker = Asker { thread: core.number, connection: place, id: core.next_number() };
    let is_privileged = core.registry().is_privileged(domid);
    let kind = if is_privileged { Kind::Kernel } else { Kind::Guest(unblocked(core)) };
    let mut connection = Connection::new(asker, Arc::clone(domain), kind, Transport::Ring(ring));
    let connected = take_over(core, &mut connection.session, connect, position);
    connection.session.trace(format_args!("create connection of a ring"));
    worker.clients.add(connection);
    worker.clients.add_ring(domid, place);
    worker.scan.ring_added(core.now, worker.clients.ring_count());
    // The state is Connecting, which takes it.
    let _ = worker.domains.step(domain, Event::Connected(connected));
    // What the guest wrote before its port was bound raised nothing.
    worker.clients.make_ready(place);
    worker.channels.notify(port);
    Ok(())
}

fn map_ring(
    worker: &mut Worker,
    domid: Domid,
    (gfn, port): (Option<Gfn>, Port),
    place: Place,
) -> io::Result<Ring> {
    let page = worker.core.shared.host.map_ring(domid, gfn)?;
    let remote = Ring::named_port(&page).unwrap_or(port);
    let port = worker.channels.bind(domid, remote, place)?;
    Ok(Ring::new(page, port, remote))
}

/// Gives a new session what its domain had in hand before.
fn take_over(
    core: &mut Core,
    session: &mut Session,
    connect: Connect,
    position: (u32, u32),
) -> Connected {
    match connect {
        Connect::New(carried) => {
            if let Some(carried) = carried.filter(|carried| carried.position == position) {
                session.partial = carried.partial;
                session.output = carried.output;
                session.recharge_output();
                if let Some((id, header)) = carried.waits {
                    session.asker.id = id;
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

/// Tells this worker when the domain may go on, from whatever thread finds out.
fn unblocked(core: &Core) -> Unblocked {
    let (mailboxes, thread) = (core.shared.mailboxes.clone(), core.number);
    Arc::new(move |domain| mailboxes.send(thread, Message::Unblocked(domain.domid)))
}

/// INTRODUCE of a known domain makes its event channel and its connection new; the page is not
/// written.
///
/// # Errors
/// `EINVAL` if the host does not bind the channel.
pub fn introduce_again(worker: &mut Worker, place: Place, remote: Port) -> Result<(), Errno> {
    let connection = worker.clients.get_mut(place).ok_or(Errno::EIO)?;
    withdraw(&mut worker.core, &mut connection.session);
    connection.session.output.drop_events();
    connection.session.recharge_output();
    let bound = bind_again(worker, place, remote);
    worker.clients.make_ready(place);
    bound
}

/// Makes the event channel of a ring new.
fn bind_again(worker: &mut Worker, place: Place, remote: Port) -> Result<(), Errno> {
    let connection = worker.clients.get_mut(place).ok_or(Errno::EIO)?;
    let was_given_up = std::mem::replace(&mut connection.stream, Stream::Open) == Stream::GivenUp;
    let domid = connection.session.domid();
    let ring = connection.ring().ok_or(Errno::EINVAL)?;
    worker.channels.unbind(ring.port);
    let Ok(port) = worker.channels.bind(domid, remote, place) else {
        // The number may become another domain's.
        ring.port = 0;
        return Err(Errno::EINVAL);
    };
    (ring.port, ring.remote, ring.masked) = (port, remote, false);
    ring.connected();
    if was_given_up {
        ring.mend();
    }
    Ok(())
}

/// Forgets what a session had in hand, its stream too. An answer to what it asked before is
/// not for it any more.
fn reset(core: &mut Core, session: &mut Session) {
    withdraw(core, session);
    session.unpark(core);
    session.late = None;
    session.output = Default::default();
    session.recharge_output();
    session.partial.clear();
    session.pending = Pending::Nothing;
    session.trace(format_args!("destroy connection"));
    session.asker.id = core.next_number();
    session.outdate(session.asker.id);
    session.trace(format_args!("create connection of a ring"));
}

/// A guest that asked to reconnect gets a new beginning (xenstore-ring.txt, "The ring
/// reconnection feature").
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

/// Gives a connection up for what it did: a socket is closed; a ring is not looked at any more
/// until it reconnects, but its domain stays known until it is really dead (XSA-325).
pub fn give_up(worker: &mut Worker, place: Place, error: RingError) {
    let Some(connection) = worker.clients.get_mut(place) else { return };
    log_given_up(connection, error);
    if connection.ring().is_none() {
        return close(worker, place);
    }
    reset(&mut worker.core, &mut connection.session);
    connection.stream = Stream::GivenUp;
    if let Some(ring) = connection.ring() {
        ring.give_up(error);
        let (port, _) = (ring.port, ring.publish());
        ring.masked = false;
        worker.channels.notify(port);
        worker.channels.unmask(&worker.core, place, port);
    }
}

/// A guest can break its ring and reconnect thousands of times a second: of a domain the 1st, 2nd, 4th, 8th
/// ... time is logged.
fn log_given_up(connection: &mut Connection, error: RingError) {
    let is_ring = connection.ring().is_some();
    let session = &connection.session;
    let times = is_ring.then(|| session.domain.notice(Notice::GivenUp)).flatten();
    if !is_ring || times.is_some() {
        let (domid, pid) = (session.domid().0, connection.transport.pid());
        let connection = trace::name(&session.asker);
        tracing::warn!(%connection, domid, pid, times, %error, "a connection is given up");
    }
}

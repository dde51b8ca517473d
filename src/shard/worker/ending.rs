//! How connections end.

use super::Worker;
use super::connection::Connection;
use crate::domain::Quota;
use crate::protocol::Header;
use crate::shard::mailbox::Place;
use crate::shard::session::Session;
use crate::shard::session::core::Core;
use crate::shard::session::reservations::leave_turns;
use crate::sync::Ordering;
use crate::transport::Transport;

/// Closes a socket's connection.
pub fn close(worker: &mut Worker, place: Place) {
    let Some(mut connection) = worker.clients.remove(place) else { return };
    note_end_of_stall(&connection);
    // Whatever of its last replies it still takes.
    let _ = connection.flush();
    if let Transport::Socket(socket) = &mut connection.transport
        && let Err(error) = worker.poll.registry().deregister(socket)
    {
        tracing::debug!(%error, "cannot deregister a client");
    }
    worker.core.shared.clients.fetch_sub(1, Ordering::Relaxed);
    end(&mut worker.core, &mut connection.session);
}

/// Says so in the log if a connection ends because its client does not read, or ends otherwise after the
/// client was named and read nothing since.
fn note_end_of_stall(connection: &Connection) {
    let position = connection.session.output.position();
    if connection.session.is_over_its_limit() {
        connection.warn_of_unread("closed a client that does not read its events");
    } else if connection.stall.as_ref().is_some_and(|stall| stall.is_named_at(position)) {
        connection.warn_of_unread("a client that did not read is gone");
    }
}

/// Serves a ring no more: unbound, unmapped, forgotten. The incarnation lives on.
///
/// Returns what it was, with the request whose answer it waited for.
pub fn disconnect_ring(
    worker: &mut Worker,
    place: Place,
) -> Option<(Box<Connection>, Option<Header>)> {
    let mut connection = worker.clients.remove(place)?;
    let waited = end(&mut worker.core, &mut connection.session);
    worker.clients.remove_ring(connection.session.domid());
    if let Some(ring) = connection.ring() {
        ring.publish();
        worker.channels.unbind(ring.port);
    }
    Some((connection, waited))
}

/// What the ends of all connections have in common.
fn end(core: &mut Core, session: &mut Session) -> Option<Header> {
    withdraw(core, session);
    let charged = std::mem::take(&mut session.output_charged);
    session.domain.account.release(Quota::Memory, charged);
    session.trace(format_args!("destroy connection"));
    session.unpark(core)
}

/// Takes back what a connection asked of others: what every end and reset has in common.
pub fn withdraw(core: &mut Core, session: &mut Session) {
    session.drop_watches(core);
    session.drop_transactions();
    leave_turns(core, session);
}

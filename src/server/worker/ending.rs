//! The end of connections.

use super::Worker;
use super::connection::Connection;
use crate::domain::Quota;
use crate::protocol::Header;
use crate::server::mailbox::Slot;
use crate::server::session::Session;
use crate::server::session::core::Core;
use crate::server::session::reservations::leave_reservations;
use crate::sync::Ordering;
use crate::transport::Transport;

/// Closes a socket connection.
pub fn close(worker: &mut Worker, slot: Slot) {
    let Some(mut connection) = worker.clients.remove(slot) else { return };
    note_end_of_stall(&connection);
    // Sends as many of the client's last replies as the socket accepts.
    let _ = connection.flush();
    if let Transport::Socket(socket) = &mut connection.transport
        && let Err(error) = worker.poll.registry().deregister(socket)
    {
        tracing::debug!(%error, "cannot deregister a client");
    }
    worker.core.shared.clients.fetch_sub(1, Ordering::Relaxed);
    end(&mut worker.core, &mut connection.session);
}

/// Logs the end of a connection whose client does not read, or whose stall was logged and continues.
fn note_end_of_stall(connection: &Connection) {
    let position = connection.session.output.position();
    if connection.session.is_over_its_limit() {
        connection.warn_of_unread("stalled client closed, too much unread output");
    } else if connection.stall.as_ref().is_some_and(|stall| stall.is_named_at(position)) {
        connection.warn_of_unread("stalled client disconnected");
    }
}

/// Stops serving a ring: unbinds its port and unmaps its page. The incarnation lives on.
///
/// Returns the connection, and the request for whose reply it was parked.
pub fn disconnect_ring(
    worker: &mut Worker,
    slot: Slot,
) -> Option<(Box<Connection>, Option<Header>)> {
    let mut connection = worker.clients.remove(slot)?;
    let waited = end(&mut worker.core, &mut connection.session);
    worker.clients.remove_ring(connection.session.domid());
    if let Some(ring) = connection.ring() {
        // The next INTRODUCE reads the indices from the page.
        ring.publish();
        worker.channels.unbind(ring.port);
    }
    Some((connection, waited))
}

/// Ends a session, and releases its charges. Returns the header of the request for whose reply it was parked.
fn end(core: &mut Core, session: &mut Session) -> Option<Header> {
    withdraw(core, session);
    let charged = std::mem::take(&mut session.output_charged);
    session.domain.account.release(Quota::Memory, charged);
    session.trace(format_args!("destroy connection"));
    session.unpark(core)
}

/// Withdraws a session's watches, transactions and reservation, at its end and at a reset.
pub fn withdraw(core: &mut Core, session: &mut Session) {
    session.drop_watches(core);
    session.drop_transactions();
    leave_reservations(core, session);
}

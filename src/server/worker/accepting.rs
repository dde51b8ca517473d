//! New clients of the socket.

use std::os::unix::net::UnixStream;

use mio::{Interest, Registry, Token};

use super::clients::Clients;
use super::connection::Connection;
use crate::server::mailbox::ReplyTo;
use crate::server::session::Kind;
use crate::server::session::core::Core;
use crate::sync::{Arc, Ordering};
use crate::transport::Transport;

/// Begins to serve a client that connected.
pub fn accepted(core: &mut Core, clients: &mut Clients, registry: &Registry, socket: UnixStream) {
    let mut socket = mio::net::UnixStream::from_std(socket);
    // The poll's token is the slot, so it is chosen before the connection exists.
    let slot = clients.next_slot();
    if let Err(error) = registry.register(&mut socket, Token(slot), Interest::READABLE) {
        tracing::warn!(%error, "cannot serve a client");
        return;
    }
    let reply_to = ReplyTo { thread: core.number, connection: slot, id: core.next_number() };
    let domain = Arc::clone(&core.shared.control_domain);
    let mut connection = Connection::new(reply_to, domain, Kind::Socket, Transport::Socket(socket));
    connection.session.pid = connection.transport.pid().and_then(|pid| u32::try_from(pid).ok());
    connection.session.trace(format_args!("create connection of a socket"));
    clients.add(connection);
    core.shared.clients.fetch_add(1, Ordering::Relaxed);
}

//! New clients of the socket.

use std::os::unix::net::UnixStream;

use mio::{Interest, Token};

use super::Worker;
use super::connection::Connection;
use crate::server::mailbox::ReplyTo;
use crate::server::session::Kind;
use crate::sync::{Arc, Ordering};
use crate::transport::Transport;

/// Begins to serve a client that connected.
pub fn accepted(worker: &mut Worker, socket: UnixStream) {
    let mut socket = mio::net::UnixStream::from_std(socket);
    let slot = worker.clients.next_slot();
    let registry = worker.poll.registry();
    if let Err(error) = registry.register(&mut socket, Token(slot), Interest::READABLE) {
        tracing::warn!(%error, "cannot serve a client");
        return;
    }
    let core = &mut worker.core;
    let reply_to = ReplyTo { thread: core.number, connection: slot, id: core.next_number() };
    let domain = Arc::clone(&core.shared.control_domain);
    let mut connection = Connection::new(reply_to, domain, Kind::Socket, Transport::Socket(socket));
    connection.session.pid = connection.transport.pid().and_then(|pid| u32::try_from(pid).ok());
    connection.session.trace(format_args!("create connection of a socket"));
    worker.clients.add(connection);
    core.shared.clients.fetch_add(1, Ordering::Relaxed);
}

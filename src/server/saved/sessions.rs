//! A session as data, and from it.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

use super::data::{SavedSession, SavedStream};
use crate::migration::stream::state::Client;
use crate::migration::stream::{Connection as Sent, Transport as SentBy, Watch as SentWatch};
use crate::protocol::ReplySlot;
use crate::server::session::core::Core;
use crate::server::session::output::Output;
use crate::server::session::watching::new_watch;
use crate::server::session::{Parked, Pending, Service, Session};
use crate::server::worker::connection::{Connection, Stream};
use crate::store::{restore_transaction, save_transaction};
use crate::transport::Transport;
use crate::types::{ABS_PATH_MAX, Domid, Path, PathSpace};

/// Returns a connection as data: its records, with the conn-id `id`, and the rest. `reply` is the payload of the reply
/// that the client gets from the process that goes on. Cost: linear in the session's watches, unsent bytes and logs.
pub fn save(
    connection: &mut Connection,
    core: &Core,
    id: u32,
    reply: Option<&[u8]>,
) -> (Client, SavedSession) {
    let (worker, now) = (core.number, core.now);
    let transport = match &connection.transport {
        // The kernel's descriptors are not negative.
        Transport::Socket(socket) => {
            SentBy::Socket(u32::try_from(socket.as_raw_fd()).unwrap_or(u32::MAX))
        }
        Transport::Ring(ring) => SentBy::Ring(connection.session.domid(), None, ring.port),
    };
    let ring = connection.ring().map(|ring| (ring.port, ring.remote, ring.gfn));
    let stream = match connection.stream {
        Stream::Open => SavedStream::Open,
        Stream::HalfClosed => SavedStream::HalfClosed,
        Stream::GivenUp => SavedStream::GivenUp,
    };
    let session = &mut connection.session;
    // The stream cannot hold deferred events, so all of them are queued, even beyond the limit.
    while session.watches.has_deferred() {
        session.queue_next_deferred(now);
    }
    let (begun, mut output) = session.output.unsent_with_begun();
    if let (Some(reply), Some(Parked::Reply(header))) = (reply, &session.parked) {
        let slot = ReplySlot::begin(&mut output, header);
        output.extend_from_slice(reply);
        slot.finish(&mut output, Ok(()));
    }
    let sent = Sent {
        id,
        transport,
        input: session.partial.clone(),
        output_begun: begun,
        output,
        unique_id: connection_id(session),
    };
    let watch = |watch: &crate::server::session::watches::Watch| SentWatch {
        connection: id,
        path: watch.shown(watch.path.as_path().bytes()).to_vec(),
        token: watch.token.to_vec(),
        depth: watch.depth,
    };
    let births = core.registry().births();
    let transactions = session.transactions.iter();
    let transactions: BTreeMap<_, _> =
        transactions.map(|(&id, open)| (id, save_transaction(&open.transaction, births))).collect();
    let saved = SavedSession {
        worker,
        ring,
        stream,
        is_quiesced: session.is_quiesced(),
        additions: session.additions,
        next_transaction: session.next_transaction,
        output: session.output.save(),
        transactions,
    };
    let client = Client {
        connection: sent,
        watches: session.watches.in_order(0).map(watch).collect(),
        transactions: saved.transactions.keys().map(|&id| (id, BTreeMap::new())).collect(),
    };
    (client, saved)
}

/// Only a ring belongs to an incarnation other than the control domain's.
fn connection_id(session: &Session) -> Option<u64> {
    (session.domid() != Domid::CONTROL).then_some(session.domain.unique_id)
}

/// Restores a new session from data. No watch fires: this host has notified it of each change. Cost: that of setting
/// the watches.
pub fn restore(core: &mut Core, session: &mut Session, client: Client, saved: &SavedSession) {
    let Sent { input, output, output_begun, .. } = client.connection;
    session.partial = input;
    session.output = Output::restore(output, output_begun, &saved.output, core.now);
    session.recharge_output();
    for watch in &client.watches {
        let mut space = PathSpace::new();
        // Every watch of a state has a valid path, and occurs once.
        let resolved = Path::resolve(&watch.path, session.domid(), ABS_PATH_MAX, &mut space);
        let Ok(path) = resolved else { continue };
        let new = new_watch(core, path, (&watch.path, &watch.token, watch.depth));
        if !session.watches.contains(path, &new.token) {
            session.charge_watch(&new);
            session.insert_watch(core, new);
        }
    }
    let now = core.registry().now();
    for (&id, saved) in &saved.transactions {
        if let Some(transaction) = restore_transaction(saved, now) {
            session.restore_transaction(core, id, transaction);
        }
    }
    session.next_transaction = saved.next_transaction.max(1);
    session.service = if saved.is_quiesced { Service::Quiesced } else { Service::Running };
    session.additions = saved.additions;
    // The kernel reports bytes that came meanwhile, but not those that are here already.
    session.pending = if session.partial.is_empty() { Pending::Nothing } else { Pending::Requests };
}

/// Returns whether a restored client may send more.
pub fn stream(saved: &SavedSession) -> Stream {
    match saved.stream {
        SavedStream::Open => Stream::Open,
        SavedStream::HalfClosed => Stream::HalfClosed,
        SavedStream::GivenUp => Stream::GivenUp,
    }
}

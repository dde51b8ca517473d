//! From a message to its reply: the checks that every request passes, in their order, and the function that
//! serves each kind of request.

mod control;
mod domain;
mod migration;
mod node;
mod transaction;
mod watch;

use std::borrow::Cow;

use super::connection::{Connection, Parked};
use super::guards::Admission;
use super::mailbox::{Asker, Message};
use super::state::DomainState;
use super::thread::Thread;
use super::{Shared, spawn};
use crate::log;
use crate::protocol::operations::{Access, Form, Parser, Request, Row, TransactionId, command};
use crate::protocol::{Header, strings};
use crate::store::{Caller, Executed};
use crate::sync::Ordering;
use crate::words::{Errno, ShardId};

/// The payload of a reply that says nothing but yes (xenstore.txt).
pub const ACK: &[u8] = b"OK\0";

/// What a request is replied with.
type Reply = Result<Cow<'static, [u8]>, Errno>;

/// Whether a request was used.
pub enum Outcome {
    /// It was answered, or will be.
    Used,
    /// It has to wait and is tried again.
    Again,
}

/// A request that is being served: the thread, the client and its rights, and the message's header.
pub struct RequestContext<'a> {
    /// The thread that serves the client.
    pub thread: &'a mut Thread,
    /// The client.
    pub connection: &'a mut Connection,
    /// The client's domain with its rights of this moment.
    pub caller: &'a Caller,
    /// The message's header.
    pub header: &'a Header,
}

impl RequestContext<'_> {
    /// Queues the reply.
    pub fn reply(&mut self, result: Result<&[u8], Errno>) {
        self.connection.reply(self.header, result, None);
    }

    /// Parks the connection until another thread replies. Returns the handle to which the reply is addressed.
    pub fn park(&mut self) -> Asker {
        self.thread.park(self.connection, self.header)
    }

    /// Replies to a request that changed something, once what it removed is accounted. If that is much, the reaper
    /// does it and only this client waits.
    pub fn conclude(&mut self, executed: Executed) {
        let Executed { ticket, removed, replaced } = executed;
        drop(replaced);
        let Some(rest) = self.thread.shared.store.settle(removed) else {
            return self.connection.reply(self.header, Ok(ACK), ticket);
        };
        let asker = self.park();
        self.connection.late = Some(Vec::new());
        let mailboxes = self.thread.shared.mailboxes.clone();
        let done = move || {
            drop(ticket);
            mailboxes.send(asker.thread, Message::Answer(asker, Ok(ACK.to_vec())));
        };
        self.thread.shared.store.reap(rest, Box::new(done));
    }
}

/// Serves one request.
pub fn serve(cx: &mut RequestContext<'_>, payload: &[u8]) -> Outcome {
    match admit(cx, payload) {
        Ok(request) => dispatch(cx, request),
        Err(errno) => {
            cx.reply(Err(errno));
            Outcome::Used
        }
    }
}

/// The checks that come before everything else, in the order that clients rely on.
fn admit<'p>(cx: &RequestContext<'_>, payload: &'p [u8]) -> Result<Request<'p>, Errno> {
    let row = Row::of(cx.header.kind.get()).ok_or(Errno::ENOSYS)?;
    let shard = Some(ShardId(cx.thread.number));
    let domid = Some(cx.caller.domain.domid);
    log::set_context(log::Context { shard, operation: row.name, domid });
    let is_privileged = cx.caller.subject.privileged;
    let is_allowed = match row.access {
        Access::Any => true,
        Access::OwnOnly => is_privileged || strings(payload).next().is_none(),
        Access::Privileged => is_privileged,
    };
    let id = cx.header.tx_id.get();
    match (row.parser, row.transaction) {
        (Parser::Migration(_), _) => Err(Errno::ENOSYS),
        _ if !is_allowed => Err(Errno::EACCES),
        (_, TransactionId::Open) if id != 0 && !cx.connection.transactions.contains_key(&id) => {
            Err(Errno::ENOENT)
        }
        (Parser::Payload(parse), _) => parse(payload),
        (Parser::Arguments(parse), _) => {
            // The design writes the last argument of GET_DOMAIN_WATCHES without a NUL.
            let payload = payload.strip_suffix(&[0]).unwrap_or(payload);
            let arguments: Vec<_> = payload.split(|&byte| byte == 0).collect();
            parse(&arguments, Form::Strings)
        }
    }
}

fn dispatch(cx: &mut RequestContext<'_>, request: Request<'_>) -> Outcome {
    let ack = |()| Cow::Borrowed(ACK);
    let reply = match request {
        Request::Node(path, request) => return node::serve(cx, path, request),
        Request::EndTransaction(end) => return transaction::end(cx, end),
        Request::StartTransaction => match cx.thread.await_turn(cx.connection) {
            Admission::Parked => return Outcome::Again,
            Admission::Admitted => Some(transaction::start(cx)),
        },
        Request::Watch(path, token, depth) => {
            watch::watch(cx, path, token, depth);
            None
        }
        Request::Unwatch(path, token) => Some(watch::unwatch(cx, path, token).map(ack)),
        Request::ResetWatches => {
            cx.thread.drop_watches(cx.connection);
            if !cx.thread.former.are_out(cx.connection.former_watches) {
                return Outcome::Again;
            }
            cx.thread.drop_transactions(cx.connection);
            Some(Ok(ack(())))
        }
        Request::Control(words) => {
            let words: Vec<_> = words.collect();
            match command(&words) {
                Some(Ok(request)) => return dispatch(cx, request),
                Some(Err(errno)) => Some(Err(errno)),
                None => control::serve(cx, &words),
            }
        }
        Request::Domain(domid, request) => domain::ask_home_thread(cx, domid, request),
        Request::Quiesce(domids, form) => {
            migration::ask_home_threads(cx, &domids, form, Message::Quiesce)
        }
        Request::Unquiesce(domids, form) => {
            migration::ask_home_threads(cx, &domids, form, Message::Unquiesce)
        }
        Request::GetDomainPath(domid) => Some(Ok(text_reply(format!("/local/domain/{domid}")))),
        Request::IsDomainIntroduced(domid) => Some(Ok(domain::is_introduced(cx, domid))),
        Request::GetFeature(domid) => Some(domain::get_feature(cx, domid)),
        Request::SetFeature(domid, bits) => Some(domain::set_feature(cx, domid, bits).map(ack)),
        Request::QuotaNames => Some(Ok(text_reply(domain::quota_names()))),
        Request::GetQuota(domid, name) => Some(domain::get_quota(cx, domid, name)),
        Request::SetQuota(domid, name, value) => {
            Some(domain::set_quota(cx, domid, name, value).map(ack))
        }
    };
    if let Some(reply) = reply {
        cx.reply(reply.as_deref().map_err(|errno| *errno));
    }
    Outcome::Used
}

/// A text as a payload.
fn text_reply(text: String) -> Cow<'static, [u8]> {
    let mut bytes = text.into_bytes();
    bytes.push(0);
    Cow::Owned(bytes)
}

impl Thread {
    /// Parks a connection until another thread replies. Returns the handle to which the reply is addressed.
    pub(super) fn park(&self, connection: &mut Connection, header: &Header) -> Asker {
        connection.parked = Some(Parked::Answer(*header));
        self.shared.parked.fetch_add(1, Ordering::Relaxed);
        connection.asker
    }

    /// Ends the wait; answers the request that it was for.
    pub(super) fn unpark(&self, connection: &mut Connection) -> Option<Header> {
        match connection.parked.take() {
            Some(Parked::Answer(header)) => {
                self.shared.parked.fetch_sub(1, Ordering::Relaxed);
                Some(header)
            }
            _ => None,
        }
    }

    /// The answer that a parked connection waits for.
    pub(super) fn answered(&mut self, asker: Asker, result: Result<Vec<u8>, Errno>) {
        let mut place = asker.connection;
        if let Some(domid) = self.released.remove(&asker.id) {
            if let Some((_, DomainState::Absent(Some(carried)))) = self.states.get_mut(&domid) {
                return carried.answered(asker.id, result.as_deref().map_err(|errno| *errno));
            }
            let Some(&ring) = self.rings.get(&domid) else { return };
            place = ring;
        }
        // A parked connection is not being served, so it is in its place, if it is still there.
        let quiescing = self.with_connection(place, |thread, connection| {
            if connection.asker.id != asker.id {
                return None;
            }
            if let Some(header) = thread.unpark(connection) {
                let result = result.as_deref().map_err(|errno| *errno);
                connection.reply(&header, result, None);
                thread.send_late(connection);
                connection.more_input = true;
            }
            connection.is_quiesced.then(|| connection.domid())
        });
        if let Some(Some(domid)) = quiescing {
            self.drain(domid);
        }
        self.make_ready(place);
    }
}

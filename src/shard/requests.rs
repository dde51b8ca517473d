//! From a message to its reply: the checks that every request passes, in their order, and the function that
//! serves each kind of request.

use std::borrow::Cow;

use super::connection::{Connection, Parked};
use super::domain_requests::{quota_names, text_reply};
use super::mailbox::{Asker, Message};
use super::state::DomainState;
use super::thread::Thread;
use super::trace;
use crate::domain::Ticket;
use crate::log;
use crate::protocol::operations::{Access, Form, Parser, Request, Row, TransactionId, command};
use crate::protocol::{Header, ReplySlot, strings};
use crate::store::{Caller, Executed};
use crate::sync::{Arc, Ordering};
use crate::words::{Errno, ShardId};

/// The payload of a reply that says nothing but yes (xenstore.txt).
pub const ACK: &[u8] = b"OK\0";

/// What became of a request.
pub enum Outcome {
    /// It was answered, or will be.
    Used,
    /// It has to wait and is tried again.
    Again,
}

impl Thread {
    /// Serves one request.
    pub(super) fn request(
        &mut self,
        connection: &mut Connection,
        caller: &Caller,
        header: &Header,
        payload: &[u8],
    ) -> Outcome {
        match self.admit(connection, caller, header, payload) {
            Ok(request) => self.dispatch(connection, caller, header, request),
            Err(errno) => {
                self.refuse(connection, header, errno);
                Outcome::Used
            }
        }
    }

    /// The checks that come before everything else, in the order that clients rely on.
    fn admit<'p>(
        &self,
        connection: &Connection,
        caller: &Caller,
        header: &Header,
        payload: &'p [u8],
    ) -> Result<Request<'p>, Errno> {
        let row = Row::of(header.kind.get()).ok_or(Errno::ENOSYS)?;
        let shard = Some(ShardId(self.number));
        let domid = Some(caller.domain.domid);
        log::set_context(log::Context { shard, operation: row.name, domid });
        let is_allowed = match row.access {
            Access::Any => true,
            Access::OwnOnly => caller.subject.privileged || strings(payload).next().is_none(),
            Access::Privileged => caller.subject.privileged,
        };
        let id = header.tx_id.get();
        match (row.parser, row.transaction) {
            (Parser::Migration(_), _) => Err(Errno::ENOSYS),
            _ if !is_allowed => Err(Errno::EACCES),
            (_, TransactionId::Open) if id != 0 && !connection.transactions.contains_key(&id) => {
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

    fn dispatch(
        &mut self,
        connection: &mut Connection,
        caller: &Caller,
        header: &Header,
        request: Request<'_>,
    ) -> Outcome {
        let ack = |()| Cow::Borrowed(ACK);
        let reply = match request {
            Request::Node(path, request) => {
                return self.node_request(connection, caller, header, (path, request));
            }
            Request::EndTransaction(commits) => {
                return self.end_transaction(connection, caller, header, commits);
            }
            Request::StartTransaction if self.waits_for_turn(connection) => {
                return Outcome::Again;
            }
            Request::StartTransaction => Some(self.start_transaction(connection, header)),
            Request::Watch(path, token, depth) => {
                self.watch(connection, caller, header, (path, token, depth));
                return Outcome::Used;
            }
            Request::Unwatch(path, token) => {
                Some(self.unwatch(connection, path, token).map(ack))
            }
            Request::ResetWatches => {
                self.drop_watches(connection);
                self.drop_transactions(connection);
                Some(Ok(ack(())))
            }
            Request::Control(words) => {
                let words: Vec<_> = words.collect();
                match command(&words) {
                    Some(Ok(request)) => {
                        return self.dispatch(connection, caller, header, request);
                    }
                    Some(Err(errno)) => Some(Err(errno)),
                    None => self.control(connection, header, &words),
                }
            }
            Request::Domain(domid, request) => {
                self.ask_home_thread(connection, header, domid, request)
            }
            Request::Quiesce(domids, form) => {
                self.ask_home_threads(connection, header, (&domids, form), Message::Quiesce)
            }
            Request::Unquiesce(domids, form) => {
                let message = Message::Unquiesce;
                self.ask_home_threads(connection, header, (&domids, form), message)
            }
            Request::GetDomainPath(domid) => Some(Ok(text_reply(format!("/local/domain/{domid}")))),
            Request::IsDomainIntroduced(domid) => Some(Ok(self.is_domain_introduced(domid))),
            Request::GetFeature(domid) => Some(self.get_feature(connection, domid)),
            Request::SetFeature(domid, features) => {
                Some(self.set_feature(domid, features).map(ack))
            }
            Request::QuotaNames => Some(Ok(text_reply(quota_names()))),
            Request::GetQuota(domid, name) => Some(self.get_quota(domid, name)),
            Request::SetQuota(domid, name, value) => {
                Some(self.set_quota(domid, name, value).map(ack))
            }
        };
        if let Some(reply) = reply {
            self.answer(connection, header, reply.as_deref().map_err(|errno| *errno), None);
        }
        Outcome::Used
    }

    pub(super) fn refuse(&self, connection: &mut Connection, header: &Header, errno: Errno) {
        self.answer(connection, header, Err(errno), None);
    }

    /// Queues a reply.
    pub(super) fn answer(
        &self,
        connection: &mut Connection,
        header: &Header,
        result: Result<&[u8], Errno>,
        ticket: Option<Arc<Ticket>>,
    ) {
        let slot = ReplySlot::begin(connection.output.buffer(), header);
        if let Ok(payload) = result {
            connection.output.buffer().extend_from_slice(payload);
        }
        let start = slot.finish(connection.output.buffer(), result.map(|_| ()));
        self.replied(connection, start, ticket);
    }

    /// What follows a reply that was written to the output's buffer, where it begins at `start`.
    pub(super) fn replied(
        &self,
        connection: &mut Connection,
        start: usize,
        ticket: Option<Arc<Ticket>>,
    ) {
        trace::queued(self.number, connection, start);
        if connection.is_guest() {
            connection.output.note_reply(ticket);
        }
    }

    /// Answers a request that changed something, once what it removed is accounted. If that is
    /// much, the reaper does it and the client waits, but nobody else.
    pub(super) fn conclude(
        &mut self,
        connection: &mut Connection,
        header: &Header,
        executed: Executed,
    ) {
        let Executed { ticket, removed, replaced } = executed;
        drop(replaced);
        let Some(rest) = self.shared.store.settle(removed) else {
            self.answer(connection, header, Ok(ACK), ticket);
            return;
        };
        let asker = self.park(connection, header);
        connection.late = Some(Vec::new());
        let mailboxes = self.shared.mailboxes.clone();
        let done = move || {
            drop(ticket);
            mailboxes.send(asker.thread, Message::Answer(asker, Ok(ACK.to_vec())));
        };
        self.shared.store.reap(rest, Box::new(done));
    }

    /// Makes a connection wait for the answer to a request that is somebody else's to give; answers
    /// the name under which it finds the connection.
    pub(super) fn park(&self, connection: &mut Connection, header: &Header) -> Asker {
        connection.parked = Some(Parked::Answer(*header));
        self.shared.parked.fetch_add(1, Ordering::Relaxed);
        self.asker(connection)
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

    /// The name under which an answer finds this connection.
    pub(super) fn asker(&self, connection: &Connection) -> Asker {
        Asker { thread: self.number, connection: connection.place, id: connection.id }
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
        let Some(slot) = self.connections.get_mut(place) else { return };
        // A parked connection is not being served, so it is in its place, if it is still there.
        let Some(mut connection) = slot.take_if(|connection| connection.id == asker.id) else {
            return;
        };
        if let Some(header) = self.unpark(&mut connection) {
            let result = result.as_deref().map_err(|errno| *errno);
            self.answer(&mut connection, &header, result, None);
            self.send_late(&mut connection);
            connection.more_input = true;
        }
        let quiescing = connection.is_quiesced.then(|| connection.domid());
        self.connections[place] = Some(connection);
        if let Some(domid) = quiescing {
            self.drain(domid);
        }
        self.make_ready(place);
    }
}

//! From a message to its reply: the checks that every request passes, in their order, and the
//! requests on nodes.

use std::borrow::Cow;

use super::connection::{Connection, Parked};
use super::mailbox::{Asker, Message};
use super::thread::{Place, Thread};
use super::trace;
use crate::domain::{FEATURE_DOMID_ANY, Quota, Ticket};
use crate::log;
use crate::protocol::{Header, Kind, ReplySlot, decimal, one_string, strings};
use crate::store::{Caller, Executed, Op, TURN_BEGAN, Verb};
use crate::sync::{Arc, Ordering};
use crate::words::{Domid, Entry, Errno, Path, PathSpace, PermSet, Perms, ShardId};

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
    /// Serves one request. Answers whether it was used; if not, it comes again.
    pub(super) fn request(
        &mut self,
        place: Place,
        connection: &mut Connection,
        caller: &Caller,
        header: &Header,
        payload: &[u8],
    ) -> bool {
        let kind = match self.admit(connection, caller, header) {
            Ok(kind) => kind,
            Err(errno) => {
                self.refuse(connection, header, errno);
                return true;
            }
        };
        let used = match kind {
            Kind::Read
            | Kind::Directory
            | Kind::DirectoryPart
            | Kind::GetPerms
            | Kind::Write
            | Kind::Mkdir
            | Kind::Rm
            | Kind::SetPerms => self.node_request(place, connection, caller, header, kind, payload),
            Kind::TransactionEnd => {
                self.end_transaction(place, connection, caller, header, payload)
            }
            Kind::TransactionStart if self.waits_for_turn(place, connection) => Outcome::Again,
            Kind::Watch => self.watch(place, connection, caller, header, payload),
            _ => {
                let result = self.other_request(place, connection, header, kind, payload);
                if let Some(result) = result {
                    self.answer(
                        connection,
                        header,
                        result.as_deref().map_err(|errno| *errno),
                        None,
                    );
                }
                Outcome::Used
            }
        };
        matches!(used, Outcome::Used)
    }

    /// The checks that come before everything else, in the order that clients rely on.
    fn admit(
        &self,
        connection: &Connection,
        caller: &Caller,
        header: &Header,
    ) -> Result<Kind, Errno> {
        let kind = Kind::from_wire(header.kind.get()).ok_or(Errno::ENOSYS)?;
        let shard = Some(ShardId(self.number));
        let domid = Some(caller.domain.domid);
        log::set_context(log::Context { shard, operation: kind.name(), domid });
        if kind.is_privileged() && !caller.subject.privileged {
            return Err(Errno::EACCES);
        }
        let id = header.tx_id.get();
        if id != 0 && !kind.ignores_transaction() && !connection.transactions.contains_key(&id) {
            return Err(Errno::ENOENT);
        }
        Ok(kind)
    }

    fn refuse(&self, connection: &mut Connection, header: &Header, errno: Errno) {
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

    fn other_request(
        &mut self,
        place: Place,
        connection: &mut Connection,
        header: &Header,
        kind: Kind,
        payload: &[u8],
    ) -> Option<Result<Cow<'static, [u8]>, Errno>> {
        let ack = |()| Cow::Borrowed(ACK);
        Some(match kind {
            Kind::Unwatch => self.unwatch(place, connection, payload).map(ack),
            Kind::ResetWatches => {
                self.drop_watches(place, connection);
                self.drop_transactions(connection);
                Ok(ack(()))
            }
            Kind::TransactionStart => self.start_transaction(connection, header),
            Kind::Control => return self.control(place, connection, header, payload),
            kind if Kind::EXTENSIONS.contains(&kind) => {
                return self.migration_message(place, connection, header, kind, payload);
            }
            _ => return self.domain_matter(place, connection, header, kind, payload),
        })
    }

    /// READ to SET_PERMS, in or outside a transaction.
    fn node_request(
        &mut self,
        place: Place,
        connection: &mut Connection,
        caller: &Caller,
        header: &Header,
        kind: Kind,
        payload: &[u8],
    ) -> Outcome {
        let mut space = PathSpace::new();
        let op = match self.node_op(connection, caller, kind, payload, &mut space) {
            Ok(op) => op,
            Err(errno) => {
                self.refuse(connection, header, errno);
                return Outcome::Used;
            }
        };
        let id = header.tx_id.get();
        let writes = op.verb.writes();
        if id == 0 && writes && self.waits_for_guard(place, connection, [op.path]) {
            return Outcome::Again;
        }
        if id != 0 && !self.catches_up(place, connection, caller, id) {
            return Outcome::Again;
        }
        let slot = ReplySlot::begin(connection.output.buffer(), header);
        if id != 0 {
            let result = self.execute_in_transaction(connection, caller, id, &op);
            if writes {
                connection.output.buffer().extend_from_slice(ACK);
            }
            let start = slot.finish(connection.output.buffer(), result);
            self.replied(connection, start, None);
            return Outcome::Used;
        }
        let out = connection.output.buffer();
        // Through the reference: a count of the store's own would be changed by all threads, for each request.
        match self.shared.store.execute(caller, &op, &mut self.generations, out) {
            Err(TURN_BEGAN) => {
                slot.cancel(out);
                return Outcome::Again;
            }
            Err(errno) => {
                let start = slot.finish(out, Err(errno));
                self.replied(connection, start, None);
            }
            Ok(executed) if !writes => {
                let start = slot.finish(out, Ok(()));
                self.replied(connection, start, executed.ticket);
            }
            Ok(executed) => {
                slot.cancel(out);
                self.conclude(place, connection, header, executed);
            }
        }
        Outcome::Used
    }

    /// What follows a reply that was written to the output's buffer, where it begins at `start`.
    fn replied(&self, connection: &mut Connection, start: usize, ticket: Option<Arc<Ticket>>) {
        trace::queued(self.number, connection, start);
        if connection.is_guest() {
            connection.output.note_reply(ticket);
        }
    }

    /// Answers a request that changed something, once what it removed is accounted. If that is
    /// much, the reaper does it and the client waits, but nobody else.
    pub(super) fn conclude(
        &mut self,
        place: Place,
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
        let asker = self.park(place, connection, header);
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
    pub(super) fn park(&self, place: Place, connection: &mut Connection, header: &Header) -> Asker {
        connection.parked = Some(Parked::Answer(*header));
        self.shared.parked.fetch_add(1, Ordering::Relaxed);
        self.asker(place, connection)
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
    pub(super) fn asker(&self, place: Place, connection: &Connection) -> Asker {
        Asker { thread: self.number, connection: place, id: connection.id }
    }

    /// The answer that a parked connection waits for.
    pub(super) fn answered(&mut self, asker: Asker, result: Result<Vec<u8>, Errno>) {
        let mut place = asker.connection;
        if let Some(domid) = self.released.remove(&asker.id) {
            if let Some(carried) = self.carried.get_mut(&domid) {
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
        self.connections[place] = Some(connection);
        self.becomes_still(place);
        self.make_ready(place);
    }

    /// Reads the arguments of a request on a node.
    fn node_op<'a>(
        &self,
        connection: &Connection,
        caller: &Caller,
        kind: Kind,
        payload: &'a [u8],
        space: &'a mut PathSpace,
    ) -> Result<Op<'a>, Errno> {
        let (raw, verb) = match kind {
            Kind::Write => {
                let end = payload.iter().position(|&byte| byte == 0).ok_or(Errno::EINVAL)?;
                (&payload[..end], Verb::Write(Cow::Borrowed(&payload[end + 1..])))
            }
            Kind::DirectoryPart => {
                let mut strings = strings(payload);
                let (Some(raw), Some(offset), None) =
                    (strings.next(), strings.next(), strings.next())
                else {
                    return Err(Errno::EINVAL);
                };
                (raw, Verb::DirectoryPart(decimal::<u32>(offset)? as usize))
            }
            Kind::SetPerms => {
                let raw = strings(payload).next().ok_or(Errno::EINVAL)?;
                let path = self.resolve(connection, raw, space);
                let perms = self.parse_perms(connection, caller, payload, path.ok())?;
                return Ok(Op { path: path?, verb: Verb::SetPerms(perms) });
            }
            Kind::Directory => (one_string(payload)?, Verb::Directory),
            Kind::GetPerms => (one_string(payload)?, Verb::GetPerms),
            Kind::Mkdir => (one_string(payload)?, Verb::Mkdir),
            Kind::Rm => (one_string(payload)?, Verb::Rm),
            _ => (one_string(payload)?, Verb::Read),
        };
        Ok(Op { path: self.resolve(connection, raw, space)?, verb })
    }

    /// Reads a path as a client of this connection means it.
    pub(super) fn resolve<'a>(
        &self,
        connection: &Connection,
        raw: &'a [u8],
        space: &'a mut PathSpace,
    ) -> Result<Path<'a>, Errno> {
        let limit = self.shared.store.registry().limit(&connection.domain, Quota::PathMax);
        let limit = if limit == 0 { usize::MAX } else { limit as usize };
        Path::resolve(raw, connection.domid(), limit, space)
    }

    /// Reads the entries of SET_PERMS. Domains that the host knows and the store does not become
    /// known by it, since toolstacks set permissions before they introduce; others get nothing in
    /// advance (XSA-417).
    fn parse_perms(
        &self,
        connection: &Connection,
        caller: &Caller,
        payload: &[u8],
        path: Option<Path<'_>>,
    ) -> Result<Perms, Errno> {
        let entries: Vec<_> = strings(payload).skip(1).collect();
        if entries.is_empty() {
            return Err(Errno::EINVAL);
        }
        let registry = self.shared.store.registry();
        let quota = Quota::NodePermissions;
        if !registry.permits(&caller.domain, quota, entries.len(), path) {
            return Err(Errno::ENOSPC);
        }
        let parse = |text: &&[u8]| {
            let mut entry = Entry::parse(text)?;
            if entry.domid == Domid::ANY {
                entry.ignored = connection.domain.features() & FEATURE_DOMID_ANY == 0;
            } else {
                self.shared.known_domain(entry.domid);
            }
            Ok(entry)
        };
        let entries: Vec<Entry> = entries.iter().map(parse).collect::<Result<_, Errno>>()?;
        let (owner, others) = entries.split_first().ok_or(Errno::EINVAL)?;
        Ok(Arc::new(PermSet::new(registry.now(), *owner, others)))
    }
}

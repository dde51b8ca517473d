//! READ to SET_PERMS: from the typed request to the store's reply.

use std::borrow::Cow;

use super::connection::Connection;
use super::requests::{ACK, Outcome};
use super::thread::Thread;
use crate::domain::{FEATURE_DOMID_ANY, Quota};
use crate::protocol::operations::NodeRequest;
use crate::protocol::{Header, ReplySlot, Strings};
use crate::store::{Caller, Op, TURN_BEGAN, Verb};
use crate::sync::Arc;
use crate::words::{Domid, Entry, Errno, Path, PathSpace, PermSet, Perms};

impl Thread {
    /// READ to SET_PERMS, in or outside a transaction.
    pub(super) fn node_request(
        &mut self,
        connection: &mut Connection,
        caller: &Caller,
        header: &Header,
        (path, request): (&[u8], NodeRequest<'_>),
    ) -> Outcome {
        let mut space = PathSpace::new();
        let op = match self.node_op(connection, caller, (path, request), &mut space) {
            Ok(op) => op,
            Err(errno) => {
                self.refuse(connection, header, errno);
                return Outcome::Used;
            }
        };
        let id = header.tx_id.get();
        let writes = op.verb.writes();
        if id == 0 && writes && self.waits_for_guard(connection, [op.path]) {
            return Outcome::Again;
        }
        if id != 0 && !self.catches_up(connection, caller, id) {
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
                self.conclude(connection, header, executed);
            }
        }
        Outcome::Used
    }

    /// Returns a request on a node as the store takes it.
    fn node_op<'a>(
        &self,
        connection: &Connection,
        caller: &Caller,
        (path, request): (&'a [u8], NodeRequest<'a>),
        space: &'a mut PathSpace,
    ) -> Result<Op<'a>, Errno> {
        let path = self.resolve(connection, path, space);
        let verb = match request {
            NodeRequest::Read => Verb::Read,
            NodeRequest::Directory => Verb::Directory,
            NodeRequest::DirectoryPart(offset) => Verb::DirectoryPart(offset as usize),
            NodeRequest::GetPerms => Verb::GetPerms,
            NodeRequest::Write(value) => Verb::Write(Cow::Borrowed(value)),
            NodeRequest::Mkdir => Verb::Mkdir,
            NodeRequest::Rm => Verb::Rm,
            NodeRequest::SetPerms(entries) => {
                Verb::SetPerms(self.parse_perms(connection, caller, entries, path.ok())?)
            }
        };
        Ok(Op { path: path?, verb })
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
        entries: Strings<'_>,
        path: Option<Path<'_>>,
    ) -> Result<Perms, Errno> {
        let entries: Vec<_> = entries.collect();
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

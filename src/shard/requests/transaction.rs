//! TRANSACTION_START, TRANSACTION_END, and requests inside transactions.

use std::borrow::Cow;

use super::super::connection::OpenTransaction;
use super::super::guards::Admission;
use super::super::snapshots::Snapshot;
use super::{ACK, Connection, Outcome, Reply, RequestContext, Thread};
use crate::domain::Quota;
use crate::log;
use crate::protocol::ReplySlot;
use crate::protocol::operations::TransactionEnd;
use crate::store::{Caller, Conflict, Failure, Invocation, Op, Replay, Transaction};
use crate::words::{Domid, Errno, PathBuf};

/// What one transaction may hold; guests have smaller quotas.
const TRANSACTION_BYTES_MAX: usize = 64 << 20;
/// Transactions of one socket or control-domain connection; guests have a quota.
const TRANSACTIONS_MAX: usize = 1 << 16;

/// TRANSACTION_START: the id in decimal.
pub fn start(cx: &mut RequestContext<'_>) -> Reply {
    if cx.header.tx_id.get() != 0 {
        return Err(Errno::EBUSY);
    }
    let connection = &mut *cx.connection;
    let mut id = connection.next_transaction;
    while id == 0 || connection.transactions.contains_key(&id) {
        id = id.wrapping_add(1);
    }
    cx.thread.open_transaction(connection, id, Transaction::default())?;
    connection.next_transaction = id.wrapping_add(1);
    Ok(Cow::Owned(format!("{id}\0").into_bytes()))
}

/// Serves a request on a node inside a transaction.
pub fn execute(cx: &mut RequestContext<'_>, op: &Op<'_>) -> Outcome {
    let id = cx.header.tx_id.get();
    if cx.thread.catch_up(cx.connection, cx.caller, id) == Replay::Unfinished {
        return Outcome::Again;
    }
    let slot = ReplySlot::begin(cx.connection.output.buffer(), cx.header);
    let result = execute_caught_up(cx, op, id);
    if op.verb.writes() {
        cx.connection.output.buffer().extend_from_slice(ACK);
    }
    let start = slot.finish(cx.connection.output.buffer(), result);
    cx.connection.replied(start, None);
    Outcome::Used
}

/// Whether a transaction holds so much that it takes no more requests.
fn is_full(transaction: &Transaction) -> bool {
    transaction.bytes() > TRANSACTION_BYTES_MAX
}

/// Runs a request in a transaction that has caught up; the reply is appended.
fn execute_caught_up(cx: &mut RequestContext<'_>, op: &Op<'_>, id: u32) -> Result<(), Errno> {
    let RequestContext { thread, connection, caller, .. } = cx;
    let open = connection.transactions.get_mut(&id).ok_or(Errno::ENOENT)?;
    // Before anything is held: a guest over its quota is not read, and could end nothing.
    let needed = (open.transaction.bytes() + Transaction::bytes_of(op)) as u64;
    if is_full(&open.transaction)
        || !open.reserve(thread.shared.store.registry(), caller, needed, op.path)
    {
        return Err(Errno::ENOSPC);
    }
    let store = &thread.shared.store;
    let out = connection.output.buffer();
    let generations = &mut thread.generations;
    let before = open.transaction.work();
    let request = Invocation { caller, op, reply: out };
    let result = store.execute_in(&mut open.transaction, request, generations);
    thread.work += open.transaction.work().saturating_sub(before);
    // A request beyond the quota of requests is not kept, and what one creates or copies is.
    open.recharge(caller);
    result
}

/// TRANSACTION_END: all or nothing.
pub fn end(cx: &mut RequestContext<'_>, end: TransactionEnd) -> Outcome {
    let id = cx.header.tx_id.get();
    if end == TransactionEnd::Commit && await_guard(cx, id) == Admission::Parked {
        return Outcome::Again;
    }
    let Some(mut open) = cx.connection.transactions.remove(&id) else {
        cx.reply(Err(Errno::ENOENT));
        return Outcome::Used;
    };
    cx.thread.release_transaction(cx.connection, &open);
    (open.charged, open.snapshots_from) = (0, None);
    open.transaction.note_uncharged();
    if end == TransactionEnd::Commit
        && let Some(mut open) = commit(cx, open)
    {
        cx.connection.domain.account.charge(Quota::Transactions, 1);
        open.recharge(cx.caller);
        cx.connection.transactions.insert(id, open);
        cx.thread.note_snapshots(cx.connection, id);
        return Outcome::Again;
    }
    cx.connection.trace(format_args!("destroy transaction {id}"));
    if end == TransactionEnd::Abort {
        cx.thread.forget_failed(cx.connection);
        cx.reply(Ok(ACK));
    }
    Outcome::Used
}

fn await_guard(cx: &mut RequestContext<'_>, id: u32) -> Admission {
    if cx.thread.shared.guards.any()
        && let Some(open) = cx.connection.transactions.get(&id)
    {
        let written: Vec<_> = open.transaction.written_paths().cloned().collect();
        return cx.thread.await_guard(cx.connection, written.iter().map(PathBuf::as_path));
    }
    Admission::Admitted
}

/// Commits and replies, or gives the transaction back if it has to ask again whether it may.
fn commit(cx: &mut RequestContext<'_>, open: OpenTransaction) -> Option<OpenTransaction> {
    // All of it may be run again.
    cx.thread.work += open.transaction.work() + open.transaction.len() as u64;
    let store = &cx.thread.shared.store;
    let failure = match store.commit(open.transaction, cx.caller, &mut cx.thread.generations) {
        Ok(executed) => {
            cx.thread.forget_failed(cx.connection);
            cx.conclude(executed);
            return None;
        }
        Err(failure) => failure,
    };
    match failure {
        Failure::StaleEpoch(transaction) | Failure::Unfinished(transaction) => {
            return Some(OpenTransaction { transaction: *transaction, ..open });
        }
        Failure::Conflict(conflict) => {
            cx.thread.note_conflict(cx.connection, conflict);
            cx.reply(Err(Errno::EAGAIN));
        }
        Failure::Quota => {
            cx.thread.forget_failed(cx.connection);
            cx.reply(Err(Errno::ENOSPC));
        }
    }
    None
}

impl Thread {
    fn open_transaction(
        &self,
        connection: &mut Connection,
        id: u32,
        transaction: Transaction,
    ) -> Result<(), Errno> {
        let registry = self.shared.store.registry();
        if connection.transactions.len() >= TRANSACTIONS_MAX
            || !registry.reserve(&connection.domain, Quota::Transactions, 1, None)
        {
            return Err(Errno::ENOSPC);
        }
        self.insert_transaction(connection, id, transaction);
        Ok(())
    }

    /// Opens a transaction that is paid for.
    pub(in crate::shard) fn insert_transaction(
        &self,
        connection: &mut Connection,
        id: u32,
        transaction: Transaction,
    ) {
        let open = OpenTransaction { transaction, snapshots_from: None, charged: 0 };
        connection.transactions.insert(id, open);
        connection.trace(format_args!("create transaction {id}"));
    }

    /// START_DOMAIN_TRANSACTION: a transaction of a domain whose home thread this is, which goes on
    /// under the identifier that it had elsewhere, and whose END T answers EAGAIN.
    pub(in crate::shard) fn reserve_transaction(
        &mut self,
        domid: Domid,
        id: u32,
    ) -> Result<(), Errno> {
        let place = *self.rings.get(&domid).ok_or(Errno::ENOENT)?;
        let opened = self.with_connection(place, |thread, connection| {
            if connection.transactions.contains_key(&id) {
                return Err(Errno::EEXIST);
            }
            connection.outdate(thread.next_number());
            thread.open_transaction(connection, id, Transaction::reserved())
        });
        opened.ok_or(Errno::ENOENT)?
    }

    /// Runs the log of a transaction again if its snapshots were given up; its next request is served once that is
    /// through. A long log is run in pieces, one a pass.
    pub(in crate::shard) fn catch_up(
        &mut self,
        connection: &mut Connection,
        caller: &Caller,
        id: u32,
    ) -> Replay {
        self.note_snapshots(connection, id);
        let Some(open) = connection.transactions.get_mut(&id) else { return Replay::Done };
        if !open.transaction.is_behind() {
            return Replay::Done;
        }
        let (store, generations) = (&self.shared.store, &mut self.generations);
        let before = open.transaction.work();
        let replay = store.catch_up(&mut open.transaction, caller, generations);
        self.work += open.transaction.work().saturating_sub(before);
        open.recharge(caller);
        replay
    }

    /// Notes when a transaction that is about to be used has had its snapshots for too long.
    fn note_snapshots(&mut self, connection: &mut Connection, id: u32) {
        if let Some(open) = connection.transactions.get_mut(&id)
            && open.snapshots_from.is_none()
        {
            open.snapshots_from = Some(self.now);
            let (since, replaced) = (self.now, self.shared.store.replaced_bytes());
            let (place, connection) = (connection.asker.connection, connection.asker.id);
            let snapshot =
                Snapshot { first: since, since, replaced, place, connection, transaction: id };
            self.snapshots.push_back(snapshot);
        }
    }

    /// Every EAGAIN has a reason: it is counted, traced, and remembered for the next try.
    fn note_conflict(&self, connection: &mut Connection, conflict: Conflict) {
        tracing::debug!(
            target: log::CONFLICT,
            domid = connection.domid().0,
            request = conflict.verb,
            path = %conflict.path.as_path(),
            changed_by = conflict.changed_by.map(|domid| domid.0),
            "a transaction's reply would differ"
        );
        self.note_failed(connection, conflict.path.as_path());
        self.shared.control.conflicts.note(connection.domid(), conflict);
    }

    fn release_transaction(&self, connection: &Connection, open: &OpenTransaction) {
        connection.domain.account.release(Quota::Transactions, 1);
        connection.domain.account.release(Quota::Memory, open.charged);
    }

    /// Gives up all transactions of a connection. Cost: their number and what they hold.
    pub(in crate::shard) fn drop_transactions(&mut self, connection: &mut Connection) {
        for (id, open) in std::mem::take(&mut connection.transactions) {
            self.release_transaction(connection, &open);
            connection.trace(format_args!("destroy transaction {id}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, Verb};
    use crate::words::{Layout, Path, Subject};

    /// Without a thread, which gives snapshots up after a second.
    #[test]
    fn transaction_of_the_control_domain_is_full_beyond_64_mib() {
        let store = Store::alone(Layout::new(1));
        let domain = store.registry().get(Domid::CONTROL).unwrap();
        let caller = Caller { domain, subject: Subject::CONTROL, epoch: 0, unblocked: None };
        let (mut transaction, mut generations) = Default::default();
        // What is refused is kept with its value and changes no node.
        let (path, value) = (Path::parse(b"@special").unwrap(), Cow::Owned(vec![b'v'; 4000]));
        let op = Op { path, verb: Verb::Write(value) };
        let mut kept_bytes = 0;
        while !is_full(&transaction) {
            let mut reply = Vec::new();
            let request = Invocation { caller: &caller, op: &op, reply: &mut reply };
            let refused = store.execute_in(&mut transaction, request, &mut generations);
            assert_eq!(refused, Err(Errno::EINVAL));
            kept_bytes += 4000;
            assert!(kept_bytes <= TRANSACTION_BYTES_MAX);
        }
        assert!(kept_bytes > TRANSACTION_BYTES_MAX / 10 * 8);
    }
}

//! TRANSACTION_START, TRANSACTION_END, and requests inside transactions.

use std::borrow::Cow;

use super::context::{ACK, Outcome, Reply, RequestContext};
use crate::domain::Quota;
use crate::protocol::ReplySlot;
use crate::protocol::operations::TransactionEnd;
use crate::server::session::open_transaction::OpenTransaction;
use crate::server::session::reservations::{
    Admission, await_partitions, await_reserved_path, forget_failed,
};
use crate::server::session::transactions::note_conflict;
use crate::store::{CommitError, Invocation, Op, Replay, Transaction};
use crate::types::{Errno, PathBuf};

/// The limit on the memory of one transaction of the control domain; guests have smaller quotas.
const TRANSACTION_BYTES_MAX: usize = 64 << 20;

/// Starts a transaction; its id in decimal is the reply.
pub fn start(cx: &mut RequestContext<'_>) -> Reply {
    // As in C xenstored, transactions do not nest.
    if cx.header.tx_id.get() != 0 {
        return Err(Errno::EBUSY);
    }
    let session = &mut *cx.session;
    // Counting up, so that an id of an ended transaction does not mean another one soon. 0 stands for no transaction
    // (xenstore.txt).
    let mut id = session.next_transaction;
    while id == 0 || session.transactions.contains_key(&id) {
        id = id.wrapping_add(1);
    }
    session.open_transaction(cx.core, id, Transaction::default())?;
    session.next_transaction = id.wrapping_add(1);
    Ok(Cow::Owned(format!("{id}\0").into_bytes()))
}

/// Executes a request on a node inside a transaction.
pub fn execute(cx: &mut RequestContext<'_>, op: &Op<'_>) -> Outcome {
    let id = cx.header.tx_id.get();
    // Before the reply is begun: an unfinished replay must leave no trace in the output.
    if cx.session.catch_up(cx.core, cx.caller, id) == Replay::Unfinished {
        return Outcome::Retry;
    }
    let slot = ReplySlot::begin(cx.session.output.buffer(), cx.header);
    let result = execute_caught_up(cx, op, id);
    // `finish` removes it again if the request was refused.
    if op.verb.writes() {
        cx.session.output.buffer().extend_from_slice(ACK);
    }
    let start = slot.finish(cx.session.output.buffer(), result);
    cx.session.replied(start, None);
    Outcome::Used
}

/// Returns whether a transaction takes no more requests because of its memory.
fn is_full(transaction: &Transaction) -> bool {
    transaction.bytes() > TRANSACTION_BYTES_MAX
}

/// Executes a request in a transaction that has caught up, and appends the reply.
fn execute_caught_up(cx: &mut RequestContext<'_>, op: &Op<'_>, id: u32) -> Result<(), Errno> {
    let RequestContext { core, session, caller, .. } = cx;
    let open = session.transactions.get_mut(&id).ok_or(Errno::ENOENT)?;
    // The charge is reserved before anything is kept: a guest over its quota is not read, so it could not end its
    // transactions.
    let needed = (open.transaction.bytes() + Transaction::bytes_of(op)) as u64;
    if is_full(&open.transaction) || !open.reserve(core.registry(), caller, needed, op.path) {
        return Err(Errno::ENOSPC);
    }
    let store = &core.shared.store;
    let out = session.output.buffer();
    let generations = &mut core.generations;
    let before = open.transaction.work();
    let request = Invocation { caller, op, reply: out };
    let result = open.transaction.execute(store, request, generations);
    core.work += open.transaction.work().saturating_sub(before);
    // The charge differs from the reserved one: created and copied nodes are kept too, and a request over the quota
    // `transaction-nodes` is not.
    open.recharge(caller);
    result
}

/// Ends a transaction: all of its changes are committed, or none.
pub fn end(cx: &mut RequestContext<'_>, end: TransactionEnd) -> Outcome {
    let id = cx.header.tx_id.get();
    if end == TransactionEnd::Commit && await_reservations(cx, id) == Admission::Parked {
        return Outcome::Retry;
    }
    // Taken out of the map for the commit, which consumes it; a retry puts it back.
    let Some(mut open) = cx.session.transactions.remove(&id) else {
        cx.reply(Err(Errno::ENOENT));
        return Outcome::Used;
    };
    // The charge is released first, so that the commit's quota checks do not count the transaction's nodes twice.
    cx.session.release_transaction(&open);
    (open.charged, open.snapshots_from) = (0, None);
    open.transaction.note_uncharged();
    if end == TransactionEnd::Commit
        && let Some(mut open) = commit(cx, open)
    {
        // Not reserved: the slot was this transaction's a moment ago, and a retry must not fail.
        cx.session.domain.account.charge(Quota::Transactions, 1);
        open.recharge(cx.caller);
        cx.session.transactions.insert(id, open);
        cx.session.note_snapshots(cx.core, id);
        return Outcome::Retry;
    }
    cx.session.trace(format_args!("destroy transaction {id}"));
    if end == TransactionEnd::Abort {
        forget_failed(cx.core, cx.session);
        cx.reply(Ok(ACK));
    }
    Outcome::Used
}

/// Parks an END that would write another connection's reserved paths, or that has lost too many races and waits for a
/// reservation of its own.
fn await_reservations(cx: &mut RequestContext<'_>, id: u32) -> Admission {
    let RequestContext { core, session, .. } = cx;
    let Some(open) = session.transactions.get(&id) else { return Admission::Admitted };
    let contended = open.transaction.contended().to_vec();
    if core.shared.reservations.any() {
        // Copied, as the session is borrowed again. That is rare: only while a reservation lasts.
        let written: Vec<_> = open.transaction.written_paths().cloned().collect();
        let written = written.iter().map(PathBuf::as_path);
        if await_reserved_path(core, session, written) == Admission::Parked {
            return Admission::Parked;
        }
    }
    if contended.is_empty() {
        return Admission::Admitted;
    }
    await_partitions(core, session, &contended)
}

/// Commits and replies. Returns the transaction if its END has to be retried: the epoch is stale, a replay is
/// unfinished, or too many races were lost.
fn commit(cx: &mut RequestContext<'_>, open: OpenTransaction) -> Option<OpenTransaction> {
    // The commit may replay the whole log.
    cx.core.work += open.transaction.work() + open.transaction.len() as u64;
    let store = &cx.core.shared.store;
    let failure = match open.transaction.commit(store, cx.caller, &mut cx.core.generations) {
        Ok(executed) => {
            forget_failed(cx.core, cx.session);
            cx.conclude(executed);
            return None;
        }
        Err(failure) => failure,
    };
    match failure {
        CommitError::StaleEpoch(transaction)
        | CommitError::Unfinished(transaction)
        | CommitError::Contended(transaction) => {
            return Some(OpenTransaction { transaction: *transaction, ..open });
        }
        CommitError::Conflict(conflict) => {
            note_conflict(cx.core, cx.session, conflict);
            cx.reply(Err(Errno::EAGAIN));
        }
        // No other client is in the way, so this is no conflict and the reservation ends.
        CommitError::Quota => {
            forget_failed(cx.core, cx.session);
            cx.reply(Err(Errno::ENOSPC));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::alone::alone;
    use crate::store::{Caller, Verb};
    use crate::types::{Domid, Layout, Path, Subject};

    /// The test has a store without a worker, which would drop the snapshots after a second.
    #[test]
    fn control_domains_transaction_is_limited_to_64_mib() {
        let store = alone(Layout::new(1));
        let domain = store.registry().get(Domid::CONTROL).unwrap();
        let caller = Caller { domain, subject: Subject::CONTROL, epoch: 0, unblocked: None };
        let (mut transaction, mut generations) = (Transaction::default(), Default::default());
        // A refused request is kept with its value and changes no node.
        let (path, value) = (Path::parse(b"@special").unwrap(), Cow::Owned(vec![b'v'; 4000]));
        let op = Op { path, verb: Verb::Write(value) };
        let mut kept_bytes = 0;
        while !is_full(&transaction) {
            let mut reply = Vec::new();
            let request = Invocation { caller: &caller, op: &op, reply: &mut reply };
            let refused = transaction.execute(&store, request, &mut generations);
            assert_eq!(refused, Err(Errno::EINVAL));
            kept_bytes += 4000;
            assert!(kept_bytes <= TRANSACTION_BYTES_MAX);
        }
        assert!(kept_bytes > TRANSACTION_BYTES_MAX / 10 * 8);
    }
}

//! A session's transactions: how they begin, keep up with the store, and end.

use super::Session;
use super::core::Core;
use super::open_transaction::OpenTransaction;
use super::reservations::note_failed;
use super::snapshots::Snapshot;
use crate::domain::Quota;
use crate::log;
use crate::store::{Caller, Conflict, Replay, Transaction};
use crate::types::Errno;

/// The limit on the open transactions of one connection of the control domain; guests have a quota.
const TRANSACTIONS_MAX: usize = 1 << 16;

impl Session {
    /// Opens a transaction.
    ///
    /// # Errors
    /// `ENOSPC` if there are too many.
    pub fn open_transaction(
        &mut self,
        core: &Core,
        id: u32,
        transaction: Transaction,
    ) -> Result<(), Errno> {
        let registry = core.registry();
        // The account of the control domain has no limit, and all its connections share it.
        if self.transactions.len() >= TRANSACTIONS_MAX
            || !registry.reserve(&self.domain, Quota::Transactions, 1, None)
        {
            return Err(Errno::ENOSPC);
        }
        self.insert_transaction(id, transaction);
        Ok(())
    }

    /// Opens a transaction that is charged already.
    pub fn insert_transaction(&mut self, id: u32, transaction: Transaction) {
        let open = OpenTransaction { transaction, snapshots_from: None, charged: 0 };
        self.transactions.insert(id, open);
        self.trace(format_args!("create transaction {id}"));
    }

    /// Opens a transaction of another process, and charges it.
    pub fn restore_transaction(&mut self, core: &Core, id: u32, transaction: Transaction) {
        self.domain.account.charge(Quota::Transactions, 1);
        self.insert_transaction(id, transaction);
        let caller = self.take_caller(core);
        if let Some(open) = self.transactions.get_mut(&id) {
            open.recharge(&caller);
        }
        self.caller = Some(caller);
    }

    /// Replays the log of a transaction whose snapshots were dropped, before its next request. A long log is replayed
    /// in pieces, one a pass. All at once, a guest's log may take 50 to 77 ms, in which its worker would serve no other
    /// client.
    pub fn catch_up(&mut self, core: &mut Core, caller: &Caller, id: u32) -> Replay {
        // Before the request, which may take the transaction's first snapshot: the age counts from here.
        self.note_snapshots(core, id);
        let Some(open) = self.transactions.get_mut(&id) else { return Replay::Done };
        if !open.transaction.is_behind() {
            return Replay::Done;
        }
        let (store, generations) = (&core.shared.store, &mut core.generations);
        let before = open.transaction.work();
        let replay = open.transaction.catch_up(store, caller, generations);
        core.work += open.transaction.work().saturating_sub(before);
        open.recharge(caller);
        replay
    }

    /// Starts the age limit of the snapshots that a transaction is about to take, unless it has some.
    pub fn note_snapshots(&mut self, core: &mut Core, id: u32) {
        if let Some(open) = self.transactions.get_mut(&id)
            && open.snapshots_from.is_none()
        {
            open.snapshots_from = Some(core.now);
            let (since, replaced) = (core.now, core.shared.store.replaced_bytes());
            let (slot, connection) = (self.reply_to.connection, self.reply_to.id);
            let snapshot =
                Snapshot { first: since, since, replaced, slot, connection, transaction: id };
            core.snapshots.add(snapshot);
        }
    }

    /// Releases the charges of a transaction.
    pub fn release_transaction(&self, open: &OpenTransaction) {
        self.domain.account.release(Quota::Transactions, 1);
        self.domain.account.release(Quota::Memory, open.charged);
    }

    /// Aborts all transactions. Cost: linear in the number and the memory of the transactions.
    pub fn drop_transactions(&mut self) {
        for (id, open) in std::mem::take(&mut self.transactions) {
            self.release_transaction(&open);
            self.trace(format_args!("destroy transaction {id}"));
        }
    }
}

/// Records the reason of an EAGAIN: it is counted, traced, and remembered for the next reservation.
pub fn note_conflict(core: &Core, session: &mut Session, conflict: Conflict) {
    tracing::debug!(
        target: log::CONFLICT,
        domid = session.domid().0,
        request = conflict.verb,
        path = %conflict.path.as_path(),
        changed_by = conflict.changed_by.map(|domid| domid.0),
        "transaction conflict"
    );
    note_failed(core, session, conflict.path.as_path());
    core.shared.control.conflicts.note(session.domid(), conflict);
}

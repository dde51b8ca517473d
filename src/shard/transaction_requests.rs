//! TRANSACTION_START, TRANSACTION_END, and requests inside transactions.

use std::borrow::Cow;

use super::connection::{Connection, OpenTransaction};
use super::requests::{ACK, Outcome};
use super::snapshots::Snapshot;
use super::thread::Thread;
use super::trace;
use crate::domain::Quota;
use crate::log;
use crate::protocol::Header;
use crate::store::{Caller, Conflict, Failure, Op, Transaction};
use crate::sync::Arc;
use crate::words::{Domid, Errno, PathBuf};

/// What one transaction may hold; guests have smaller quotas.
const TRANSACTION_BYTES_MAX: usize = 64 << 20;
/// Transactions of one socket or control-domain connection; guests have a quota.
const TRANSACTIONS_MAX: usize = 1 << 16;

impl Thread {
    /// TRANSACTION_START: the id in decimal.
    pub(super) fn start_transaction(
        &mut self,
        connection: &mut Connection,
        header: &Header,
    ) -> Result<Cow<'static, [u8]>, Errno> {
        if header.tx_id.get() != 0 {
            return Err(Errno::EBUSY);
        }
        let mut id = connection.next_transaction;
        while id == 0 || connection.transactions.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        self.open_transaction(connection, id, Transaction::default())?;
        connection.next_transaction = id.wrapping_add(1);
        Ok(Cow::Owned(format!("{id}\0").into_bytes()))
    }

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
    pub(super) fn insert_transaction(
        &self,
        connection: &mut Connection,
        id: u32,
        transaction: Transaction,
    ) {
        let open = OpenTransaction { transaction, snapshots_from: None, charged: 0 };
        connection.transactions.insert(id, open);
        trace::object(self.number, connection, format_args!("create transaction {id}"));
    }

    /// START_DOMAIN_TRANSACTION: a transaction of a domain whose home thread this is, which goes on
    /// under the identifier that it had elsewhere, and whose END T answers EAGAIN.
    pub(super) fn reserve_transaction(&mut self, domid: Domid, id: u32) -> Result<(), Errno> {
        let place = *self.rings.get(&domid).ok_or(Errno::ENOENT)?;
        let slot = self.connections.get_mut(place).ok_or(Errno::ENOENT)?;
        let free = |connection: &mut Box<Connection>| !connection.transactions.contains_key(&id);
        let mut connection = slot.take_if(free).ok_or(Errno::EEXIST)?;
        let result = self.open_transaction(&mut connection, id, Transaction::reserved());
        connection.outdate(self.next_number());
        self.connections[place] = Some(connection);
        result
    }

    /// Runs the log of a transaction again if its snapshots were given up; returns whether its next request may
    /// be served. A long log is run in pieces, one a pass.
    pub(super) fn catches_up(
        &mut self,
        connection: &mut Connection,
        caller: &Caller,
        id: u32,
    ) -> bool {
        self.note_snapshots(connection, id);
        let Some(open) = connection.transactions.get_mut(&id) else { return true };
        if !open.transaction.is_behind() {
            return true;
        }
        let (store, generations) = (&self.shared.store, &mut self.generations);
        let has_caught_up = store.catch_up(&mut open.transaction, caller, generations);
        open.recharge(&caller.domain, caller.subject.privileged);
        has_caught_up
    }

    /// Notes when a transaction that is about to be used has had its snapshots for too long.
    fn note_snapshots(&mut self, connection: &mut Connection, id: u32) {
        if let Some(open) = connection.transactions.get_mut(&id)
            && open.snapshots_from.is_none()
        {
            open.snapshots_from = Some(self.now);
            let (since, place, connection) = (self.now, connection.place, connection.id);
            self.snapshots.push_back(Snapshot { since, place, connection, transaction: id });
        }
    }

    /// A request on a node inside a transaction that has caught up; the reply is appended.
    pub(super) fn execute_in_transaction(
        &mut self,
        connection: &mut Connection,
        caller: &Caller,
        id: u32,
        op: &Op<'_>,
    ) -> Result<(), Errno> {
        let open = connection.transactions.get_mut(&id).ok_or(Errno::ENOENT)?;
        // Before anything is held: a guest over its quota is not read, and could end nothing.
        let needed = (open.transaction.bytes() + Transaction::bytes_of(op)) as u64;
        if open.transaction.bytes() > TRANSACTION_BYTES_MAX
            || !open.reserve(self.shared.store.registry(), caller, needed, op.path)
        {
            return Err(Errno::ENOSPC);
        }
        let store = &self.shared.store;
        let out = connection.output.buffer();
        let generations = &mut self.generations;
        let result = store.execute_in(&mut open.transaction, caller, op, generations, out);
        // A request beyond the quota of requests is not kept, and what one creates or copies is.
        open.recharge(&caller.domain, caller.subject.privileged);
        result
    }

    /// TRANSACTION_END: all or nothing.
    pub(super) fn end_transaction(
        &mut self,
        connection: &mut Connection,
        caller: &Caller,
        header: &Header,
        commit: bool,
    ) -> Outcome {
        let id = header.tx_id.get();
        if commit
            && self.shared.guards.any()
            && let Some(open) = connection.transactions.get(&id)
        {
            let written: Vec<_> = open.transaction.written_paths().cloned().collect();
            if self.waits_for_guard(connection, written.iter().map(PathBuf::as_path)) {
                return Outcome::Again;
            }
        }
        let Some(mut open) = connection.transactions.remove(&id) else {
            self.answer(connection, header, Err(Errno::ENOENT), None);
            return Outcome::Used;
        };
        self.release_transaction(connection, &open);
        (open.charged, open.snapshots_from) = (0, None);
        open.transaction.set_charged(false);
        if commit && let Some(mut open) = self.commit(connection, caller, header, open) {
            connection.domain.account.charge(Quota::Transactions, 1);
            open.recharge(&caller.domain, caller.subject.privileged);
            connection.transactions.insert(id, open);
            self.note_snapshots(connection, id);
            return Outcome::Again;
        }
        trace::object(self.number, connection, format_args!("destroy transaction {id}"));
        if !commit {
            self.forget_failed(connection);
            self.answer(connection, header, Ok(ACK), None);
        }
        Outcome::Used
    }

    /// Commits and answers, or gives the transaction back if it has to ask again whether it may.
    fn commit(
        &mut self,
        connection: &mut Connection,
        caller: &Caller,
        header: &Header,
        open: OpenTransaction,
    ) -> Option<OpenTransaction> {
        let store = Arc::clone(&self.shared.store);
        let failure = match store.commit(open.transaction, caller, &mut self.generations) {
            Ok(executed) => {
                self.forget_failed(connection);
                self.conclude(connection, header, executed);
                return None;
            }
            Err(failure) => failure,
        };
        let errno = failure.errno();
        match failure {
            Failure::Turn(transaction) | Failure::Unfinished(transaction) => {
                return Some(OpenTransaction { transaction: *transaction, ..open });
            }
            Failure::Conflict(conflict) => self.note_conflict(connection, conflict),
            Failure::Quota => self.forget_failed(connection),
        }
        self.answer(connection, header, Err(errno), None);
        None
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
    pub(super) fn drop_transactions(&mut self, connection: &mut Connection) {
        for (id, open) in std::mem::take(&mut connection.transactions) {
            self.release_transaction(connection, &open);
            trace::object(self.number, connection, format_args!("destroy transaction {id}"));
        }
    }
}

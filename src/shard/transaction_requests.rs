//! TRANSACTION_START, TRANSACTION_END, and requests inside transactions.

use std::borrow::Cow;
use std::time::Duration;

use super::connection::{Connection, OpenTransaction};
use super::requests::{ACK, Outcome};
use super::thread::{Place, Thread};
use crate::domain::Quota;
use crate::protocol::{Header, one_string};
use crate::store::{Caller, Conflict, Failure, Op, Transaction};
use crate::sync::Arc;
use crate::words::Errno;

/// A transaction's snapshots are given up when they are this old: they pin what others replace.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(1);
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
        let registry = self.shared.store.registry();
        if connection.transactions.len() >= TRANSACTIONS_MAX
            || !registry.reserve(&connection.domain, Quota::Transactions, 1)
        {
            return Err(Errno::ENOSPC);
        }
        let mut id = connection.next_transaction;
        while id == 0 || connection.transactions.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        connection.next_transaction = id.wrapping_add(1);
        let transaction = Transaction::default();
        let open = OpenTransaction { transaction, snapshots_from: None, charged: 0 };
        connection.transactions.insert(id, open);
        Ok(Cow::Owned(format!("{id}\0").into_bytes()))
    }

    /// A request on a node inside a transaction; the reply is appended.
    pub(super) fn execute_in_transaction(
        &mut self,
        place: Place,
        connection: &mut Connection,
        caller: &Caller,
        id: u32,
        op: &Op<'_>,
    ) -> Result<(), Errno> {
        let guard = self.asker(place, connection);
        if let Some((conflicts, path)) = &connection.conflicts
            && *conflicts >= super::guards::CONFLICTS_BEFORE_GUARD
            && op.path == path.as_path()
            && !connection.is_guest()
        {
            self.shared.guards.set(guard, path.clone(), self.now);
        }
        let open = connection.transactions.get_mut(&id).ok_or(Errno::ENOENT)?;
        // Before anything is held: a guest over its quota is not read, and could end nothing.
        let bytes = Transaction::bytes_of(op) as u64;
        let registry = self.shared.store.registry();
        if open.transaction.bytes() > TRANSACTION_BYTES_MAX
            || !registry.reserve(&connection.domain, Quota::Memory, bytes)
        {
            return Err(Errno::ENOSPC);
        }
        open.snapshots_from.get_or_insert(self.now);
        let store = &self.shared.store;
        let out = connection.output.buffer();
        let generations = &mut self.generations;
        let result = store.execute_in(&mut open.transaction, caller, op, generations, out);
        // A request beyond the quota of requests is not kept.
        let held = open.transaction.bytes() as u64;
        connection.domain.account.release(Quota::Memory, open.charged + bytes - held);
        open.charged = held;
        result
    }

    /// TRANSACTION_END: all or nothing.
    pub(super) fn end_transaction(
        &mut self,
        place: Place,
        connection: &mut Connection,
        caller: &Caller,
        header: &Header,
        payload: &[u8],
    ) -> Outcome {
        let commit = match one_string(payload) {
            Ok(b"T") => true,
            Ok(b"F") => false,
            _ => {
                self.answer(connection, header, Err(Errno::EINVAL), None);
                return Outcome::Used;
            }
        };
        let id = header.tx_id.get();
        if commit
            && self.shared.guards.any()
            && let Some(open) = connection.transactions.get(&id)
        {
            let written: Vec<_> = open.transaction.written_paths().cloned().collect();
            if self.waits_for_guard(connection, written.iter().map(|path| path.as_path())) {
                return Outcome::Again;
            }
        }
        let Some(open) = connection.transactions.remove(&id) else {
            self.answer(connection, header, Err(Errno::ENOENT), None);
            return Outcome::Used;
        };
        self.release_transaction(connection, &open);
        self.shared.guards.lift(self.asker(place, connection), &self.shared.mailboxes);
        if !commit {
            self.answer(connection, header, Ok(ACK), None);
            return Outcome::Used;
        }
        let store = Arc::clone(&self.shared.store);
        match store.commit(open.transaction, caller, &mut self.generations) {
            Ok(executed) => {
                connection.conflicts = None;
                self.conclude(place, connection, header, executed);
            }
            Err(failure) => {
                let errno = failure.errno();
                if let Failure::Conflict(conflict) = failure {
                    self.note_conflict(connection, conflict);
                }
                self.answer(connection, header, Err(errno), None);
            }
        }
        Outcome::Used
    }

    /// Every EAGAIN has a reason: it is counted, traced, and remembered for the next try.
    fn note_conflict(&self, connection: &mut Connection, conflict: Conflict) {
        tracing::debug!(
            target: "conflict",
            domid = connection.domid().0,
            request = conflict.verb,
            path = %conflict.path.as_path(),
            changed_by = conflict.changed_by.map(|domid| domid.0),
            "a transaction's reply would differ"
        );
        let before = match &connection.conflicts {
            Some((conflicts, path)) if *path == conflict.path => *conflicts,
            _ => 0,
        };
        connection.conflicts = Some((before + 1, conflict.path.clone()));
        self.shared.control.conflicts.note(connection.domid(), conflict);
    }

    fn release_transaction(&self, connection: &Connection, open: &OpenTransaction) {
        connection.domain.account.release(Quota::Transactions, 1);
        connection.domain.account.release(Quota::Memory, open.charged);
    }

    /// Gives up all transactions of a connection. Cost: their number and what they hold.
    pub(super) fn drop_transactions(&mut self, connection: &mut Connection) {
        for (_, open) in std::mem::take(&mut connection.transactions) {
            self.release_transaction(connection, &open);
        }
    }

    /// Gives up snapshots that are too old, by running their transactions again on newer ones.
    pub(super) fn refresh_transactions(&mut self, connection: &mut Connection) {
        let caller = self.caller(connection);
        for open in connection.transactions.values_mut() {
            let age = open.snapshots_from.map(|from| self.now.saturating_duration_since(from));
            if age.is_some_and(|age| age >= SNAPSHOT_AGE_MAX) {
                let store = &self.shared.store;
                store.refresh(&mut open.transaction, &caller, &mut self.generations);
                open.snapshots_from = Some(self.now);
            }
        }
    }
}

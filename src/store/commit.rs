//! The end of a transaction: swapped in if the store is as it was, else run again and compared.

use super::context::Caller;
use super::forest::{LockSet, Locked};
use super::transaction::{Conflict, Outcome, Transaction};
use super::{Executed, Generations, Store};
use crate::domain::Quota;
use crate::sync::Arc;
use crate::words::{Domid, Errno, Path};

/// After losing this many races against other commits, the log is run under all locks.
const RACES_MAX: usize = 2;

/// What [`Store::execute`] answers a caller who asked too long ago whether it may write
/// ([`Caller::turn`]): it is to ask again. No request on a node is answered this on the wire.
pub const TURN_BEGAN: Errno = Errno::EBUSY;

/// Why a transaction did not commit; nothing of it happened.
#[derive(Debug)]
pub enum Failure {
    /// [`TURN_BEGAN`]: it is as it was, and may be committed again.
    Turn(Box<Transaction>),
    /// `EAGAIN`: a reply would differ.
    Conflict(Conflict),
    /// `ENOSPC`: what it creates is over a quota.
    Quota,
}

impl Failure {
    /// Its error.
    pub fn errno(&self) -> Errno {
        match self {
            Failure::Turn(_) => TURN_BEGAN,
            Failure::Conflict(_) => Errno::EAGAIN,
            Failure::Quota => Errno::ENOSPC,
        }
    }
}

impl Store {
    /// Commits a transaction: all of it at once, or nothing.
    ///
    /// Two transactions conflict only if one saw what the other changed. Cost: a comparison of each
    /// home's root; if somebody changed one of its homes, that of its requests.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn commit(
        &self,
        mut transaction: Transaction,
        caller: &Caller,
        generations: &mut Generations,
    ) -> Result<Executed, Failure> {
        if let Some(conflict) = transaction.doomed.take() {
            return Err(Failure::Conflict(conflict));
        }
        if transaction.given_up {
            self.check_replay(&mut transaction, None, caller, generations)?;
        } else {
            transaction.merge_changes();
        }
        let mut replayed = false;
        for _race in 0..RACES_MAX {
            let mut locked = Locked::take(self, &transaction.touched.lock_set());
            if self.is_current(&transaction, &locked) && (replayed || !transaction.saw_quota) {
                return self.swap_in(&mut transaction, &mut locked, caller);
            }
            drop(locked);
            drop(transaction.begin_anew());
            self.check_replay(&mut transaction, None, caller, generations)?;
            replayed = true;
        }
        // Dropped after the locks, as it is declared before them.
        let _lost;
        let mut locked = Locked::take(self, &LockSet::all(self.layout, true));
        if !self.is_current(&transaction, &locked) {
            _lost = transaction.begin_anew();
            self.check_replay(&mut transaction, Some(&locked), caller, generations)?;
        }
        self.swap_in(&mut transaction, &mut locked, caller)
    }

    fn check_replay(
        &self,
        transaction: &mut Transaction,
        locked: Option<&Locked<'_>>,
        caller: &Caller,
        generations: &mut Generations,
    ) -> Result<(), Failure> {
        match self.replay(transaction, locked, caller, generations) {
            None => Ok(()),
            Some(conflict) => Err(Failure::Conflict(conflict)),
        }
    }

    /// Runs the log of a transaction that was given up again, on the store as it is now. If a reply
    /// differs the transaction goes on, but its END will answer EAGAIN.
    pub(super) fn refresh(
        &self,
        transaction: &mut Transaction,
        caller: &Caller,
        generations: &mut Generations,
    ) {
        let conflict = self.replay(transaction, None, caller, generations);
        transaction.doomed = transaction.doomed.take().or(conflict);
    }

    /// Whether every home that the transaction started from is as it was, and everybody has the
    /// rights and limits that they had.
    fn is_current(&self, transaction: &Transaction, locked: &Locked<'_>) -> bool {
        transaction.rights == self.registry.rights() && transaction.touched.are_current(locked)
    }

    /// Runs the whole log of a transaction that began anew, and answers the first request whose
    /// reply differs.
    fn replay(
        &self,
        transaction: &mut Transaction,
        locked: Option<&Locked<'_>>,
        caller: &Caller,
        generations: &mut Generations,
    ) -> Option<Conflict> {
        transaction.rights = self.registry.rights();
        transaction.given_up = false;
        let log = std::mem::take(&mut transaction.log);
        let mut reply = Vec::new();
        let mut conflict = None;
        for logged in &log {
            let op = logged.op.op();
            reply.clear();
            let generation = generations.next(self);
            let result = self.replay_one(transaction, locked, caller, &op, generation, &mut reply);
            let outcome = Outcome::of(&op.verb, result, &reply, &self.hasher);
            if outcome != logged.outcome && conflict.is_none() {
                let changed_by = self.changed_by(op.path);
                let verb = op.verb.name();
                conflict = Some(Conflict { verb, path: op.path.to_buf(), changed_by });
            }
        }
        transaction.log = log;
        transaction.merge_changes();
        conflict
    }

    /// Puts the transaction's homes in the place of the store's, with all locks held. What is left of
    /// it is the caller's to drop, when they are not.
    fn swap_in(
        &self,
        transaction: &mut Transaction,
        locked: &mut Locked<'_>,
        caller: &Caller,
    ) -> Result<Executed, Failure> {
        if !transaction.effects.changes.is_empty() && caller.turn != self.turn() {
            return Err(Failure::Turn(Box::new(std::mem::take(transaction))));
        }
        self.reserve(transaction, caller)?;
        transaction.touched.swap_in(locked);
        let replaced = std::mem::take(&mut transaction.touched);
        Ok(self.conclude(locked, Some(replaced), &mut transaction.effects.changes, caller))
    }

    /// Moves what the transaction uses into the accounts; only the caller's can refuse.
    fn reserve(&self, transaction: &Transaction, caller: &Caller) -> Result<(), Failure> {
        let own = |domain: &Arc<_>| Arc::ptr_eq(domain, &caller.domain);
        if let Some(mine) = transaction.deltas.iter().find(|delta| own(&delta.domain)) {
            let more = |change| u64::try_from(change).unwrap_or(0);
            let (nodes, bytes) = (more(mine.nodes), more(mine.bytes));
            // One of many, which says where to look.
            let path = transaction.effects.changes.first().map(|change| change.path.as_path());
            if !self.registry.reserve_nodes(&mine.domain, nodes, bytes, path) {
                return Err(Failure::Quota);
            }
        }
        for delta in transaction.deltas.iter() {
            // What the caller uses more of is reserved already.
            let most = if own(&delta.domain) { 0 } else { i64::MAX };
            delta.domain.account.change(Quota::Nodes, delta.nodes.min(most));
            delta.domain.account.change(Quota::Memory, delta.bytes.min(most));
        }
        Ok(())
    }

    /// Who changed `path`, or one above it, last; as far as is remembered.
    fn changed_by(&self, path: Path<'_>) -> Option<Domid> {
        let shard = self.layout.home(path).shard;
        let shard = self.shard(shard).try_read()?;
        std::iter::successors(Some(path), |path| path.parent())
            .find_map(|path| shard.recent.changed_by(path))
    }
}

//! The end of a transaction: swapped in if the store is as it was, else run again and compared.

use smallvec::SmallVec;

use super::context::Caller;
use super::forest::{LockSet, Locked};
use super::transaction::{Conflict, Outcome, Touched, Transaction};
use super::{Executed, Generations, Store};
use crate::domain::Quota;
use crate::sync::Arc;
use crate::words::{Domid, Errno, Path};

/// After losing this many races against other commits, the log is run under all locks.
const RACES_MAX: usize = 2;

/// Why a transaction did not commit; nothing of it happened.
#[derive(Debug)]
pub enum Failure {
    /// `EAGAIN`: a reply would differ.
    Conflict(Conflict),
    /// `ENOSPC`: what it creates is over a quota.
    Quota,
}

impl Failure {
    /// The error for the wire.
    pub fn errno(&self) -> Errno {
        match self {
            Failure::Conflict(_) => Errno::EAGAIN,
            Failure::Quota => Errno::ENOSPC,
        }
    }
}

impl Store {
    /// Commits a transaction: all of it at once, or nothing.
    ///
    /// Two transactions conflict only if one saw what the other changed. Cost: a comparison of
    /// versions; if another commit touched one of its shards, that of its requests.
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
            self.check_replay(&mut transaction, caller, generations)?;
        }
        let mut replayed = false;
        for race in 0.. {
            let mut locked = Locked::take(self, &self.lock_set(&transaction, race));
            if self.is_current(&transaction, &locked) && (replayed || !transaction.saw_quota) {
                return self.swap_in(transaction, &mut locked, caller);
            }
            if race < RACES_MAX {
                drop(locked);
                transaction.touched.clear();
                self.check_replay(&mut transaction, caller, generations)?;
                replayed = true;
            } else {
                transaction.touched = all_trees(self, &locked);
                self.check_replay(&mut transaction, caller, generations)?;
                return self.swap_in(transaction, &mut locked, caller);
            }
        }
        unreachable!("the last race is run under all locks")
    }

    fn check_replay(
        &self,
        transaction: &mut Transaction,
        caller: &Caller,
        generations: &mut Generations,
    ) -> Result<(), Failure> {
        match self.replay(transaction, caller, generations) {
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
        let conflict = self.replay(transaction, caller, generations);
        transaction.doomed = transaction.doomed.take().or(conflict);
    }

    fn lock_set(&self, transaction: &Transaction, race: usize) -> LockSet {
        if race >= RACES_MAX {
            return LockSet::all(self.layout, true);
        }
        let mut set = LockSet::default();
        for touched in &transaction.touched {
            set.add(touched.shard, touched.written);
        }
        set
    }

    /// Whether every tree that the transaction started from is still in place, and everybody has
    /// the rights and limits that they had.
    fn is_current(&self, transaction: &Transaction, locked: &Locked<'_>) -> bool {
        let current = |touched: &Touched| {
            let shard = locked.shard(touched.shard);
            shard.is_some_and(|shard| shard.tree.version() == touched.base_version)
        };
        transaction.clock == self.registry.now() && transaction.touched.iter().all(current)
    }

    /// Runs the whole log on fresh trees (or on those already in `touched`), and answers the first
    /// request whose reply differs.
    fn replay(
        &self,
        transaction: &mut Transaction,
        caller: &Caller,
        generations: &mut Generations,
    ) -> Option<Conflict> {
        transaction.clock = self.registry.now();
        transaction.forget_results();
        transaction.given_up = false;
        let log = std::mem::take(&mut transaction.log);
        let mut reply = Vec::new();
        let mut conflict = None;
        for logged in &log {
            let op = logged.op.op();
            reply.clear();
            let generation = generations.next(self);
            let result = self.replay_one(transaction, caller, &op, generation, &mut reply);
            let outcome = Outcome::of(&op.verb, result, &reply, &self.hasher);
            if outcome != logged.outcome && conflict.is_none() {
                let changed_by = self.changed_by(op.path);
                let verb = op.verb.name();
                conflict = Some(Conflict { verb, path: op.path.to_buf(), changed_by });
            }
        }
        transaction.log = log;
        conflict
    }

    /// Puts the transaction's trees in the place of the store's, with all locks held.
    fn swap_in(
        &self,
        transaction: Transaction,
        locked: &mut Locked<'_>,
        caller: &Caller,
    ) -> Result<Executed, Failure> {
        self.reserve(&transaction, caller)?;
        let mut replaced = Vec::with_capacity(transaction.touched.len());
        for touched in transaction.touched {
            if touched.written
                && let Some(shard) = locked.shard_mut(touched.shard)
            {
                let old = std::mem::replace(&mut shard.tree, touched.tree);
                replaced.push((touched.shard, old));
            }
        }
        Ok(self.conclude(locked, replaced, transaction.effects.changes, caller))
    }

    /// Moves what the transaction uses into the accounts; only the caller's can refuse.
    fn reserve(&self, transaction: &Transaction, caller: &Caller) -> Result<(), Failure> {
        let own = |domain: &Arc<_>| Arc::ptr_eq(domain, &caller.domain);
        if let Some(mine) = transaction.deltas.iter().find(|delta| own(&delta.domain)) {
            let more = |change| u64::try_from(change).unwrap_or(0);
            let (nodes, bytes) = (more(mine.nodes), more(mine.bytes));
            if !self.registry.reserve_nodes(&mine.domain, nodes, bytes) {
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
        let shard = self.shards[usize::from(shard.0)].try_read()?;
        std::iter::successors(Some(path), |path| path.parent())
            .find_map(|path| shard.recent.changed_by(path))
    }
}

/// The trees of all shards, so that nothing needs to be locked for them.
fn all_trees(store: &Store, locked: &Locked<'_>) -> SmallVec<[Touched; 2]> {
    let touched = |shard_id| {
        let tree = locked.shard(shard_id)?.tree.clone();
        let base_version = tree.version();
        let _pin = store.pins[usize::from(shard_id.0)].pin(base_version);
        Some(Touched { shard: shard_id, base_version, tree, written: false, _pin })
    };
    store.layout.all().filter_map(touched).collect()
}

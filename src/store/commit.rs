//! The end of a transaction: swapped in if the store is as it was, else run again and compared.

use super::context::Caller;
use super::forest::{LockSet, Locked};
use super::transaction::{Conflict, Invocation, Outcome, Transaction};
use super::{Executed, Generations, Store};
use crate::domain::Quota;
use crate::sync::Arc;
use crate::words::{Domid, Path};

/// After losing this many races against other commits, the log of a transaction of the control domain is run
/// under all locks.
const RACES_MAX: usize = 2;
/// After losing this many a guest's is refused: it may not hold up all others.
const GUEST_RACES_MAX: usize = 4;
/// What of a log is run again in one piece, in requests, steps to their nodes, and nodes created and removed:
/// a few tenths of a millisecond. Ordinary transactions are far below.
const REPLAY_WORK: u64 = 2048;

/// Why a transaction did not commit; nothing of it happened.
#[derive(Debug)]
pub enum Failure {
    /// The caller asked in an earlier epoch whether it may write: the transaction is as it was, and may be committed
    /// again.
    StaleEpoch(Box<Transaction>),
    /// Its log is being run again, and others' requests come in between: it is to be committed again.
    Unfinished(Box<Transaction>),
    /// `EAGAIN`: a reply would differ.
    Conflict(Conflict),
    /// `ENOSPC`: what it creates is over a quota.
    Quota,
}

/// What is left of a log that is run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Nothing.
    Done,
    /// Some of it, for another call.
    Unfinished,
}

/// How far a log is run again.
enum Extent<'w, 's> {
    /// To its end, under all locks, which nobody waits for long.
    Whole(&'w Locked<'s>),
    /// As far as this work goes, which is taken from it; each request takes its own locks.
    Piece(&'w mut u64),
}

impl Store {
    /// Commits a transaction: all of it at once, or nothing.
    ///
    /// Two transactions conflict only if one saw what the other changed, but a guest's also if others commit
    /// in its homes again and again. Cost: a comparison of each home's root; if somebody changed one of its
    /// homes, that of its requests, of which a piece is run in one call.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn commit(
        &self,
        mut transaction: Transaction,
        caller: &Caller,
        generations: &mut Generations,
    ) -> Result<Executed, Failure> {
        if !transaction.is_behind() {
            transaction.merge_changes();
        }
        let mut work = REPLAY_WORK;
        loop {
            let extent = Extent::Piece(&mut work);
            let replay = self.replay(&mut transaction, extent, caller, generations);
            if let Some(conflict) = transaction.doomed.take() {
                return Err(Failure::Conflict(conflict));
            }
            if replay == Replay::Unfinished {
                return Err(Failure::Unfinished(Box::new(transaction)));
            }
            let mut locked = Locked::take(self, &transaction.touched.lock_set());
            let is_current = self.is_current(&transaction, &locked);
            if is_current && (transaction.replayed || !transaction.saw_quota) {
                return self.swap_in(&mut transaction, &mut locked, caller);
            }
            let changed = transaction.touched.changed_home(&locked).cloned();
            drop(locked);
            transaction.lost_races += 1;
            if caller.subject.privileged && transaction.lost_races >= RACES_MAX {
                return self.commit_locked(transaction, caller, generations);
            }
            if transaction.lost_races > GUEST_RACES_MAX {
                let path = changed.unwrap_or_else(|| Path::ROOT.to_buf());
                let changed_by = self.changed_by(path.as_path());
                let verb = "TRANSACTION_END";
                return Err(Failure::Conflict(Conflict { verb, path, changed_by }));
            }
            drop(transaction.begin_anew());
        }
    }

    /// Runs the log with all locks held, so that no race can be lost.
    fn commit_locked(
        &self,
        mut transaction: Transaction,
        caller: &Caller,
        generations: &mut Generations,
    ) -> Result<Executed, Failure> {
        let _lost = transaction.begin_anew(); // Dropped after the locks, as it is declared before them.
        let mut locked = Locked::take(self, &LockSet::all(self.layout, true));
        self.replay(&mut transaction, Extent::Whole(&locked), caller, generations);
        match transaction.doomed.take() {
            Some(conflict) => Err(Failure::Conflict(conflict)),
            None => self.swap_in(&mut transaction, &mut locked, caller),
        }
    }

    /// Runs a piece of the log of a transaction that was given up again, on the store as it is now. If a reply
    /// differs the transaction goes on, but its END will return EAGAIN.
    pub fn catch_up(
        &self,
        transaction: &mut Transaction,
        caller: &Caller,
        generations: &mut Generations,
    ) -> Replay {
        let mut work = REPLAY_WORK;
        self.replay(transaction, Extent::Piece(&mut work), caller, generations)
    }

    /// The same for all that is left.
    pub(super) fn refresh(
        &self,
        transaction: &mut Transaction,
        caller: &Caller,
        generations: &mut Generations,
    ) {
        while self.catch_up(transaction, caller, generations) == Replay::Unfinished {}
    }

    /// Whether every home that the transaction started from is as it was, and everybody has the
    /// rights and limits that they had.
    fn is_current(&self, transaction: &Transaction, locked: &Locked<'_>) -> bool {
        transaction.rights == self.registry.rights() && transaction.touched.are_current(locked)
    }

    /// Runs the log of a transaction that is behind. The first request whose reply differs dooms it.
    fn replay(
        &self,
        transaction: &mut Transaction,
        extent: Extent<'_, '_>,
        caller: &Caller,
        generations: &mut Generations,
    ) -> Replay {
        let (locked, work) = match extent {
            Extent::Whole(locked) => (Some(locked), &mut { u64::MAX }),
            Extent::Piece(work) => (None, work),
        };
        let Some(mut next) = transaction.behind else { return Replay::Done };
        if next == 0 {
            transaction.rights = self.registry.rights();
        }
        let mut log = std::mem::take(&mut transaction.log);
        let mut reply = Vec::new();
        while let Some(logged) = log.get_mut(next)
            && *work > 0
        {
            let (op, before) = (logged.op.op(), transaction.deltas.work);
            let known = transaction.effects.changes.len();
            reply.clear();
            let request = &mut Invocation { caller, op: &op, reply: &mut reply };
            let generation = generations.next(self);
            let result = self.replay_one(transaction, locked, request, generation);
            let outcome = Outcome::of(&op.verb, result, &reply, &self.hasher);
            let changes = &mut transaction.effects.changes[known..];
            changes.iter_mut().for_each(|change| change.share(&logged.op.path));
            if outcome != logged.outcome && transaction.doomed.is_none() {
                let changed_by = self.changed_by(op.path);
                let (verb, path) = (op.verb.name(), op.path.to_buf());
                transaction.doomed = Some(Conflict { verb, path, changed_by });
            }
            // A name is a step of the descent, and most have some bytes.
            let steps = op.path.bytes().len() as u64 / 4;
            transaction.deltas.work += 1 + steps;
            *work = work.saturating_sub(transaction.deltas.work - before);
            // Not under locks, as what it shared with may be the last of a tree.
            if locked.is_none() && outcome == logged.outcome {
                transaction.share_anew(&self.layout, &mut logged.op);
            }
            next += 1;
        }
        let is_done = next == log.len();
        transaction.log = log;
        transaction.behind = (!is_done).then_some(next);
        if !is_done {
            return Replay::Unfinished;
        }
        transaction.replayed = true;
        transaction.merge_changes();
        Replay::Done
    }

    /// Puts the transaction's homes in the place of the store's, with all locks held. What is left of
    /// it is the caller's to drop, when they are not.
    fn swap_in(
        &self,
        transaction: &mut Transaction,
        locked: &mut Locked<'_>,
        caller: &Caller,
    ) -> Result<Executed, Failure> {
        if !transaction.effects.changes.is_empty() && caller.epoch != self.epoch() {
            return Err(Failure::StaleEpoch(Box::new(std::mem::take(transaction))));
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

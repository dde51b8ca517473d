//! The end of a transaction: its partitions are installed if the store's are unchanged; otherwise its log is replayed
//! and the replies are compared.
//!
//! Replays run on snapshots, without exclusive locks, since a log can take milliseconds. The price is a race: another
//! commit may come between the replay and the comparison under the locks. Two limits bound the number of lost races.

use super::context::Caller;
use super::forest::{LockSet, Locked};
use super::transaction::{Conflict, Invocation, Outcome, Transaction};
use super::{Executed, Generations, Store};
use crate::domain::Quota;
use crate::sync::Arc;
use crate::types::{Domid, Path};

/// After losing this many races, a transaction of the control domain is replayed with all locks held, so that it
/// cannot lose a third.
const RACES_MAX: usize = 2;
/// After losing more than this many, a guest's transaction is refused: two guests whose replays ran under all locks
/// stopped all clients for seconds.
const GUEST_RACES_MAX: usize = 4;
/// The part of a log that one call replays, counted in requests, steps to their nodes, and nodes created and removed: a
/// few tenths of a millisecond. A guest's thousand requests may each create and remove a thousand nodes, 50 to 77 ms in
/// which its thread would serve no other client. Ordinary transactions are far below this and are replayed in one call.
const REPLAY_WORK: u64 = 2048;

/// Why a transaction did not commit; it changed nothing.
#[derive(Debug)]
pub enum CommitError {
    /// The check whether the caller may write was made in an earlier epoch. The transaction is unchanged and may be
    /// committed again after a new check.
    StaleEpoch(Box<Transaction>),
    /// A piece of the log was replayed. The caller serves other requests and calls again.
    Unfinished(Box<Transaction>),
    /// `EAGAIN`: a reply would differ, or a guest lost too many races.
    Conflict(Conflict),
    /// `ENOSPC`: a quota does not admit the nodes that the transaction creates.
    Quota,
}

/// The progress of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The whole log was replayed.
    Done,
    /// Requests are left for another call.
    Unfinished,
}

/// The part of a log to replay.
enum Extent<'w, 's> {
    /// The whole log, with all locks held. Only for the control domain's transactions: a guest could stop all clients
    /// with it.
    Whole(&'w Locked<'s>),
    /// The part that this budget admits, which is deducted from it; each request takes its own locks.
    Piece(&'w mut u64),
}

impl Store {
    /// Commits a transaction atomically.
    ///
    /// Two transactions conflict only if one saw data that the other changed. A guest's transaction also fails if other
    /// commits change its partitions more than `GUEST_RACES_MAX` times during its END. Cost: a comparison of each
    /// partition's root; if one changed, also that of the transaction's requests, which are replayed in pieces, one per
    /// call.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn commit(
        &self,
        mut transaction: Transaction,
        caller: &Caller,
        generations: &mut Generations,
    ) -> Result<Executed, CommitError> {
        if !transaction.is_behind() {
            transaction.effects.merge();
        }
        let mut work = REPLAY_WORK;
        loop {
            let extent = Extent::Piece(&mut work);
            let replay = self.replay(&mut transaction, extent, caller, generations);
            if let Some(conflict) = transaction.doomed.take() {
                return Err(CommitError::Conflict(conflict));
            }
            if replay == Replay::Unfinished {
                return Err(CommitError::Unfinished(Box::new(transaction)));
            }
            let mut locked = Locked::take(self, &transaction.access_set.lock_set());
            let is_current = self.is_current(&transaction, &locked);
            if is_current && (transaction.replayed || !transaction.saw_quota) {
                let mut executed = self.swap_in(&mut transaction, &mut locked, caller)?;
                drop(locked);
                self.conclude(&mut executed, caller);
                return Ok(executed);
            }
            let changed = transaction.access_set.changed_partition(&locked).cloned();
            drop(locked);
            transaction.lost_races += 1;
            if caller.subject.privileged && transaction.lost_races >= RACES_MAX {
                return self.commit_locked(transaction, caller, generations);
            }
            if transaction.lost_races > GUEST_RACES_MAX {
                let path = changed.unwrap_or_else(|| Path::ROOT.to_buf());
                let changed_by = self.changed_by(path.as_path());
                let verb = "TRANSACTION_END";
                return Err(CommitError::Conflict(Conflict { verb, path, changed_by }));
            }
            drop(transaction.begin_anew());
        }
    }

    /// Replays the log with all locks held, so that no other commit can come in between.
    fn commit_locked(
        &self,
        mut transaction: Transaction,
        caller: &Caller,
        generations: &mut Generations,
    ) -> Result<Executed, CommitError> {
        let _lost = transaction.begin_anew(); // Declared before the locks, and therefore dropped after their release.
        let mut locked = Locked::take(self, &LockSet::all(self.layout, true));
        self.replay(&mut transaction, Extent::Whole(&locked), caller, generations);
        if let Some(conflict) = transaction.doomed.take() {
            return Err(CommitError::Conflict(conflict));
        }
        let mut executed = self.swap_in(&mut transaction, &mut locked, caller)?;
        drop(locked);
        self.conclude(&mut executed, caller);
        Ok(executed)
    }

    /// Replays a piece of the log of a transaction whose snapshots were dropped, on the current store. If a reply
    /// differs, the transaction continues, but its END returns EAGAIN.
    pub fn catch_up(
        &self,
        transaction: &mut Transaction,
        caller: &Caller,
        generations: &mut Generations,
    ) -> Replay {
        let mut work = REPLAY_WORK;
        self.replay(transaction, Extent::Piece(&mut work), caller, generations)
    }

    /// Replays all that is left of the log.
    pub(super) fn refresh(
        &self,
        transaction: &mut Transaction,
        caller: &Caller,
        generations: &mut Generations,
    ) {
        while self.catch_up(transaction, caller, generations) == Replay::Unfinished {}
    }

    /// Returns whether every partition is as the transaction saw it, and no domain has died or got other rights or
    /// limits since.
    fn is_current(&self, transaction: &Transaction, locked: &Locked<'_>) -> bool {
        transaction.rights == self.registry.rights() && transaction.access_set.are_current(locked)
    }

    /// Replays the log from where the last piece ended. The first reply that differs dooms the transaction.
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
            // The rights are read before the first request, so that a death during the replay makes the comparison at
            // END fail.
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
            // A name is one step of the descent, and four bytes are a short name with its slash.
            let steps = op.path.bytes().len() as u64 / 4;
            transaction.deltas.work += 1 + steps;
            *work = work.saturating_sub(transaction.deltas.work - before);
            // Done only if no locks are held: it drops the old node, which may be the last reference to a tree.
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
        transaction.effects.merge();
        Replay::Done
    }

    /// Installs the transaction's partitions, with all its locks held. The epoch is compared under these locks: if a
    /// reservation has begun meanwhile, a write either is contained in the snapshots of its transaction, or is refused.
    /// The caller drops the rest of the transaction after releasing the locks.
    fn swap_in(
        &self,
        transaction: &mut Transaction,
        locked: &mut Locked<'_>,
        caller: &Caller,
    ) -> Result<Executed, CommitError> {
        if !transaction.effects.changes.is_empty() && caller.epoch != self.epoch() {
            return Err(CommitError::StaleEpoch(Box::new(std::mem::take(transaction))));
        }
        self.reserve(transaction, caller)?;
        transaction.access_set.swap_in(locked);
        let replaced = std::mem::take(&mut transaction.access_set);
        Ok(self.record(locked, Some(replaced), &mut transaction.effects.changes, caller))
    }

    /// Transfers the transaction's usage to the accounts. Only the caller's quota can refuse it, so that is reserved
    /// first and nothing has to be reverted.
    fn reserve(&self, transaction: &Transaction, caller: &Caller) -> Result<(), CommitError> {
        let own = |domain: &Arc<_>| Arc::ptr_eq(domain, &caller.domain);
        if let Some(mine) = transaction.deltas.iter().find(|delta| own(&delta.domain)) {
            let more = |change| u64::try_from(change).unwrap_or(0);
            let (nodes, bytes) = (more(mine.nodes), more(mine.bytes));
            // The log line names one of several paths.
            let path = transaction.effects.changes.first().map(|change| change.path.as_path());
            if !self.registry.reserve_nodes(&mine.domain, nodes, bytes, path) {
                return Err(CommitError::Quota);
            }
        }
        for delta in transaction.deltas.iter() {
            // The caller's increases were reserved above.
            let most = if own(&delta.domain) { 0 } else { i64::MAX };
            delta.domain.account.change(Quota::Nodes, delta.nodes.min(most));
            delta.domain.account.change(Quota::Memory, delta.bytes.min(most));
        }
        Ok(())
    }

    /// Returns the domain that last changed `path` or an ancestor, if that is still recorded. The result is only for
    /// diagnosis, so the function does not wait for the shard's lock.
    fn changed_by(&self, path: Path<'_>) -> Option<Domid> {
        let shard = self.layout.partition(path).shard;
        let shard = self.shard(shard).try_read()?;
        std::iter::successors(Some(path), |path| path.parent())
            .find_map(|path| shard.recent.changed_by(path))
    }
}

//! The end of a transaction: its partitions are installed if the store's are unchanged; otherwise its log is replayed
//! and the replies are compared.
//!
//! Replays run on snapshots, without exclusive locks, since a log can take milliseconds. The price is a race: another
//! commit may come between the replay and the comparison under the locks. A guest that loses too many races is refused;
//! the control domain reserves the partitions, so that the next replay loses none.

use super::access_set::AccessSet;
use super::context::Caller;
use super::forest::Locked;
use super::outcome::Outcome;
use super::transaction::{Conflict, Invocation, Transaction};
use super::{Executed, Generations, Store};
use crate::domain::Quota;
use crate::sync::Arc;
use crate::types::{Domid, Path};

/// After losing more races than this, a guest's transaction is refused, and one of the control domain is replayed only
/// in a reservation of the partitions. A replay of ten requests, 25 us, loses five races only to a client that writes
/// without pause. Shuttle explores one lost race as well as four.
const RACES_MAX: usize = if cfg!(feature = "shuttle") { 1 } else { 4 };
/// After losing more than this many, a transaction of the control domain is refused, too. It loses five races at most
/// before all that it lost them to is reserved, so it lost the others to deaths, or its replays outlast reservations.
const RESERVED_RACES_MAX: usize = 16;
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
    /// A transaction of the control domain lost too many races. The caller reserves [`Transaction::contended`], so that
    /// no other client changes these, and calls again.
    Contended(Box<Transaction>),
    /// `EAGAIN`: a reply would differ, or too many races were lost.
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

impl Transaction {
    /// Commits a transaction atomically.
    ///
    /// The comparison and the installation are under the same locks, or another commit could come in between.
    ///
    /// Two transactions conflict only if one saw data that the other changed. A transaction also fails if other commits
    /// change its partitions during its END more than `RACES_MAX` times, or the control domain's `RESERVED_RACES_MAX`
    /// times. Cost: a comparison of each partition's root; if one changed, also that of the transaction's requests,
    /// which are replayed in pieces, one per call.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn commit(
        mut self,
        store: &Store,
        caller: &Caller,
        generations: &mut Generations,
    ) -> Result<Executed, CommitError> {
        if !self.is_behind() {
            // A log that is behind makes its changes anew, and its replay merges them at its end.
            self.effects.merge();
        }
        // One budget for all rounds of this call: lost races do not lengthen the pass.
        let mut work = REPLAY_WORK;
        loop {
            let replay = self.replay(store, &mut work, caller, generations);
            // Before the rest of the log is replayed, which cannot revert the verdict.
            if let Some(conflict) = self.doomed.take() {
                return Err(CommitError::Conflict(conflict));
            }
            if replay == Replay::Unfinished {
                return Err(CommitError::Unfinished(Box::new(self)));
            }
            let mut locked = Locked::take(&store.shards, &self.access_set.lock_set());
            let is_current = self.is_current(store, &locked);
            if is_current && (self.replayed || !self.saw_quota) {
                let mut executed = self.swap_in(store, &mut locked, caller)?;
                drop(locked);
                store.publisher.conclude(&mut executed, caller);
                return Ok(executed);
            }
            // For the diagnosis only, and therefore of the moment at which the comparison failed.
            let changed = self.access_set.changed_partition(&locked).cloned();
            drop(locked);
            self.lost_races += 1;
            let is_privileged = caller.subject.privileged;
            let races_max = if is_privileged { RESERVED_RACES_MAX } else { RACES_MAX };
            if self.lost_races > races_max {
                let path = changed.unwrap_or_else(|| Path::ROOT.to_buf());
                let changed_by = changed_by(store, path.as_path());
                let verb = "TRANSACTION_END";
                return Err(CommitError::Conflict(Conflict { verb, path, changed_by }));
            }
            // The locks are released: this may free whole trees. The snapshots of the next replay must be taken in the
            // reservation.
            drop(self.begin_anew());
            if self.lost_races > RACES_MAX {
                changed.into_iter().for_each(|path| self.contended.note(path));
                return Err(CommitError::Contended(Box::new(self)));
            }
        }
    }

    /// Replays a piece of the log of a transaction whose snapshots were dropped, on the current store. If a reply
    /// differs, the transaction continues, but its END returns EAGAIN.
    pub fn catch_up(
        &mut self,
        store: &Store,
        caller: &Caller,
        generations: &mut Generations,
    ) -> Replay {
        let mut work = REPLAY_WORK;
        self.replay(store, &mut work, caller, generations)
    }

    /// Replays all that is left of the log.
    pub(super) fn refresh(
        &mut self,
        store: &Store,
        caller: &Caller,
        generations: &mut Generations,
    ) {
        while self.catch_up(store, caller, generations) == Replay::Unfinished {}
    }

    /// Returns whether every partition is as the transaction saw it, and no domain has died or got other rights or
    /// limits since.
    pub(super) fn is_current(&self, store: &Store, locked: &Locked<'_>) -> bool {
        self.rights == store.registry.rights() && self.access_set.are_current(locked)
    }

    /// Replays the log from where the last piece ended, as far as the budget `work` admits, and deducts from it. The
    /// first reply that differs dooms the transaction.
    fn replay(
        &mut self,
        store: &Store,
        work: &mut u64,
        caller: &Caller,
        generations: &mut Generations,
    ) -> Replay {
        let Some(mut next) = self.behind else { return Replay::Done };
        if next == 0 {
            // The rights are read before the first request, so that a death during the replay makes the comparison at
            // END fail.
            self.rights = store.registry.rights();
        }
        // Taken out, since each request borrows its entry while the rest of the transaction changes.
        let mut log = std::mem::take(&mut self.log);
        let mut reply = Vec::new();
        // The budget is checked before each request, so a piece exceeds it by one request at most.
        while let Some(logged) = log.get_mut(next)
            && *work > 0
        {
            let (op, before) = (logged.op.op(), self.deltas.work);
            let known = self.effects.changes.len();
            reply.clear();
            let request = &mut Invocation { caller, op: &op, reply: &mut reply };
            let generation = generations.next(store);
            let result = self.replay_one(store, request, generation);
            let outcome = Outcome::of(&op.verb, result, &reply, &store.reply_key);
            let changes = &mut self.effects.changes[known..];
            // The log's path is the one that is charged, so the changes must not keep another copy of a long path.
            changes.iter_mut().for_each(|change| change.share(&logged.op.path));
            // The replay goes on: the client may use the transaction further, and learns of the conflict at END.
            if outcome != logged.outcome && self.doomed.is_none() {
                let changed_by = changed_by(store, op.path);
                let (verb, path) = (op.verb.name(), op.path.to_buf());
                self.doomed = Some(Conflict { verb, path, changed_by });
            }
            // A name is one step of the descent, and four bytes are a short name with its slash.
            let steps = op.path.bytes().len() as u64 / 4;
            self.deltas.work += 1 + steps;
            *work = work.saturating_sub(self.deltas.work - before);
            if outcome == logged.outcome {
                self.share_anew(&store.layout, &mut logged.op);
            }
            next += 1;
        }
        let is_done = next == log.len();
        self.log = log;
        self.behind = (!is_done).then_some(next);
        if !is_done {
            return Replay::Unfinished;
        }
        self.replayed = true;
        self.effects.merge();
        Replay::Done
    }

    /// Installs the transaction's partitions and publishes its changes, with all its locks held. The caller drops the
    /// rest of the transaction after releasing the locks.
    fn swap_in(
        &mut self,
        store: &Store,
        locked: &mut Locked<'_>,
        caller: &Caller,
    ) -> Result<Executed, CommitError> {
        let replaced = self.install(store, locked, caller)?;
        Ok(store.record(locked, Some(replaced), &mut self.effects.changes, caller))
    }

    /// Installs the transaction's partitions, with all its locks held; returns the replaced ones. The epoch is compared
    /// under these locks: if a reservation has begun meanwhile, a write either is contained in the snapshots of its
    /// transaction, or is refused.
    pub(super) fn install(
        &mut self,
        store: &Store,
        locked: &mut Locked<'_>,
        caller: &Caller,
    ) -> Result<Box<AccessSet>, CommitError> {
        if !self.effects.changes.is_empty() && caller.epoch != store.epoch() {
            return Err(CommitError::StaleEpoch(Box::new(std::mem::take(self))));
        }
        self.reserve(store, caller)?;
        self.access_set.swap_in(locked);
        Ok(Box::new(std::mem::take(&mut self.access_set)))
    }

    /// Transfers the transaction's usage to the accounts. Only the caller's quota can refuse it, so that is reserved
    /// first and nothing has to be reverted.
    fn reserve(&self, store: &Store, caller: &Caller) -> Result<(), CommitError> {
        let own = |domain: &Arc<_>| Arc::ptr_eq(domain, &caller.domain);
        if let Some(mine) = self.deltas.iter().find(|delta| own(&delta.domain)) {
            let more = |change| u64::try_from(change).unwrap_or(0);
            let (nodes, bytes) = (more(mine.nodes), more(mine.bytes));
            // The log line names one of several paths.
            let path = self.effects.changes.first().map(|change| change.path.as_path());
            if !store.registry.reserve_nodes(&mine.domain, nodes, bytes, path) {
                return Err(CommitError::Quota);
            }
        }
        for delta in self.deltas.iter() {
            // The caller's increases were reserved above.
            let most = if own(&delta.domain) { 0 } else { i64::MAX };
            delta.domain.account.change(Quota::Nodes, delta.nodes.min(most));
            delta.domain.account.change(Quota::Memory, delta.bytes.min(most));
        }
        Ok(())
    }
}

/// Returns the domain that last changed `path` or an ancestor, if that is still recorded. The result is only for
/// diagnosis, so the function does not wait for the shard's lock.
fn changed_by(store: &Store, path: Path<'_>) -> Option<Domid> {
    let shard = store.layout.partition(path).shard;
    let shard = store.shards.lock(shard).try_read()?;
    // An RM is recorded by the path of its root only.
    std::iter::successors(Some(path), |path| path.parent())
        .find_map(|path| shard.recent.changed_by(path))
}

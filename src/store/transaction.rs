//! A transaction: snapshots of partitions, and a log of requests with their replies.
//!
//! START costs nothing. The first access to a partition takes its root, which is a snapshot; requests run on the
//! transaction's copies. Each request is logged with its reply, so that END can replay the log on the current store: if
//! every reply is the same, no client that saw only those replies can tell the difference, and the transaction commits
//! ([`super::commit`]).

use std::fmt;

use super::access_set::AccessSet;
use super::contended::Contended;
use super::context::{Caller, Change, Context, Deltas, Effects, Ledger};
use super::error::StoreError;
use super::op::{LoggedOp, Op, apply};
use super::outcome::Outcome;
use super::tx_view::TxView;
use super::{Generations, Store};
use crate::domain::Quota;
use crate::types::{Domid, Errno, Layout, Partition, Path, PathBuf};

/// The charge for a request in addition to its copy in the log, in bytes: it may be the first in a partition, and
/// change its path, and the records of both stay until the end.
const KEPT_BYTES: usize = 256;

/// An open transaction.
#[derive(Default)]
pub struct Transaction {
    pub(super) access_set: AccessSet,
    pub(super) log: Vec<Logged>,
    pub(super) deltas: Deltas,
    /// In the order of requests; [`Effects::merge`] leaves one a path.
    pub(super) effects: Effects,
    /// [`Registry::rights`](crate::domain::Registry::rights) at the first access. If this value differs at END, a
    /// domain died or a limit or target changed since, and any reply may differ: the log is replayed.
    pub(super) rights: u64,
    /// Whether a reply was ENOSPC. Such a reply depends on accounts, which no partition's root reflects, so END always
    /// replays the log.
    pub(super) saw_quota: bool,
    /// Why END will return EAGAIN, if that is known already.
    pub(super) doomed: Option<Conflict>,
    /// The number of replayed requests, if the transaction's snapshots were dropped. The rest of the log must be
    /// replayed before the next request.
    pub(super) behind: Option<usize>,
    /// The log has been replayed for END, on the partitions that were current in the store at that time.
    pub(super) replayed: bool,
    /// Number of times that another commit changed this transaction's partitions before END compared them.
    pub(super) lost_races: usize,
    /// The partitions in which it lost the last of too many races.
    pub(super) contended: Contended,
    /// The size of the transaction's log, in bytes, without values that the log shares with nodes.
    pub(super) log_bytes: usize,
    /// The size of the values that the log shares with nodes, in bytes: it owns them once its snapshots are dropped.
    pub(super) shared_bytes: usize,
}

/// A logged request and its reply.
pub struct Logged {
    pub(super) op: LoggedOp,
    pub(super) outcome: Outcome,
}

/// Why a transaction cannot commit, for diagnosis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The request whose reply would differ; `TRANSACTION_END` if the transaction lost too many races to other commits,
    /// `START_DOMAIN_TRANSACTION` if it began on another host.
    pub verb: &'static str,
    /// The request's path, or the partition's; `/` if unknown.
    pub path: PathBuf,
    /// The domain that last changed that path or an ancestor, if remembered.
    pub changed_by: Option<Domid>,
}

impl fmt::Debug for Transaction {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "a transaction of {} requests", self.log.len())
    }
}

impl Transaction {
    /// Creates a transaction of one request, for a caller that has read the version of the rights.
    pub(super) fn of_one(rights: u64) -> Transaction {
        Transaction { rights, ..Transaction::default() }
    }

    /// Creates the transaction of a domain that was moved from another host: its requests work, and its END returns
    /// EAGAIN. The log stays on that host, as a replay on this host would hardly give the same replies.
    pub fn reserved() -> Transaction {
        let path = Path::ROOT.to_buf();
        let conflict = Conflict { verb: "START_DOMAIN_TRANSACTION", path, changed_by: None };
        Transaction { doomed: Some(conflict), ..Transaction::default() }
    }

    /// Returns the memory that the transaction holds, in bytes: its log, all nodes that it created, even if removed
    /// again, and its copies of other nodes, with its partitions' paths.
    pub fn bytes(&self) -> usize {
        let created = usize::try_from(self.deltas.created_bytes).unwrap_or(usize::MAX);
        self.log_bytes.saturating_add(created).saturating_add(self.access_set.copied_bytes())
    }

    /// Records that the caller's account is charged for all memory that the transaction holds, so that quota checks
    /// count only nodes created later.
    pub fn note_charged(&mut self) {
        self.deltas.charged_bytes = self.deltas.created_bytes;
    }

    /// Records that the caller's account is charged for nothing that it holds.
    pub fn note_uncharged(&mut self) {
        self.deltas.charged_bytes = 0;
    }

    /// Returns whether the log must be replayed, by [`Transaction::catch_up`], before the transaction's next request.
    pub fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// Returns by how many bytes one more request increases the memory that the transaction holds.
    pub fn bytes_of(op: &Op<'_>) -> usize {
        op.logged_bytes() + size_of::<Logged>() + KEPT_BYTES
    }

    /// Returns the work of the transaction's requests since its log was last started: nodes created and removed, and
    /// replayed requests with their steps. The look-up of a request's first execution is not counted.
    pub fn work(&self) -> u64 {
        self.deltas.work
    }

    /// Returns the number of requests made.
    pub fn len(&self) -> usize {
        self.log.len()
    }

    /// Returns whether the transaction has made no request yet.
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// Returns the paths that the transaction would write, for the check against reserved paths.
    pub fn written_paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.log.iter().filter(|logged| logged.op.verb.writes()).map(|logged| &logged.op.path)
    }

    /// Returns the paths to reserve before END replays the log: the partitions in which it lost too many races. None if
    /// the replay has begun.
    pub fn contended(&self) -> &[PathBuf] {
        if self.behind == Some(0) { self.contended.paths() } else { &[] }
    }

    /// Drops the transaction's snapshots and all results based on them, since snapshots keep nodes in memory that
    /// others replace. The transaction's next request or its END replays the log on the current store. Cost: that of
    /// freeing nodes that only it holds.
    pub fn give_up(&mut self) {
        drop(self.begin_anew());
    }

    /// Keeps the log, for a replay, and returns everything else: its partitions and their changes. The caller drops the
    /// returned parts where it holds no lock.
    pub(super) fn begin_anew(&mut self) -> Transaction {
        let kept = Transaction {
            log: std::mem::take(&mut self.log),
            // Still charged: the next request, which replays the log, takes as much memory again.
            deltas: self.deltas.emptied(),
            rights: self.rights,
            saw_quota: self.saw_quota,
            doomed: self.doomed.take(),
            behind: Some(0),
            lost_races: self.lost_races,
            contended: std::mem::take(&mut self.contended),
            log_bytes: self.log_bytes + self.shared_bytes,
            ..Transaction::default()
        };
        std::mem::replace(self, kept)
    }

    /// Returns a copy of a request's path, whose bytes it shares with the change that the request made, if any.
    fn path_of(&self, op: &Op<'_>) -> PathBuf {
        match self.effects.changes.last() {
            Some(change) if change.path.as_path() == op.path => change.path.clone(),
            _ => op.path.to_buf(),
        }
    }

    fn note(&mut self, partition: &Partition<'_>, op: &Op<'_>, outcome: Outcome) {
        // A refused WRITE has left no node that holds its value.
        let is_shared = op.has_long_value() && !outcome.is_refused();
        let written = if is_shared { self.access_set.node(partition, op.path) } else { None };
        let logged = LoggedOp::of(op, self.path_of(op), written);
        self.log_bytes += Self::bytes_of(op) - logged.shared_bytes();
        self.shared_bytes += logged.shared_bytes();
        self.saw_quota |= outcome == Outcome::Refused(Errno::ENOSPC);
        self.log.push(Logged { op: logged, outcome });
    }

    /// Shares a replayed request's value with the node that it just wrote; otherwise the value would be kept twice.
    /// Cost: constant, or for a long value a look-up of its node.
    pub(super) fn share_anew(&mut self, layout: &Layout, op: &mut LoggedOp) {
        if op.shared_bytes() > 0 {
            let written =
                self.access_set.node(&layout.partition(op.path.as_path()), op.path.as_path());
            let shared = op.share_anew(written);
            self.log_bytes -= shared;
            self.shared_bytes += shared;
        }
    }
}

/// A request for a transaction to run.
pub struct Invocation<'a> {
    /// The domain that makes the request.
    pub caller: &'a Caller,
    /// The operation.
    pub op: &'a Op<'a>,
    /// The reply is appended to this.
    pub reply: &'a mut Vec<u8>,
}

impl Transaction {
    /// Runs one request inside the transaction. Cost: that of the request, a copy of its arguments, and a replay if the
    /// transaction's snapshots were dropped.
    ///
    /// # Errors
    /// The request's own; `ENOSPC` above the quota `transaction-nodes`, or if the transaction would hold more than the
    /// quota `memory` admits. Requests refused with these two errors are not logged.
    pub fn execute(
        &mut self,
        store: &Store,
        mut request: Invocation<'_>,
        generations: &mut Generations,
    ) -> Result<(), Errno> {
        let (caller, op) = (request.caller, request.op);
        let made = self.log.len() + 1;
        let (quota, path) = (Quota::TransactionNodes, Some(op.path));
        if !store.registry.permits(&caller.domain, quota, made, path) {
            return Err(Errno::ENOSPC);
        }
        // A no-op for a worker, which has replayed the log piece by piece with `catch_up`: here all of it is replayed.
        self.refresh(store, caller, generations);
        // END replays the log again if this or an earlier reply is ENOSPC, since accounts may change until then.
        self.replayed = false;
        // Read before the request runs, so that a death during it makes END replay the log.
        if self.log.is_empty() {
            self.rights = store.registry.rights();
        }
        let start = request.reply.len();
        let generation = generations.next(store);
        let result = self.replay_one(store, &mut request, generation);
        // At END the transaction holds less and this request would succeed, so a replay would give another reply each
        // time.
        if self.deltas.is_full {
            return result;
        }
        let outcome = Outcome::of(&op.verb, result, &request.reply[start..], &store.reply_key);
        self.note(&store.layout.partition(op.path), op, outcome);
        result
    }

    /// Runs one request on the transaction's partitions without logging it.
    // Inlined into its two callers: otherwise the fields of the request are loaded again after each call.
    #[inline(always)]
    pub(super) fn replay_one(
        &mut self,
        store: &Store,
        request: &mut Invocation<'_>,
        generation: u64,
    ) -> Result<(), Errno> {
        let Invocation { caller, op, reply } = request;
        self.deltas.is_full = false;
        let ledger = Ledger::Transaction(&mut self.deltas);
        let (registry, path) = (&store.registry, Some(op.path));
        let mut cx = Context { registry, caller, generation, ledger, path };
        let mut own = TxView { shards: &store.shards, partitions: &mut self.access_set };
        let effects = &mut self.effects;
        let known = effects.changes.len();
        let result = apply(&mut cx, &mut own, op, reply, effects);
        effects.changes[known..].iter_mut().for_each(|change| credit_removed(&mut cx, change));
        match result {
            Ok(()) => Ok(()),
            Err(StoreError::Refused(errno)) => Err(errno),
            Err(StoreError::StaleEpoch | StoreError::NeedsLock(..)) => {
                unreachable!("a transaction needs no locks, and only END checks the epoch")
            }
        }
    }
}

/// Credits a guest at once for removed nodes, so that it can create as many, and marks them, so that settling after the
/// commit does not credit them again (XSA-421). The control domain's removals are credited after the commit: no quota
/// binds it, and the walk over the nodes would delay its reply.
fn credit_removed(cx: &mut Context<'_>, change: &mut Change) {
    if !cx.credits_at_once() {
        return;
    }
    for removed in &mut change.removed {
        super::settle::credit_tree(cx, removed);
        removed.credited = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Verb;
    use crate::store::alone::alone;
    use crate::store::commit::Replay;
    use crate::types::{Layout, Subject};

    /// Each request is charged with its path once; the quota admits a thousand requests with paths of 2 KB.
    #[test]
    fn path_of_a_logged_request_is_stored_once() {
        let store = alone(Layout::new(4));
        let domain = store.registry.get(Domid::CONTROL).unwrap();
        let caller = Caller { domain, subject: Subject::CONTROL, epoch: 0, unblocked: None };
        let text = format!("/long/{}", "x".repeat(2000));
        let path = Path::parse(text.as_bytes()).unwrap();
        let (mut transaction, mut generations) = (Transaction::default(), Default::default());
        for verb in [Verb::Write(b"v"[..].into()), Verb::Rm] {
            let op = Op { path, verb };
            let reply = &mut Vec::new();
            let request = Invocation { caller: &caller, op: &op, reply };
            transaction.execute(&store, request, &mut generations).unwrap();
        }
        let at = |path: &PathBuf| path.as_path().bytes().as_ptr();
        let check = |transaction: &Transaction| {
            let logged: Vec<_> = transaction.log.iter().map(|logged| at(&logged.op.path)).collect();
            let changes = &transaction.effects.changes;
            let removed: Vec<_> =
                changes.iter().flat_map(|change| &change.removed).map(|it| at(&it.path)).collect();
            assert_eq!(removed.len(), 1);
            assert!(changes.iter().all(|change| logged.contains(&at(&change.path))));
            assert!(removed.iter().all(|removed| logged.contains(removed)));
        };
        check(&transaction);
        transaction.give_up();
        assert_eq!(transaction.catch_up(&store, &caller, &mut generations), Replay::Done);
        check(&transaction);
    }
}

//! A transaction: its own homes, and a log of what it was answered.
//!
//! START costs nothing. The first touch of a home takes its root, which is a snapshot of it;
//! operations run on the transaction's own homes. Each is logged with its reply, so that at the end the log can be run
//! again on the store as it then is: if every reply is the same, nobody who only saw those replies
//! can tell the difference, and the transaction commits ([`super::commit`]).

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hasher};

use super::context::{Caller, Change, Context, Deltas, Effects, Ledger};
use super::error::StoreError;
use super::forest::Locked;
use super::op::{LoggedOp, Op, Verb};
use super::own::Own;
use super::touched::TouchedHomes;
use super::{Generations, Store, apply};
use crate::domain::Quota;
use crate::words::{Domid, Errno, Home, Layout, Path, PathBuf};
use foldhash::fast::RandomState as FastState;
use foldhash::quality::RandomState;

/// A reply up to this long is kept as it is, a longer one as a hash of 128 bits.
const REPLY_KEPT_BYTES: usize = 16;

/// What a request is charged with beside its copy in the log: it may be the first in a home, and change
/// its path, and both are kept until the end.
const KEPT_BYTES: usize = 256;

/// An open transaction.
#[derive(Default)]
pub struct Transaction {
    pub(super) touched: TouchedHomes,
    pub(super) log: Vec<Logged>,
    pub(super) deltas: Deltas,
    /// In the order of its requests; see [`Transaction::merge_changes`].
    pub(super) effects: Effects,
    /// [`Registry::rights`](crate::domain::Registry::rights) when its first home was touched.
    pub(super) rights: u64,
    /// A reply was ENOSPC: it depends on accounts, which have no version.
    pub(super) saw_quota: bool,
    /// Why END will answer EAGAIN, if that is known already.
    pub(super) doomed: Option<Conflict>,
    /// Its homes were given up; its log is to be run again before anything else, and so many of its requests
    /// have been.
    pub(super) behind: Option<usize>,
    /// Its log has been run again for its END, on homes that were then the store's.
    pub(super) replayed: bool,
    /// How often something else was committed in its homes while its END compared them.
    pub(super) lost_races: usize,
    /// What its log takes, in bytes.
    log_bytes: usize,
    /// What it takes beside that when the nodes are gone with which it shares values, in bytes.
    shared_bytes: usize,
}

/// A request of a transaction, and what it was answered.
pub struct Logged {
    pub(super) op: LoggedOp,
    pub(super) outcome: Outcome,
}

/// Why a transaction cannot commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The request whose reply would differ.
    pub verb: &'static str,
    /// Its path.
    pub path: PathBuf,
    /// Who changed that path or one above it last, as far as is remembered.
    pub changed_by: Option<Domid>,
}

/// A reply, remembered well enough to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An error.
    Refused(Errno),
    /// A payload: its length, and itself or its hash.
    Replied(usize, [u8; REPLY_KEPT_BYTES]),
}

impl fmt::Debug for Transaction {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "a transaction of {} requests", self.log.len())
    }
}

impl Transaction {
    /// A transaction that was begun elsewhere, where what it did stays: it can go on, and its END
    /// will answer EAGAIN.
    pub fn reserved() -> Transaction {
        let path = Path::ROOT.to_buf();
        let conflict = Conflict { verb: "START_DOMAIN_TRANSACTION", path, changed_by: None };
        Transaction { doomed: Some(conflict), ..Transaction::default() }
    }

    /// What it holds, in bytes: its log, the nodes that it created, also if it removed them again, and the
    /// copies of others that it made to change them, with the paths of their homes.
    pub fn bytes(&self) -> usize {
        let created = usize::try_from(self.deltas.created_bytes).unwrap_or(usize::MAX);
        self.log_bytes.saturating_add(created).saturating_add(self.touched.copied_bytes())
    }

    /// Notes that the caller's account is charged with all that it holds.
    pub fn note_charged(&mut self) {
        self.deltas.charged_bytes = self.deltas.created_bytes;
    }

    /// Notes that the caller's account is charged with nothing of what it holds.
    pub fn note_uncharged(&mut self) {
        self.deltas.charged_bytes = 0;
    }

    /// Whether its log is to be run again, by [`Store::catch_up`], before its next request.
    pub fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// What one more request will make it hold, in bytes.
    pub fn bytes_of(op: &Op<'_>) -> usize {
        op.logged_bytes() + size_of::<Logged>() + KEPT_BYTES
    }

    /// What its requests cost beside a look-up each, since its log was last begun: nodes created and removed,
    /// and what was run again.
    pub fn work(&self) -> u64 {
        self.deltas.work
    }

    /// How many requests it made.
    pub fn len(&self) -> usize {
        self.log.len()
    }

    /// Whether it made no request yet.
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// The paths that it would write, for those who guard some against writing.
    pub fn written_paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.log.iter().filter(|logged| logged.op.verb.writes()).map(|logged| &logged.op.path)
    }

    /// Gives up its snapshots and all that was worked out on them: they pin what others replace. Its
    /// next request or its end runs its log again, on the store as it is then. Cost: that of freeing
    /// what nobody else holds.
    pub fn give_up(&mut self) {
        drop(self.begin_anew());
    }

    /// Keeps its log, to be run again, and answers all that was worked out so far: its homes and what
    /// its requests did to them, to be dropped where nobody waits for a lock.
    pub(super) fn begin_anew(&mut self) -> Transaction {
        let kept = Transaction {
            log: std::mem::take(&mut self.log),
            deltas: self.deltas.emptied(),
            rights: self.rights,
            saw_quota: self.saw_quota,
            doomed: self.doomed.take(),
            behind: Some(0),
            lost_races: self.lost_races,
            log_bytes: self.log_bytes + self.shared_bytes,
            ..Transaction::default()
        };
        std::mem::replace(self, kept)
    }

    /// A copy of a request's path, which shares its bytes with the change that the request made, if it did.
    fn path_of(&self, op: &Op<'_>) -> PathBuf {
        match self.effects.changes.last() {
            Some(change) if change.path.as_path() == op.path => change.path.clone(),
            _ => op.path.to_buf(),
        }
    }

    fn note(&mut self, home: &Home<'_>, op: &Op<'_>, outcome: Outcome) {
        let is_shared = op.has_long_value() && !outcome.is_refused();
        let written = if is_shared { self.touched.node(home, op.path) } else { None };
        let logged = LoggedOp::of(op, self.path_of(op), written);
        self.log_bytes += Self::bytes_of(op) - logged.shared_bytes();
        self.shared_bytes += logged.shared_bytes();
        self.saw_quota |= outcome == Outcome::Refused(Errno::ENOSPC);
        self.log.push(Logged { op: logged, outcome });
    }

    /// After a request of the log was run again: its value lies in the node that it wrote now. Else values would be
    /// kept twice. Cost: constant, or for a long value that of finding its node.
    pub(super) fn share_anew(&mut self, layout: &Layout, op: &mut LoggedOp) {
        if op.shared_bytes() > 0 {
            let written = self.touched.node(&layout.home(op.path.as_path()), op.path.as_path());
            let shared = op.share_anew(written);
            self.log_bytes -= shared;
            self.shared_bytes += shared;
        }
    }

    /// Leaves one change for each path, where the first was: a later one adds to what is known of it.
    /// Cost: the changes.
    pub(super) fn merge_changes(&mut self) {
        let changes = &self.effects.changes;
        if changes.len() < 2 {
            return;
        }
        let mut known = HashMap::with_capacity_and_hasher(changes.len(), FastState::default());
        let mut firsts = Vec::with_capacity(changes.len());
        for (at, change) in changes.iter().enumerate() {
            firsts.push(*known.entry(change.path.as_path()).or_insert(at));
        }
        if known.len() == firsts.len() {
            return;
        }
        let mut merged: Vec<Option<Change>> = Vec::with_capacity(firsts.len());
        for (change, first) in self.effects.changes.drain(..).zip(firsts) {
            match merged.get_mut(first) {
                Some(Some(known)) => {
                    known.after = change.after;
                    known.parent = change.parent;
                    known.removed.extend(change.removed);
                    merged.push(None);
                }
                _ => merged.push(Some(change)),
            }
        }
        self.effects.changes.extend(merged.into_iter().flatten());
    }
}

/// A request as a transaction runs it.
pub struct Invocation<'a> {
    /// The domain that makes the request.
    pub caller: &'a Caller,
    /// What is requested.
    pub op: &'a Op<'a>,
    /// The reply is appended to this.
    pub reply: &'a mut Vec<u8>,
}

impl Store {
    /// Runs one request inside a transaction. Cost: that of the
    /// request, and a copy of its arguments.
    ///
    /// # Errors
    /// The request's own; `ENOSPC` beyond the quota `transaction-nodes`, or if what the transaction keeps would be
    /// above `memory`: then the request is no part of it.
    pub fn execute_in(
        &self,
        transaction: &mut Transaction,
        mut request: Invocation<'_>,
        generations: &mut Generations,
    ) -> Result<(), Errno> {
        let (caller, op) = (request.caller, request.op);
        let made = transaction.log.len() + 1;
        let (quota, path) = (Quota::TransactionNodes, Some(op.path));
        if !self.registry.permits(&caller.domain, quota, made, path) {
            return Err(Errno::ENOSPC);
        }
        self.refresh(transaction, caller, generations);
        transaction.replayed = false;
        if transaction.log.is_empty() {
            transaction.rights = self.registry.rights();
        }
        let start = request.reply.len();
        let generation = generations.next(self);
        let result = self.replay_one(transaction, None, &mut request, generation);
        // Its END keeps less and would not be refused this, so the reply would differ for ever.
        if transaction.deltas.is_full {
            return result;
        }
        let outcome = Outcome::of(&op.verb, result, &request.reply[start..], &self.hasher);
        transaction.note(&self.layout.home(op.path), op, outcome);
        result
    }

    /// Runs one request on a transaction's homes without logging it. `locked` are the locks that are
    /// held, if any are.
    // In its two callers, or what the request points to would be loaded again after each call.
    #[inline(always)]
    pub(super) fn replay_one(
        &self,
        transaction: &mut Transaction,
        locked: Option<&Locked<'_>>,
        request: &mut Invocation<'_>,
        generation: u64,
    ) -> Result<(), Errno> {
        let Invocation { caller, op, reply } = request;
        transaction.deltas.is_full = false;
        let ledger = Ledger::Transaction(&mut transaction.deltas);
        let (registry, path) = (&self.registry, Some(op.path));
        let mut cx = Context { registry, caller, generation, ledger, path };
        let mut own = Own { store: self, locked, homes: &mut transaction.touched };
        let effects = &mut transaction.effects;
        let known = effects.changes.len();
        let result = apply(&mut cx, &mut own, op, reply, effects);
        effects.changes[known..].iter_mut().for_each(|change| credit_removed(&mut cx, change));
        match result {
            Ok(()) => Ok(()),
            Err(StoreError::Refused(errno)) => Err(errno),
            Err(StoreError::StaleEpoch | StoreError::NeedsLock(..)) => {
                unreachable!("a transaction has every home, and END asks for the epoch")
            }
        }
    }
}

/// Gives a guest back at once what it removes, so that it can create as much anew; what the
/// control domain removes, which no quota binds, is credited after the commit.
fn credit_removed(cx: &mut Context<'_>, change: &mut Change) {
    if !cx.credits_at_once() {
        return;
    }
    for removed in &mut change.removed {
        super::settle::credit_tree(cx, removed);
        removed.credited = true;
    }
}

impl Outcome {
    fn is_refused(self) -> bool {
        matches!(self, Outcome::Refused(_))
    }

    /// Remembers a reply. DIRECTORY_PART's generation is left out: it changes without anything
    /// that the list shows.
    pub(super) fn of(
        verb: &Verb<'_>,
        result: Result<(), Errno>,
        reply: &[u8],
        hasher: &RandomState,
    ) -> Outcome {
        if let Err(errno) = result {
            return Outcome::Refused(errno);
        }
        let shown = match verb {
            Verb::DirectoryPart(_) => {
                let end = reply.iter().position(|&byte| byte == 0).unwrap_or(0);
                &reply[end..]
            }
            _ => reply,
        };
        let mut kept = [0; REPLY_KEPT_BYTES];
        match kept.get_mut(..shown.len()) {
            Some(kept) => kept.copy_from_slice(shown),
            None => {
                let (low, high) = kept.split_at_mut(8);
                for (half, salt) in [(low, 0), (high, 1)] {
                    let mut state = hasher.build_hasher();
                    state.write_u8(salt);
                    state.write(shown);
                    half.copy_from_slice(&state.finish().to_le_bytes());
                }
            }
        }
        Outcome::Replied(shown.len(), kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::commit::Replay;
    use crate::words::{Layout, Subject};

    /// Each request is charged with its path once; the quota admits a thousand that are 2 KB long.
    #[test]
    fn long_path_of_a_request_is_kept_once() {
        let store = Store::alone(Layout::new(4));
        let domain = store.registry.get(Domid::CONTROL).unwrap();
        let caller = Caller { domain, subject: Subject::CONTROL, epoch: 0, unblocked: None };
        let text = format!("/long/{}", "x".repeat(2000));
        let path = Path::parse(text.as_bytes()).unwrap();
        let (mut transaction, mut generations) = Default::default();
        for verb in [Verb::Write(b"v"[..].into()), Verb::Rm] {
            let op = Op { path, verb };
            let reply = &mut Vec::new();
            let request = Invocation { caller: &caller, op: &op, reply };
            store.execute_in(&mut transaction, request, &mut generations).unwrap();
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
        assert_eq!(store.catch_up(&mut transaction, &caller, &mut generations), Replay::Done);
        check(&transaction);
    }
}

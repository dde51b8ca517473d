//! The store: shards behind locks, operations on them, transactions, and the consequences of a change (events,
//! accounts, freed memory).
//!
//! ```text
//!         Store::execute        Transaction::execute ... commit
//!               |                             |
//!   with_locks: Locked (forest)       TxView (forest): private copies
//!               |                             |
//!               +--- apply: read, write, remove ---+
//!               |                             |
//!            publish  <---- swap in, or replay and compare
//!               |
//!            settle (after the locks): accounts, index of owners, memory
//! ```
//!
//! Operations are independent of locks and transactions: they get their partitions ([`crate::types::Partition`]) from a
//! `Forest`. The store does not know the wire protocol and holds no lock across I/O.
//!
//! # Invariants
//! Lock order: shards by number, the root shard (`root_shard`) last; then the locks of the global watch trie and of the
//! registry, which are held only briefly. A thread that holds one of the latter acquires no shard's lock, and
//! [`Outlet::push`], called with shard locks held, takes no lock. So deadlock is impossible.
//!
//! An operation claims every partition that it will change before it changes the first. If a lock is missing, it
//! restarts with a larger set and has nothing to undo.
//!
//! Events are pushed before the locks are released, so each mailbox has the order of commits.
//!
//! A node that a snapshot holds is never changed in place (copy-on-write up to the partition's root), so an equal
//! root means an unchanged partition. Transactions, exports and imports rely on that instead of version numbers.

mod access_set;
#[cfg(test)]
pub mod alone;
mod check;
mod commit;
mod commit_view;
mod contended;
mod context;
mod domain_snapshot;
mod error;
mod forest;
mod import_subtrees;
mod long_path;
mod looks;
mod node;
mod op;
mod outcome;
mod pins;
mod plant;
mod publish;
mod read;
mod recent;
mod recipients;
mod remove;
mod removed_watches;
mod restore_nodes;
mod saved_transaction;
mod settle;
mod shards;
mod sizes;
mod sweep;
mod transaction;
mod tree;
mod tx_view;
mod unmatched;
mod write;

pub use check::{CheckError, Checked, Findings, Tries, WatchList, check};
pub use commit::{CommitError, Replay};
pub use context::{Caller, Removed, Unblocked};
pub use domain_snapshot::DomainSnapshot;
pub use error::StoreError;
pub use import_subtrees::{ImportError, ImportedNode, check_import, import_subtrees};
pub use long_path::LONG_PATH_BYTES;
use long_path::execute_long;
pub use node::{Node, NodeArc};
pub use op::{Op, Verb};
pub use outcome::ReplyKey;
pub use pins::{PINNED_PARTITIONS_MAX, REPLACED_BYTES_MAX};
pub use publish::LOOKS_MAX;
pub use restore_nodes::restore_nodes;
pub use saved_transaction::{SavedTransaction, restore_transaction, save_transaction};
pub use settle::{Done, INLINE_NODES_MAX, Reaper, Settlement, reaper, run_reaper};
pub use sizes::{Sizes, count_nodes};
pub use sweep::sweep;
pub use transaction::{Conflict, Invocation, Transaction};
pub use tree::Tree;
pub use unmatched::{Delivering, Matcher, Unmatched, matcher, run_matcher};

use crate::domain::{Registry, Ticket};
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::types::{Layout, Path, ShardId, has_partitions_below};
use crate::watch::{Entry, Outlet, Watcher};
use access_set::AccessSet;
use context::{Change, Changes, Context, Effects, Ledger};
use forest::{LockSet, Locked};
use op::apply;
use publish::{Published, Publisher};
use shards::Shards;
use unmatched::Commit;

/// The store that all threads share.
pub struct Store {
    layout: Layout,
    shards: Shards,
    registry: Arc<Registry>,
    publisher: Publisher,
    generations: AtomicU64,
    /// Removals whose subtrees are not settled yet. While there are any, accounts and the index of owners may still
    /// count removed nodes, so the consistency check waits for zero.
    unsettled: AtomicU64,
    /// See [`Store::epoch`].
    epoch: AtomicU64,
    reaper: Reaper,
    /// [`INLINE_NODES_MAX`], but in tests.
    inline_nodes_max: usize,
    /// [`LONG_PATH_BYTES`], but in tests.
    long_path_bytes: usize,
    /// The key of the replies that transactions keep as hashes.
    reply_key: ReplyKey,
}

/// The work that an operation or a commit leaves for after its locks are released.
#[derive(Default)]
pub struct Executed {
    /// Keeps a guest's request outstanding until the events that it caused are delivered; `None` if it caused none. The
    /// request's reply holds a clone.
    pub ticket: Option<Arc<Ticket>>,
    /// The removed subtrees, for [`Store::settle`].
    pub removed: Vec<Removed>,
    /// The partitions that a transaction replaced. Freeing them can take long, so the caller drops them once no lock
    /// is held. Boxed, as each request moves this structure, and only commits have these.
    pub replaced: Option<Box<AccessSet>>,
    /// The commit's events, if they were not found under the locks, until [`Publisher::conclude`] finds them.
    unmatched: Option<Box<Unmatched>>,
}

/// Number of generations that a thread takes from the shared counter at a time, so that the counter's cache line is
/// written once per 4,096 changes. A generation is only unique, so blocks of several threads may interleave.
const GENERATIONS_BLOCK: u64 = 4096;

/// A thread's block of unused generations.
#[derive(Default)]
pub struct Generations {
    next: u64,
    end: u64,
}

impl Generations {
    fn next(&mut self, store: &Store) -> u64 {
        if self.next == self.end {
            // Relaxed suffices: only uniqueness matters, and the shard's lock publishes the nodes that carry the
            // number.
            self.next = store.generations.fetch_add(GENERATIONS_BLOCK, Ordering::Relaxed);
            self.end = self.next + GENERATIONS_BLOCK;
        }
        self.next += 1;
        self.next - 1
    }
}

impl Store {
    /// Creates a store with the nodes that every client expects: `/`, `/tool`, `/tool/xenstored`, and the special
    /// ones. Every domain may watch `@releaseDomain`.
    pub fn new(
        layout: Layout,
        registry: Arc<Registry>,
        outlet: Arc<dyn Outlet>,
        reaper: Reaper,
        matcher: Matcher,
    ) -> Store {
        let key = ReplyKey::random();
        let store = Store::empty((layout, key), registry, outlet, reaper, matcher);
        plant::plant(&store);
        store
    }

    /// Creates a store without any node, for [`restore_nodes`], with the key of the store from which transactions are
    /// restored.
    pub fn empty(
        (layout, reply_key): (Layout, ReplyKey),
        registry: Arc<Registry>,
        outlet: Arc<dyn Outlet>,
        reaper: Reaper,
        matcher: Matcher,
    ) -> Store {
        Store {
            layout,
            shards: Shards::new(layout),
            publisher: Publisher::new(layout, Arc::clone(&registry), outlet, matcher),
            registry,
            // The planted nodes have generation 0.
            generations: AtomicU64::new(1),
            unsettled: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            reaper,
            inline_nodes_max: INLINE_NODES_MAX,
            long_path_bytes: LONG_PATH_BYTES,
            reply_key,
        }
    }

    /// Returns the key of the replies that transactions keep as hashes.
    pub fn reply_key(&self) -> ReplyKey {
        self.reply_key
    }

    /// Returns whether the reaper has removals that are not settled yet.
    pub fn has_unsettled(&self) -> bool {
        self.unsettled.load(Ordering::Acquire) > 0
    }

    /// Sets the numbers of looks for the events of a commit under its locks, and after that by its thread; the matcher
    /// finds the others. For tests of the matcher.
    pub fn set_looks_max(&mut self, locked: u64, thread: u64) {
        (self.publisher.looks_max, self.publisher.thread_looks_max) = (locked, thread);
    }

    /// Lowers the number of removed nodes beyond which the reaper settles them. For tests of the reaper.
    pub fn set_inline_nodes_max(&mut self, nodes: usize) {
        self.inline_nodes_max = nodes;
    }

    /// Lowers the length from which on paths are long. For tests of these.
    pub fn set_long_path_bytes(&mut self, bytes: usize) {
        self.long_path_bytes = bytes;
    }

    /// Returns the function from paths to shards and partitions.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Returns the registry of living domains, with their accounts and births.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Returns a snapshot of a shard's tree, on which long reads run without a lock. Cost: three reference counts
    /// under the shard's lock.
    pub fn snapshot(&self, shard: ShardId) -> Tree {
        self.shards.read(shard).tree.clone()
    }

    /// Returns whether more partitions of some shard are pinned than [`PINNED_PARTITIONS_MAX`]. If so, threads drop
    /// their transactions' snapshots early, the oldest first. Cost: a load for each shard.
    pub fn pins_too_much(&self) -> bool {
        self.shards.pins.iter().any(|pins| pins.count() > PINNED_PARTITIONS_MAX)
    }

    /// Returns the total of replaced bytes that snapshots may keep, rounded down by up to 64 KiB for each shard. A
    /// snapshot that was taken when the total was `n` keeps at most about the difference to `n`. Cost: a load.
    pub fn replaced_bytes(&self) -> u64 {
        self.shards.replaced.load(Ordering::Relaxed)
    }

    /// Returns a consistent snapshot of all shards, the root shard last: a commit to several shards is in all of
    /// these trees or in none. Cost: all locks, shared, while the trees are cloned.
    pub fn snapshot_all(&self) -> Vec<Tree> {
        let locked = Locked::take(&self.shards, &LockSet::all(self.layout, false));
        let trees = self.layout.all().filter_map(|shard| locked.shard(shard));
        trees.map(|shard| shard.tree.clone()).collect()
    }

    /// Returns the current epoch. The set of clients that may write changes only between epochs, so a caller stores
    /// the epoch in which that set was checked ([`Caller::epoch`]).
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Begins an epoch. A write whose caller was checked in an earlier one is refused under the lock of the write, so
    /// it is either in each snapshot taken after this call or never happens. That makes a reservation independent of
    /// timing.
    pub fn begin_epoch(&self) {
        // The shards' locks order this with writes: a write that takes a shard's lock after the reservation's first
        // snapshot of that shard sees the new epoch, and one that took it before is in the snapshot.
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Runs one request outside transactions and appends its reply to `reply`. A write's epoch is compared under its
    /// lock, since one that begins between a check and the lock must refuse the write. Cost: that of the request, and
    /// of the watches that it fires.
    ///
    /// # Errors
    /// [`StoreError::Refused`] or [`StoreError::StaleEpoch`]; then nothing was changed.
    pub fn execute(
        &self,
        caller: &Caller,
        op: &Op<'_>,
        generations: &mut Generations,
        reply: &mut Vec<u8>,
    ) -> Result<Executed, StoreError> {
        let writes = op.verb.writes();
        let generation = if writes { generations.next(self) } else { 0 };
        if op.path.bytes().len() >= self.long_path_bytes
            && let Some(done) = execute_long(self, caller, op, generation)
        {
            return done;
        }
        let set = LockSet::one(self.layout.partition(op.path).shard, writes);
        let start = reply.len();
        let mut result = self.shards.with_locks(set, |locked| {
            reply.truncate(start);
            if writes && caller.epoch != self.epoch() {
                return Err(StoreError::StaleEpoch);
            }
            let mut effects = Effects::default();
            let ledger = Ledger::Accounts;
            let (registry, path) = (&self.registry, Some(op.path));
            let mut cx = Context { registry, caller, generation, ledger, path };
            apply(&mut cx, locked, op, reply, &mut effects)?;
            Ok(self.record(locked, None, &mut effects.changes, caller))
        });
        if let Ok(executed) = &mut result {
            // The locks are released: the remaining events may take thousands of looks.
            self.publisher.conclude(executed, caller);
        }
        result
    }

    /// Publishes changes with their locks still held; they are those of an operation, or of a transaction that
    /// replaced `replaced`. The caller releases the locks and calls [`Publisher::conclude`].
    fn record(
        &self,
        locked: &mut Locked<'_>,
        replaced: Option<Box<AccessSet>>,
        changes: &mut Changes,
        caller: &Caller,
    ) -> Executed {
        if changes.is_empty() {
            // A commit without changes returns its partitions too: they may hold the last references to old trees,
            // which must not be freed under the locks.
            return Executed { replaced, ..Executed::default() };
        }
        let Published { ticket, incomplete } =
            self.publisher.publish(locked, replaced.as_deref(), changes, caller);
        self.remember(locked, changes, caller);
        // Counted with the locks held, so that a check with all locks sees either the nodes or the count.
        if changes.iter().any(Change::removes) {
            self.unsettled.fetch_add(1, Ordering::Relaxed);
        }
        let Some(found) = incomplete else {
            let removed = changes.iter_mut().map(|change| std::mem::take(&mut change.removed));
            let removed = removed.flatten().collect();
            return Executed { ticket, removed, replaced, unmatched: None };
        };
        // The removed subtrees stay with the changes, as their events depend on them; `conclude` returns clones for
        // settling.
        let changes = std::mem::take(changes).into_vec();
        let commit = Commit { changes, found, replaced, caller, ticket: ticket.as_ref() };
        let unmatched = Some(Box::new(self.publisher.hold_place(locked, commit)));
        Executed { ticket, unmatched, ..Executed::default() }
    }

    fn remember(&self, locked: &mut Locked<'_>, changes: &[Change], caller: &Caller) {
        // Bounds the work under the locks: a shard remembers no more than its last 256 changes anyway.
        let forgotten = changes.len().saturating_sub(recent::CHANGES);
        for change in &changes[forgotten..] {
            if let Some(shard) = locked.shard_mut(change.shard) {
                shard.recent.note(change.path.as_path(), caller.domain.domid);
            }
        }
    }

    /// Sets a watch. Every later commit that the watch matches pushes an event. Cost: the path's length, under one
    /// lock.
    pub fn watch(&self, path: Path<'_>, entry: Entry) {
        if is_global(path) {
            // No shard's lock is taken, so a guest that sets and removes such watches in a loop delays no request.
            self.publisher.global.insert(path, entry);
        } else {
            let shard = self.layout.partition(path).shard;
            self.shards.write(shard).watches.insert(path, entry);
        }
    }

    /// Removes a watch; returns `false` if it is not set. Events that are pushed already name a watch that no longer
    /// exists, and are dropped on delivery.
    pub fn unwatch(&self, path: Path<'_>, watcher: Watcher) -> bool {
        if is_global(path) {
            self.publisher.global.remove(path, watcher)
        } else {
            let shard = self.layout.partition(path).shard;
            self.shards.write(shard).watches.remove(path, watcher)
        }
    }

    /// Returns the number of entries in the global watch trie.
    pub fn global_watches(&self) -> usize {
        self.publisher.global.load().len()
    }
}

/// Returns whether watches on `path` are in the global watch trie: changes in any shard may match them.
fn is_global(path: Path<'_>) -> bool {
    path.is_special() || has_partitions_below(path)
}

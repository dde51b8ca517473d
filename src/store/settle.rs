//! The work for a removed subtree after its locks are released: its owners' quotas are credited, its boundaries leave
//! the index of owners, its memory is freed.
//!
//! A large tree must not block the thread that removed it: that thread settles the first [`INLINE_NODES_MAX`] nodes,
//! and the [`Reaper`] the rest. The client gets its OK when all nodes are settled, so that the quota is free by then,
//! as in C xenstored.

use crossbeam::channel::{Receiver, Sender, unbounded};

use super::Store;
use super::context::{Context, Removed};
use super::forest::{LockSet, Locked};
use super::node::NodeArc;
use super::tree::owner_above;
use crate::domain::Quota;
use crate::sync::Ordering;
use crate::types::{Domid, Path, PathBuf};

/// Number of nodes that the removing thread settles itself: about half a millisecond of work.
pub const INLINE_NODES_MAX: usize = 4096;

/// Subtrees being settled, as the fringe of their walk.
pub struct Settlement {
    /// Nodes to visit, with their path, the owner of their parent in the partition, and whether they have been
    /// credited.
    todo: Vec<(PathBuf, NodeArc, Option<Domid>, bool)>,
    /// Boundaries that may be stale in the index of owners.
    boundaries: Vec<(Domid, PathBuf)>,
}

impl Settlement {
    /// Creates the settlement of `removed`.
    pub fn of(removed: Vec<Removed>) -> Settlement {
        // A root with the same owner as its parent can belong to an earlier incarnation than the parent. In this case
        // the root is in the index too.
        let below_its_own = |removed: &&Removed| removed.above == Some(removed.root.perms.owner());
        let boundaries = removed.iter().filter(below_its_own);
        let boundaries =
            boundaries.map(|removed| (removed.root.perms.owner(), removed.path.clone()));
        let boundaries = boundaries.collect();
        let todo = removed
            .into_iter()
            .map(|removed| (removed.path, removed.root, removed.above, removed.credited))
            .collect();
        Settlement { todo, boundaries }
    }

    /// Visits up to `limit` nodes: credits their owners and frees those that no snapshot holds. Returns whether all
    /// are settled.
    fn step(&mut self, store: &Store, limit: usize) -> bool {
        let (mut kept_bytes, mut shard) = (0, None);
        for _ in 0..limit {
            let Some((path, node, owner_above, credited)) = self.todo.pop() else { break };
            let owner = node.perms.owner();
            if owner != Domid::CONTROL && owner_above != Some(owner) {
                self.boundaries.push((owner, path.clone()));
            }
            let bytes = node.charge_bytes(path.as_path().name())
                + node.index_bytes(path.as_path().bytes().len(), owner_above);
            if !credited && let Some(domain) = store.registry.owner(owner, node.perms.stamp()) {
                domain.account.release(Quota::Nodes, 1);
                domain.account.release(Quota::Memory, bytes);
            }
            // From here on no account is charged for a node that a snapshot keeps, so it counts as replaced.
            if !NodeArc::is_unique(&node) {
                kept_bytes += bytes;
                // The bound is on the sum over all shards, so any shard may count the bytes.
                shard.get_or_insert_with(|| store.layout.partition(path.as_path()).shard);
            }
            for (name, child) in node.children().iter() {
                if let Some(child) = child {
                    let path = path.as_path().child(name.bytes());
                    self.todo.push((path, NodeArc::clone(child), Some(owner), credited));
                }
            }
            // `todo` holds the children, so this frees at most the node itself and does not recurse.
            drop(node);
        }
        if let Some(shard) = shard {
            store.shards.pins(shard).replaced(kept_bytes);
        }
        // Each removal from the index takes the lock anew, so that no hold time grows with the subtree.
        for (owner, path) in self.boundaries.drain(..) {
            store.forget_stale(owner, path.as_path());
        }
        self.todo.is_empty()
    }
}

/// Credits a whole tree inside a transaction, without recursion as guests choose its depth. Cost: its nodes.
pub fn credit_tree(cx: &mut Context<'_>, removed: &Removed) {
    let path = removed.path.as_path();
    // The charge depends on the lengths of paths only, so no path is built.
    let mut todo = vec![(path.bytes().len(), path.name(), &removed.root, removed.above)];
    while let Some((path_bytes, name, node, above)) = todo.pop() {
        let bytes = node.charge_bytes(name) + node.index_bytes(path_bytes, above);
        cx.credit(&node.perms, 1, bytes);
        let owner = Some(node.perms.owner());
        for (name, child) in node.children().iter() {
            if let Some(child) = child {
                let name = name.bytes();
                todo.push((path_bytes + 1 + name.len(), name, child, owner));
            }
        }
    }
}

/// A callback for the end of a settlement that went to the reaper.
pub type Done = Box<dyn FnOnce() + Send>;

impl Store {
    /// Settles removed subtrees, at most [`INLINE_NODES_MAX`] nodes. Returns the rest for [`Store::reap`], or `None`
    /// if all are settled.
    pub fn settle(&self, removed: Vec<Removed>) -> Option<Settlement> {
        if removed.is_empty() {
            return None;
        }
        let mut settlement = Settlement::of(removed);
        if settlement.step(self, self.inline_nodes_max) {
            // Release: a check that reads zero sees the credited accounts.
            self.unsettled.fetch_sub(1, Ordering::Release);
            None
        } else {
            Some(settlement)
        }
    }

    /// Queues the rest for the reaper, which calls `done` on its thread at the end.
    pub fn reap(&self, settlement: Settlement, done: Done) {
        // The reaper lives as long as the store, and drains the channel before it ends.
        let _ = self.reaper.send((settlement, done));
    }

    /// Settles the next slice of a queued tree. Returns the rest, or `None` after calling back once all are settled.
    pub fn settle_slice(
        &self,
        (mut settlement, done): (Settlement, Done),
    ) -> Option<(Settlement, Done)> {
        let is_settled = settlement.step(self, self.inline_nodes_max);
        // The reaper's thread has no pass of a worker after which these are logged, and it holds no lock here.
        self.registry.log_reports();
        if !is_settled {
            return Some((settlement, done));
        }
        self.unsettled.fetch_sub(1, Ordering::Release);
        // The client's OK follows the credits, so that its next request finds the quota free, as in C xenstored.
        done();
        None
    }

    /// Removes the boundary of `owner` at `path` from the index unless it is valid, as the path may have been created
    /// again.
    fn forget_stale(&self, owner: Domid, path: Path<'_>) {
        let partition = self.layout.partition(path);
        let mut locked = Locked::take(&self.shards, &LockSet::one(partition.shard, true));
        let Some(shard) = locked.shard_mut(partition.shard) else { return };
        let node = shard.tree.get(&partition, path);
        let owned = node.is_some_and(|node| node.perms.owner() == owner);
        if !(owned && owner_above(shard.tree.root(&partition), &partition, path) != Some(owner)) {
            shard.tree.forget_owned(owner, path);
        }
    }
}

/// The queue of large removed trees, which one thread settles in slices. The queue itself is unbounded; quotas bound
/// the nodes of guests that can be removed.
pub type Reaper = Sender<(Settlement, Done)>;

/// Creates the queue that [`run_reaper`] serves.
pub fn reaper() -> (Reaper, Receiver<(Settlement, Done)>) {
    unbounded()
}

/// Settles queued trees until the store is dropped.
pub fn run_reaper(store: &std::sync::Weak<Store>, queue: &Receiver<(Settlement, Done)>) {
    while let Ok(removed) = queue.recv() {
        // Weak, since the store owns the sender for which this thread waits.
        let Some(store) = store.upgrade() else { return };
        let mut left = store.settle_slice(removed);
        while let Some(removed) = left {
            // A slice takes half a millisecond: a worker that waits for this core runs between two.
            std::thread::yield_now();
            left = store.settle_slice(removed);
        }
    }
}

//! What is left to do for a subtree once it is cut off and the locks are gone: its owners get
//! their quota back, the index of owners forgets it, its memory is freed.
//!
//! A large tree must not hold up the thread that happened to remove it: that thread does the first
//! [`INLINE_NODES_MAX`] nodes and leaves the rest to the [`Reaper`].

use crossbeam::channel::{Receiver, Sender, unbounded};

use super::Store;
use super::context::{Context, Removed};
use super::forest::{LockSet, Locked};
use super::node::NodeArc;
use super::tree::owner_above;
use crate::domain::Quota;
use crate::sync::Ordering;
use crate::words::{Domid, Path, PathBuf};

/// A thread settles this many nodes itself: about half a millisecond's work.
pub const INLINE_NODES_MAX: usize = 4096;

/// Subtrees that are being settled, in whatever pieces their walk is in.
pub struct Settlement {
    /// Nodes still to be visited, with their paths and the owner above them in their home.
    todo: Vec<(PathBuf, NodeArc, Option<Domid>, bool)>,
    /// Places where the index of owners may be stale.
    boundaries: Vec<(Domid, PathBuf)>,
}

impl Settlement {
    /// All of `removed`.
    pub fn of(removed: Vec<Removed>) -> Settlement {
        // The former life's nodes below those of the next are in the index too.
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

    /// Visits up to `limit` nodes: credits their owners and frees what nobody else holds. Answers
    /// whether nothing is left.
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
            // A snapshot keeps what no account is charged with from here on.
            if !NodeArc::is_unique(&node) {
                kept_bytes += bytes;
                shard.get_or_insert_with(|| store.layout.home(path.as_path()).shard);
            }
            for (name, child) in node.children().iter() {
                if let Some(child) = child {
                    let path = path.as_path().child(name.bytes());
                    self.todo.push((path, NodeArc::clone(child), Some(owner), credited));
                }
            }
            // The children are held above, so this frees the node alone, if it was the last.
            drop(node);
        }
        if let Some(shard) = shard {
            store.pins[usize::from(shard.0)].replaced(kept_bytes);
        }
        for (owner, path) in self.boundaries.drain(..) {
            store.forget_stale(owner, path.as_path());
        }
        self.todo.is_empty()
    }
}

/// Credits a whole tree inside a transaction. Cost: its nodes.
pub fn credit_tree(cx: &mut Context<'_>, removed: &Removed) {
    let path = removed.path.as_path();
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

/// Called when a settlement that went to the reaper is over.
pub type Done = Box<dyn FnOnce() + Send>;

impl Store {
    /// Settles what was cut off: the beginning at once, a large rest on the reaper's thread.
    /// Answers `None` if it is over; else what is left, to be given to [`Store::reap`].
    pub fn settle(&self, removed: Vec<Removed>) -> Option<Settlement> {
        if removed.is_empty() {
            return None;
        }
        let mut settlement = Settlement::of(removed);
        if settlement.step(self, INLINE_NODES_MAX) {
            self.unsettled.fetch_sub(1, Ordering::Release);
            None
        } else {
            Some(settlement)
        }
    }

    /// Leaves the rest to the reaper; `done` is called from its thread.
    pub fn reap(&self, settlement: Settlement, done: Done) {
        // The reaper lives as long as the store; the channel is emptied before it ends.
        let _ = self.reaper.send((settlement, done));
    }

    /// Takes `path` out of the index of `owner`'s nodes unless it belongs there (again).
    fn forget_stale(&self, owner: Domid, path: Path<'_>) {
        let home = self.layout.home(path);
        let mut locked = Locked::take(self, &LockSet::one(home.shard, true));
        let Some(shard) = locked.shard_mut(home.shard) else { return };
        let node = shard.tree.get(&home, path);
        let owned = node.is_some_and(|node| node.perms.owner() == owner);
        if !(owned && owner_above(shard.tree.root(&home), &home, path) != Some(owner)) {
            shard.tree.forget_owned(owner, path);
        }
    }
}

/// Where large trees go to be settled, slice by slice, on a thread of their own. What waits here
/// is bounded by what the quotas and the control domain let exist.
pub type Reaper = Sender<(Settlement, Done)>;

/// A reaper's queue; [`run_reaper`] empties it.
pub fn reaper() -> (Reaper, Receiver<(Settlement, Done)>) {
    unbounded()
}

/// Settles what comes until the store is gone.
pub fn run_reaper(store: &std::sync::Weak<Store>, queue: &Receiver<(Settlement, Done)>) {
    while let Ok((mut settlement, done)) = queue.recv() {
        let Some(store) = store.upgrade() else { return };
        while !settlement.step(&store, INLINE_NODES_MAX) {
            store.registry.log_reports();
            std::thread::yield_now();
        }
        store.registry.log_reports();
        store.unsettled.fetch_sub(1, Ordering::Release);
        done();
    }
}

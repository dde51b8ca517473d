//! The caller of an operation, its usage of quotas, and the operation's effects.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::node::NodeArc;
use crate::domain::{Domain, Quota, Registry};
use crate::sync::Arc;
use crate::types::{Access, Domid, Errno, Path, PathBuf, PermSet, Perms, ShardId, Subject};

/// Up to this many changes are compared pairwise; for an ordinary transaction a table costs more.
const COMPARED_MAX: usize = 8;

/// A client's domain, for permission checks and quotas.
#[derive(Clone)]
pub struct Caller {
    /// The incarnation; for socket clients, the control domain.
    pub domain: Arc<Domain>,
    /// The domain's rights at the time of the request.
    pub subject: Subject,
    /// The epoch in which the check was made whether the caller may write, or an earlier one.
    pub epoch: u64,
    /// Called when its ring may be read again; `None` for callers that are never throttled.
    pub unblocked: Option<Unblocked>,
}

/// A callback for a domain whose outstanding requests fell below their quota. The callback may be called on any thread.
pub type Unblocked = Arc<dyn Fn(&Domain) + Send + Sync>;

/// The environment of one operation.
pub struct Context<'a> {
    /// The living domains and their accounts.
    pub registry: &'a Registry,
    /// The caller.
    pub caller: &'a Caller,
    /// The generation that every changed node gets.
    pub generation: u64,
    /// The record of the changes in usage.
    pub ledger: Ledger<'a>,
    /// The request's path, for the log line of a refusal by a quota.
    pub path: Option<Path<'a>>,
}

/// The record of changes in the usage of quotas.
pub enum Ledger<'a> {
    /// Directly in the accounts.
    Accounts,
    /// In a transaction's list, which its END transfers to the accounts.
    Transaction(&'a mut Deltas),
}

/// The changes in usage by an open transaction.
#[derive(Default)]
pub struct Deltas {
    changes: SmallVec<[Delta; 2]>,
    /// All bytes charged for created nodes and longer values, even if removed again: they stay in memory until the
    /// transaction ends. Otherwise creating and removing a tree of 970 levels 600 times took 72 MB for 1.4 MB of quota.
    pub created_bytes: u64,
    /// The part of these that the caller's account is already charged for.
    pub charged_bytes: u64,
    /// Whether the last request was refused because the transaction would hold too much memory.
    pub is_full: bool,
    /// The work so far: nodes created and removed, and replayed requests with the steps to their nodes.
    pub work: u64,
    /// The number of other domains' nodes removed.
    removed: u64,
}

/// The change in one owner's resource usage.
pub struct Delta {
    /// The owner.
    pub domain: Arc<Domain>,
    /// The change in the number of nodes.
    pub nodes: i64,
    /// The change in bytes of memory.
    pub bytes: i64,
}

impl Deltas {
    /// Returns the change in each owner's usage.
    pub fn iter(&self) -> impl Iterator<Item = &Delta> {
        self.changes.iter()
    }

    /// Returns an empty list that still records the amounts for which the account is charged.
    pub fn emptied(&self) -> Deltas {
        Deltas { charged_bytes: self.charged_bytes, ..Deltas::default() }
    }

    fn of(&mut self, domain: &Arc<Domain>) -> &mut Delta {
        let changes = &mut self.changes;
        let at = match changes.iter().position(|delta| Arc::ptr_eq(&delta.domain, domain)) {
            Some(at) => at,
            None => {
                changes.push(Delta { domain: Arc::clone(domain), nodes: 0, bytes: 0 });
                changes.len() - 1
            }
        };
        &mut changes[at]
    }
}

impl Context<'_> {
    /// Returns the caller's access to a node with these permissions.
    pub fn access(&self, perms: &PermSet) -> Access {
        perms.access(&self.caller.subject, self.registry.births())
    }

    /// Returns whether the caller's incarnation is still alive. Must be called under the locks: after a death the sweep
    /// takes the locks of the shards one after another, so a node created before the sweep of its shard is swept, and
    /// none is created afterwards.
    pub fn caller_lives(&self) -> bool {
        self.registry.births().of(self.caller.domain.domid) == self.caller.domain.birth
    }

    /// Charges `nodes` and `bytes` to the owner named by `perms`. Only the caller itself can be refused: a guest is not
    /// refused for nodes that other clients create in its name.
    ///
    /// # Errors
    /// `ENOSPC` if a quota of the caller is reached; then nothing is charged.
    pub fn charge(&mut self, perms: &PermSet, nodes: u64, bytes: u64) -> Result<(), Errno> {
        if self.is_callers(perms) {
            self.charge_caller(nodes, bytes)?;
        } else {
            self.change(perms, signed(nodes), signed(bytes));
        }
        if let Ledger::Transaction(deltas) = &mut self.ledger {
            deltas.created_bytes += bytes;
            deltas.work += nodes;
        }
        Ok(())
    }

    fn charge_caller(&mut self, nodes: u64, bytes: u64) -> Result<(), Errno> {
        let own = &self.caller.domain;
        let deltas = match &mut self.ledger {
            Ledger::Accounts if self.registry.reserve_nodes(own, nodes, bytes, self.path) => {
                return Ok(());
            }
            Ledger::Accounts => return Err(Errno::ENOSPC),
            Ledger::Transaction(deltas) => deltas,
        };
        let kept = signed(deltas.created_bytes + bytes) - signed(deltas.charged_bytes);
        // The transaction's changes are compared together with the account's committed usage. END reserves them, and
        // refuses if the domain's other requests have used up the quota.
        let owned = deltas.of(own).nodes + signed(nodes);
        let is_over = |quota, more, sum| {
            let (used, limit) = (own.account.used(quota), self.registry.limit(own, quota));
            // A request that adds nothing succeeds even above a limit that was lowered meanwhile.
            more > 0 && limit != 0 && signed(used).saturating_add(sum) > i64::from(limit)
        };
        let refused = if is_over(Quota::Nodes, nodes, owned) {
            Some(Quota::Nodes)
        } else {
            // Nodes removed again no longer count in the quota `nodes`, but take memory until the end.
            deltas.is_full = is_over(Quota::Memory, bytes, kept);
            deltas.is_full.then_some(Quota::Memory)
        };
        if let Some(quota) = refused {
            self.registry.refuse(own, quota, self.path);
            return Err(Errno::ENOSPC);
        }
        self.change_of(own, signed(nodes), signed(bytes));
        Ok(())
    }

    /// Returns whether removed nodes are credited during the request, so that as many can be created: in a guest's
    /// transaction.
    pub fn credits_at_once(&self) -> bool {
        matches!(self.ledger, Ledger::Transaction(_)) && !self.caller.subject.privileged
    }

    /// Counts other domains' nodes below `roots`, which the transaction is about to remove, against the caller's quota
    /// `transaction-nodes`: the credit and each replay visit all of them. The caller's own nodes are bounded by its
    /// quota `nodes`. Cost: linear in the nodes; the walk visits at most as many of other domains' nodes as the quota
    /// admits.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub fn count_removed(&mut self, roots: &[NodeArc]) -> Result<(), Errno> {
        let (own, quota) = (&self.caller.domain, Quota::TransactionNodes);
        let Ledger::Transaction(deltas) = &mut self.ledger else { return Ok(()) };
        let limit = self.registry.limit(own, quota);
        let mut removed = deltas.removed;
        let mut todo: Vec<_> = roots.iter().collect();
        while let Some(node) = todo.pop() {
            // Also for an RM that is refused in the end: the walk has been paid for.
            deltas.work += 1;
            removed += u64::from(node.perms.owner() != own.domid);
            if limit != 0 && removed > u64::from(limit) {
                self.registry.refuse(own, quota, self.path);
                return Err(Errno::ENOSPC);
            }
            todo.extend(node.children().iter().filter_map(|(_, child)| child.as_ref()));
        }
        // Stored only on success: a refused RM removes nothing.
        deltas.removed = removed;
        Ok(())
    }

    /// Credits the amounts that [`Context::charge`] charged.
    pub fn credit(&mut self, perms: &PermSet, nodes: u64, bytes: u64) {
        if let Ledger::Transaction(deltas) = &mut self.ledger {
            deltas.work += nodes;
        }
        self.change(perms, -signed(nodes), -signed(bytes));
    }

    /// Reverts a credit. A credit cannot be refused.
    pub fn recharge(&mut self, perms: &PermSet, nodes: u64, bytes: u64) {
        self.change(perms, signed(nodes), signed(bytes));
    }

    /// Returns whether the owner named by `perms` is the caller's incarnation. Most owners are the caller, which saves
    /// a look-up in the registry.
    fn is_callers(&self, perms: &PermSet) -> bool {
        let own = &self.caller.domain;
        // A stamp older than the caller's birth means an earlier incarnation of its domid.
        perms.owner() == own.domid && own.birth <= perms.stamp() && self.caller_lives()
    }

    /// A dead owner has no account any more, and its sweep removes the node.
    fn change(&mut self, perms: &PermSet, nodes: i64, bytes: i64) {
        if self.is_callers(perms) {
            self.change_of(&self.caller.domain, nodes, bytes);
        } else if let Some(owner) = self.registry.owner(perms.owner(), perms.stamp()) {
            self.change_of(&owner, nodes, bytes);
        }
    }

    fn change_of(&mut self, owner: &Arc<Domain>, nodes: i64, bytes: i64) {
        match &mut self.ledger {
            Ledger::Transaction(deltas) => {
                let delta = deltas.of(owner);
                delta.nodes += nodes;
                delta.bytes += bytes;
            }
            Ledger::Accounts => {
                for (quota, change) in [(Quota::Nodes, nodes), (Quota::Memory, bytes)] {
                    // Most changes concern one quota, and an atomic addition of 0 would still take the account's cache
                    // line.
                    if change != 0 {
                        owner.account.change(quota, change);
                    }
                }
            }
        }
    }

    /// Checks a node's size, in bytes, against the caller's quota `node-size`.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub fn check_size(&self, size: usize) -> Result<(), Errno> {
        let (own, quota) = (&self.caller.domain, Quota::NodeSize);
        let permitted = self.registry.permits(own, quota, size, self.path);
        if permitted { Ok(()) } else { Err(Errno::ENOSPC) }
    }
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// A changed path, of which watchers are notified.
pub struct Change {
    /// The changed path.
    pub path: PathBuf,
    /// The path's shard.
    pub shard: ShardId,
    /// The former permissions, if they changed. A transaction's commit uses those in the tree that it replaces.
    pub before: Option<Perms>,
    /// The new permissions; of a removed node, its last.
    pub after: Perms,
    /// The parent's permissions, if the node was removed.
    pub parent: Option<Perms>,
    /// The removed subtrees: the node's own, and the partitions that were below it.
    pub removed: Vec<Removed>,
}

impl Change {
    /// Returns whether the operation removed a node.
    pub fn removes(&self) -> bool {
        !self.removed.is_empty()
    }

    /// Makes its paths share memory with `path` where they are equal and long.
    pub fn share(&mut self, path: &PathBuf) {
        let removed = self.removed.iter_mut().map(|removed| &mut removed.path);
        removed.chain([&mut self.path]).for_each(|own| own.share(path));
    }
}

/// A removed subtree of one partition.
#[derive(Clone)]
pub struct Removed {
    /// The former path of the subtree's root.
    pub path: PathBuf,
    /// The root of the removed subtree. A partition below this subtree is a separate `Removed`.
    pub root: NodeArc,
    /// The owner of the root's former parent in the same partition, if it had one.
    pub above: Option<Domid>,
    /// Whether the removed nodes have been credited to their owners.
    pub credited: bool,
}

/// The effects of an operation or a whole transaction.
#[derive(Default)]
pub struct Effects {
    /// The changes, one for each path, in the order of first changes.
    pub changes: Changes,
}

/// A single change needs no allocation, as most requests have only one.
pub type Changes = SmallVec<[Change; 1]>;

impl Effects {
    /// Merges the changes of each path into its first one. The former state stays that of the first, the new state is
    /// the last's. Cost: the changes.
    pub fn merge(&mut self) {
        let changes = &self.changes;
        if changes.len() <= COMPARED_MAX && all_differ(changes) {
            return;
        }
        // In two passes, as the table borrows the paths of the changes that the second one moves.
        let mut known = HashMap::with_capacity_and_hasher(changes.len(), RandomState::default());
        let mut firsts = Vec::with_capacity(changes.len());
        for (at, change) in changes.iter().enumerate() {
            firsts.push(*known.entry(change.path.as_path()).or_insert(at));
        }
        if known.len() == firsts.len() {
            return;
        }
        let mut merged: Vec<Option<Change>> = Vec::with_capacity(firsts.len());
        for (change, first) in self.changes.drain(..).zip(firsts) {
            match merged.get_mut(first) {
                Some(Some(known)) => {
                    known.after = change.after;
                    known.parent = change.parent;
                    known.removed.extend(change.removed);
                    // A placeholder, so that later indices in `firsts` stay valid.
                    merged.push(None);
                }
                _ => merged.push(Some(change)),
            }
        }
        self.changes.extend(merged.into_iter().flatten());
    }

    /// Records that the node at `path` was created, written, or got other permissions than `before`.
    pub fn changed(&mut self, path: PathBuf, shard: ShardId, before: Option<Perms>, after: Perms) {
        let (parent, removed) = (None, Vec::new());
        self.changes.push(Change { path, shard, before, after, parent, removed });
    }
}

/// Returns whether no path changed twice. Cost: the square of the changes; most paths differ in their last byte.
fn all_differ(changes: &[Change]) -> bool {
    let differ = |one: &Change, other: &Change| {
        let (one, other) = (one.path.as_path().bytes(), other.path.as_path().bytes());
        one.last() != other.last() || one != other
    };
    let earlier = |at: usize| changes[..at].iter();
    changes.iter().enumerate().all(|(at, change)| earlier(at).all(|other| differ(other, change)))
}

//! On whose behalf an operation runs, and what it did.

use smallvec::SmallVec;

use super::node::NodeArc;
use crate::domain::{Domain, Quota, Registry};
use crate::sync::Arc;
use crate::words::{Access, Domid, Errno, Path, PathBuf, PermSet, Perms, ShardId, Subject};

/// A connection's domain, as permission checks and quotas see it.
#[derive(Clone)]
pub struct Caller {
    /// The incarnation that asks; sockets are the control domain.
    pub domain: Arc<Domain>,
    /// Its rights at the moment of the request.
    pub subject: Subject,
    /// [`super::Store::epoch`] when it asked whether it may write, or before.
    pub epoch: u64,
    /// Called when its ring may be read again; `None` for those who are never throttled.
    pub unblocked: Option<Unblocked>,
}

/// Called with a domain whose outstanding requests fell below their quota, from any thread.
pub type Unblocked = Arc<dyn Fn(&Domain) + Send + Sync>;

/// What an operation runs with.
pub struct Context<'a> {
    /// Who lives, and what they may use.
    pub registry: &'a Registry,
    /// Who asks.
    pub caller: &'a Caller,
    /// The generation of everything that it changes.
    pub generation: u64,
    /// Where what it uses is written down.
    pub ledger: Ledger<'a>,
    /// The path that the request names, for the log of what a quota refuses.
    pub path: Option<Path<'a>>,
}

/// Where use of quotas is written down.
pub enum Ledger<'a> {
    /// In the accounts, at once.
    Accounts,
    /// In a transaction's own list; the accounts are asked when it commits.
    Transaction(&'a mut Deltas),
}

/// Changes of use by a transaction that has not committed.
#[derive(Default)]
pub struct Deltas {
    changes: SmallVec<[Delta; 2]>,
    /// What was ever created, in bytes: what was removed again is kept until the end, too.
    pub created_bytes: u64,
    /// How much of that the account of the caller is charged with meanwhile.
    pub charged_bytes: u64,
    /// The last request was refused for the memory that the transaction would keep.
    pub is_full: bool,
    /// Nodes that were created and removed, and requests that were run again with the steps to their nodes.
    pub work: u64,
    /// Nodes of others that were removed.
    removed: u64,
}

/// The change of one owner's use.
pub struct Delta {
    /// The owner.
    pub domain: Arc<Domain>,
    /// Nodes, more or fewer.
    pub nodes: i64,
    /// Bytes of memory, more or fewer.
    pub bytes: i64,
}

impl Deltas {
    /// All changes.
    pub fn iter(&self) -> impl Iterator<Item = &Delta> {
        self.changes.iter()
    }

    /// No changes, while the account is still charged for these.
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
    /// What the caller may do with a node of these permissions.
    pub fn access(&self, perms: &PermSet) -> Access {
        perms.access(&self.caller.subject, self.registry.births())
    }

    /// Whether the caller still lives. Asked under the locks, so that a node is never created for
    /// a domain whose nodes have been swept.
    pub fn caller_lives(&self) -> bool {
        self.registry.births().of(self.caller.domain.domid) == self.caller.domain.birth
    }

    /// Charges `nodes` and `bytes` to the owner named by `perms`. Only the caller itself can be
    /// refused: what others do in a guest's name is not its doing.
    ///
    /// # Errors
    /// `ENOSPC` if a quota of the caller's is reached; then nothing is charged.
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
        let owned = deltas.of(own).nodes + signed(nodes);
        let is_over = |quota, more, sum| {
            let (used, limit) = (own.account.used(quota), self.registry.limit(own, quota));
            more > 0 && limit != 0 && signed(used).saturating_add(sum) > i64::from(limit)
        };
        let refused = if is_over(Quota::Nodes, nodes, owned) {
            Some(Quota::Nodes)
        } else {
            // Nodes that were removed again count no more, but take memory until the end.
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

    /// Whether what is removed is credited with the request, so that as much can be created anew: what a
    /// guest removes in a transaction.
    pub fn credits_at_once(&self) -> bool {
        matches!(self.ledger, Ledger::Transaction(_)) && !self.caller.subject.privileged
    }

    /// Counts the nodes of others below `roots`, which the transaction is about to remove, against the
    /// caller's quota `transaction-nodes`: each is visited when it is credited, and again with each replay. The
    /// caller's own are bounded by its quota `nodes`. Cost: the nodes, of others' so many as the quota admits.
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
            deltas.work += 1;
            removed += u64::from(node.perms.owner() != own.domid);
            if limit != 0 && removed > u64::from(limit) {
                self.registry.refuse(own, quota, self.path);
                return Err(Errno::ENOSPC);
            }
            todo.extend(node.children().iter().filter_map(|(_, child)| child.as_ref()));
        }
        deltas.removed = removed;
        Ok(())
    }

    /// Gives back what [`Context::charge`] took.
    pub fn credit(&mut self, perms: &PermSet, nodes: u64, bytes: u64) {
        if let Ledger::Transaction(deltas) = &mut self.ledger {
            deltas.work += nodes;
        }
        self.change(perms, -signed(nodes), -signed(bytes));
    }

    /// Charges again what was just credited: cannot be refused.
    pub fn recharge(&mut self, perms: &PermSet, nodes: u64, bytes: u64) {
        self.change(perms, signed(nodes), signed(bytes));
    }

    /// Whether the owner named by `perms` is the caller, in this life: most are, and then nobody is
    /// looked up.
    fn is_callers(&self, perms: &PermSet) -> bool {
        let own = &self.caller.domain;
        perms.owner() == own.domid && own.birth <= perms.stamp() && self.caller_lives()
    }

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
                    if change != 0 {
                        owner.account.change(quota, change);
                    }
                }
            }
        }
    }

    /// Checks a node's size against the caller's quota.
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

/// A path that changed, to be told to those who watch it.
pub struct Change {
    /// The path.
    pub path: PathBuf,
    /// Where it lies.
    pub shard: ShardId,
    /// The permissions that it had, if they changed. (A commit looks at the tree that it replaces.)
    pub before: Option<Perms>,
    /// The permissions that it has; of a node that is gone, its last.
    pub after: Perms,
    /// Of a node that is gone: its parent's permissions.
    pub parent: Option<Perms>,
    /// What was cut off there: the node itself, and homes that lay below it.
    pub removed: Vec<Removed>,
}

impl Change {
    /// Whether it removed something.
    pub fn removes(&self) -> bool {
        !self.removed.is_empty()
    }

    /// Lets its paths share their bytes with `path` where they are equal to it and long.
    pub fn share(&mut self, path: &PathBuf) {
        let removed = self.removed.iter_mut().map(|removed| &mut removed.path);
        removed.chain([&mut self.path]).for_each(|own| own.share(path));
    }
}

/// A subtree that was cut off.
#[derive(Clone)]
pub struct Removed {
    /// Where its root was.
    pub path: PathBuf,
    /// Its root. Homes below it are subtrees of their own.
    pub root: NodeArc,
    /// The owner of the node that was above it in its home.
    pub above: Option<Domid>,
    /// Its owners were credited already.
    pub credited: bool,
}

/// What an operation, or a whole transaction, did.
#[derive(Default)]
pub struct Effects {
    /// One for each path, in the order of first change.
    pub changes: Changes,
}

/// Most requests change one path.
pub type Changes = SmallVec<[Change; 1]>;

impl Effects {
    /// Notes that the node at `path` was created, written, or given other permissions than
    /// `before`.
    pub fn changed(&mut self, path: PathBuf, shard: ShardId, before: Option<Perms>, after: Perms) {
        let (parent, removed) = (None, Vec::new());
        self.changes.push(Change { path, shard, before, after, parent, removed });
    }
}

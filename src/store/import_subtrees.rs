//! The store's part of an import: inserts subtrees that were built without locks, all of them or none.

use std::collections::BTreeMap;

use thiserror::Error;

use super::context::{Caller, Context, Effects, Ledger};
use super::error::StoreError;
use super::forest::{Forest, LockSet, Locked};
use super::node::{Node, NodeArc, charge_bytes, index_bytes};
use super::tree::{find, get_mut};
use super::write::mkdir;
use super::{DomainSnapshot, Executed, Generations, Store};
use crate::domain::Registry;
use crate::sync::Arc;
use crate::types::{
    Births, Domid, Entry, Errno, Layout, Partition, Path, PathBuf, PermSet, Perms,
    domain_of_partition,
};

/// A node to insert.
pub struct ImportedNode<'n> {
    /// The path at which to insert it.
    pub path: &'n PathBuf,
    /// The node's permissions, with a stamp at which the owner was alive.
    pub perms: Perms,
    /// Its value.
    pub value: &'n [u8],
}

/// Why nothing was inserted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ImportError {
    /// A node exists at this path, or the import has it twice.
    #[error("node {} already exists", .0.as_path())]
    Occupied(PathBuf),
    /// This node is not the root of a partition, and its parent is not part of the import.
    #[error("the parent of {} is missing", .0.as_path())]
    Loose(PathBuf),
    /// The owner of this node is not alive.
    #[error("{} belongs to domain {}, which does not exist", .0.as_path(), .1)]
    NoOwner(PathBuf, Domid),
    /// An epoch began while the import waited for its locks.
    #[error("another client's reservation began first; try again")]
    StaleEpoch,
    /// The control domain could not create the nodes above the partitions.
    #[error("cannot create the parent nodes: {0}")]
    Above(Errno),
}

/// Errors that do not occur with all locks held and the control domain's rights.
impl From<StoreError> for ImportError {
    fn from(stop: StoreError) -> ImportError {
        match stop {
            StoreError::Refused(errno) => ImportError::Above(errno),
            StoreError::StaleEpoch => ImportError::StaleEpoch,
            StoreError::NeedsLock(..) => ImportError::Above(Errno::EAGAIN),
        }
    }
}

/// A partition to insert, with the nodes of which it was built and the boundaries of their owners.
pub(super) struct ImportedPartition<'n> {
    pub(super) root: NodeArc,
    /// The nodes, each with the owner of its parent in the partition.
    nodes: Vec<(&'n ImportedNode<'n>, Option<Domid>)>,
    boundaries: Vec<(Domid, Path<'n>)>,
}

/// The partitions of an import, by the paths of their roots.
pub(super) struct Import<'n> {
    nodes: &'n [ImportedNode<'n>],
    pub(super) partitions: BTreeMap<PathBuf, ImportedPartition<'n>>,
    /// The generation of the nodes.
    generation: u64,
}

/// Inserts nodes as if `by`, the control domain, had created them: watches fire, and owners are charged regardless of
/// their quotas. Each node's parent precedes it, unless the node is the root of a partition; missing nodes above
/// partitions are created as by MKDIR. Also returns the resulting partitions, as those of `domid`. Cost: building the
/// nodes, without a lock; then the partitions, the nodes' accounts and the watches, with the locks of the partitions and
/// of everything above them.
///
/// A partition may exist already in two cases. First, it may be *scaffolding*: nodes of the control domain without
/// values that only lead to other partitions; these are merged with the import. Second, it may have no domain's key, and
/// the same contents and permissions as the imported one: another domain brought it, and it is left unchanged.
///
/// # Errors
/// See [`ImportError`]; then nothing was changed.
pub fn import_subtrees(
    store: &Store,
    domid: Domid,
    nodes: &[ImportedNode<'_>],
    by: &Caller,
    generations: &mut Generations,
) -> Result<(Executed, DomainSnapshot), ImportError> {
    let generation = generations.next(store);
    let mut import = Import::build(store.layout, nodes, generation)?;
    let mut effects = Effects::default();
    // The epoch is read here instead of taken from `by`, which is older: epochs may begin faster than many nodes
    // are built, and the import would fail again and again.
    let epoch = store.epoch();
    let mut locked = Locked::take(&store.shards, &import.lock_set(store.layout, true));
    if epoch != store.epoch() {
        return Err(ImportError::StaleEpoch);
    }
    // All checks precede the first insertion, so a refused import has nothing to undo.
    import.merge(&store.registry, &locked)?;
    let ledger = Ledger::Accounts;
    let registry = &store.registry;
    let mut cx = Context { registry, caller: by, generation, ledger, path: None };
    let roots: Vec<PathBuf> = import.partitions.keys().cloned().collect();
    // In path order a partition precedes those nested in it. Otherwise the nodes that `place` creates above a
    // nested one would be replaced by the outer root, which `merge` could not know of.
    for (path, subtree) in import.partitions {
        let partition = store.layout.partition(path.as_path());
        subtree.place(&mut cx, &mut locked, &partition, &mut effects)?;
    }
    let seen = |root: PathBuf| {
        let partition = store.layout.partition(root.as_path());
        // Held from here on, so that every later change makes another root.
        let node = NodeArc::clone(locked.root_of(&partition)?);
        Some((root, node))
    };
    let partitions = roots.into_iter().filter_map(seen).collect();
    let seen = DomainSnapshot { domid, partitions, absent: None };
    let mut executed = store.record(&mut locked, None, &mut effects.changes, by);
    drop(locked);
    store.publisher.conclude(&mut executed, by);
    Ok((executed, seen))
}

/// Checks whether [`import_subtrees`] would succeed now. Cost: the same, but with shared locks.
///
/// # Errors
/// The error that it would return.
pub fn check_import(store: &Store, nodes: &[ImportedNode<'_>]) -> Result<(), ImportError> {
    let mut import = Import::build(store.layout, nodes, 0)?;
    let locked = Locked::take(&store.shards, &import.lock_set(store.layout, false));
    import.merge(&store.registry, &locked)
}

impl<'n> Import<'n> {
    /// Builds the partitions of `nodes`. Cost: a descent from the partition's root for each node.
    pub(super) fn build(
        layout: Layout,
        nodes: &'n [ImportedNode<'n>],
        generation: u64,
    ) -> Result<Import<'n>, ImportError> {
        let mut partitions: BTreeMap<PathBuf, ImportedPartition<'n>> = BTreeMap::new();
        for imported in nodes {
            let ImportedNode { path, perms, value } = imported;
            let occupied = || ImportError::Occupied((*path).clone());
            let loose = || ImportError::Loose((*path).clone());
            let here = path.as_path();
            let partition = layout.partition(here);
            let node = NodeArc::new(Node::new(Arc::clone(perms), generation, value));
            let boundary = (perms.owner(), here);
            if partition.root == here {
                let (nodes, boundaries) = (vec![(imported, None)], vec![boundary]);
                let subtree = ImportedPartition { root: node, nodes, boundaries };
                if partitions.insert((*path).clone(), subtree).is_some() {
                    return Err(occupied());
                }
                continue;
            }
            let subtree = partitions.get_mut(partition.root.bytes()).ok_or_else(loose)?;
            let parent = here.parent().unwrap_or(Path::ROOT);
            let above = get_mut(&mut subtree.root, &partition, parent).ok_or_else(loose)?;
            let owner_above = above.perms.owner();
            if owner_above != perms.owner() {
                subtree.boundaries.push(boundary);
            }
            if above.insert_child(generation, here.name(), Some(node)).is_some() {
                return Err(occupied());
            }
            subtree.nodes.push((imported, Some(owner_above)));
        }
        Ok(Import { nodes, partitions, generation })
    }

    /// Returns the locks of the partitions and of everything above them.
    fn lock_set(&self, layout: Layout, exclusive: bool) -> LockSet {
        let mut set = LockSet::default();
        for root in self.partitions.keys() {
            for path in std::iter::successors(Some(root.as_path()), |path| path.parent()) {
                // Everything above, because missing nodes there are created too.
                set.add(layout.partition(path).shard, exclusive);
            }
        }
        set
    }

    /// Checks that each node's owner is alive.
    pub(super) fn check_owners(&self, registry: &Registry) -> Result<(), ImportError> {
        let births = registry.births();
        let is_dead =
            |node: &&ImportedNode<'_>| !births.holds(node.perms.owner(), node.perms.stamp());
        match self.nodes.iter().find(is_dead) {
            Some(node) => Err(ImportError::NoOwner(node.path.clone(), node.perms.owner())),
            None => Ok(()),
        }
    }

    /// Checks that the partitions can be inserted, merges existing scaffolding into them, and drops those that exist
    /// already.
    fn merge(&mut self, registry: &Registry, locked: &Locked<'_>) -> Result<(), ImportError> {
        // Under the locks, so that no owner dies between this check and the sweep of its nodes.
        self.check_owners(registry)?;
        let births = registry.births();
        let mut present = Vec::new();
        for (path, subtree) in &mut self.partitions {
            let partition = locked.layout().partition(path.as_path());
            let Some(there) = locked.root_of(&partition) else { continue };
            if domain_of_partition(path.as_path()).is_none()
                && is_same(there, &subtree.root, births)
            {
                present.push(path.clone());
            } else {
                keep_scaffolding(&partition, there, &mut subtree.root, self.generation)?;
            }
        }
        present.iter().for_each(|path| drop(self.partitions.remove(path)));
        Ok(())
    }
}

impl ImportedPartition<'_> {
    /// Inserts the partition. The operation cannot fail: all locks are held, and the control domain has every right.
    fn place(
        self,
        cx: &mut Context<'_>,
        locked: &mut Locked<'_>,
        partition: &Partition<'_>,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        let parent = partition.root.parent().unwrap_or(Path::ROOT);
        mkdir(cx, locked, parent, effects)?;
        let replaced = locked.set_root(partition, Some(NodeArc::clone(&self.root)))?;
        // A partition that existed is in its parent's list already.
        if replaced.is_none() {
            let above = locked.layout().partition(parent);
            locked.name_partition(&above, parent, partition.root.name(), cx.generation)?;
        }
        self.charge(cx, locked, partition, (replaced.as_ref(), effects))
    }

    /// Charges the owners of an inserted partition's nodes, indexes the boundaries, and notes the changes. Scaffolding
    /// that was replaced is credited.
    pub(super) fn charge(
        self,
        cx: &mut Context<'_>,
        locked: &mut Locked<'_>,
        partition: &Partition<'_>,
        (replaced, effects): (Option<&NodeArc>, &mut Effects),
    ) -> Result<(), StoreError> {
        for (owner, path) in self.boundaries {
            locked.note_owned(partition, owner, path)?;
        }
        for (ImportedNode { path, perms, value }, above) in self.nodes {
            let here = path.as_path();
            // Scaffolding that the import replaces is the control domain's, which is charged for no index entry.
            if let Some(before) = find(replaced, partition, here).node() {
                cx.credit(&before.perms, 1, before.charge_bytes(here.name()));
            }
            let bytes = charge_bytes(perms, here.name(), value.len())
                + index_bytes(perms, here.bytes().len(), above);
            cx.recharge(perms, 1, bytes);
            effects.changed((*path).clone(), partition.shard, None, Arc::clone(perms));
        }
        Ok(())
    }
}

/// Returns whether two subtrees are equal, with the same rights for living domains. Without recursion, as guests
/// choose the depth.
fn is_same(one: &NodeArc, other: &NodeArc, births: &Births) -> bool {
    let means = |perms: &PermSet| -> Vec<(Entry, bool)> {
        let holds = |entry: &Entry| {
            !entry.ignored
                && (entry.domid == Domid::ANY || births.holds(entry.domid, perms.stamp()))
        };
        let entry = |entry: &Entry| (Entry { ignored: false, ..*entry }, holds(entry));
        perms.shown(births).map(entry).collect()
    };
    let mut todo = vec![(one, other)];
    while let Some((one, other)) = todo.pop() {
        let (ours, theirs) = (one.children(), other.children());
        if one.value() != other.value()
            || ours.len() != theirs.len()
            || means(&one.perms) != means(&other.perms)
        {
            return false;
        }
        // Both iterate in the order of the names, so equal sets are equal pair by pair.
        for ((name, child), (other_name, other_child)) in ours.iter().zip(theirs.iter()) {
            match (child, other_child) {
                (Some(child), Some(other)) if name == other_name => todo.push((child, other)),
                _ => return false,
            }
        }
    }
    true
}

/// Adds the scaffolding of the existing `there` to `root`, which replaces it. Without recursion, as guests choose the
/// depth.
fn keep_scaffolding(
    partition: &Partition<'_>,
    there: &NodeArc,
    root: &mut NodeArc,
    generation: u64,
) -> Result<(), ImportError> {
    let mut todo = vec![(partition.root.to_buf(), NodeArc::clone(there))];
    while let Some((path, node)) = todo.pop() {
        let here = path.as_path();
        // A leaf leads to no other partition, so it is content and not scaffolding.
        let is_end = here != partition.root && node.children().is_empty();
        if is_end || !node.value().is_empty() || node.perms.owner() != Domid::CONTROL {
            return Err(ImportError::Occupied(path));
        }
        if find(Some(root), partition, here).node().is_none() {
            // The parent exists: it was visited before.
            let parent = here.parent().and_then(|parent| get_mut(root, partition, parent));
            let kept = Node::new(Arc::clone(&node.perms), generation, b"");
            let kept = Some(NodeArc::new(kept));
            if let Some(parent) = parent {
                parent.insert_child(generation, here.name(), kept);
            }
        }
        for (name, child) in node.children().iter() {
            match child {
                Some(child) => todo.push((here.child(name.bytes()), NodeArc::clone(child))),
                None => {
                    // The other partition stays, and so must its name.
                    if let Some(node) = get_mut(root, partition, here) {
                        node.insert_child(generation, name.bytes(), None);
                    }
                }
            }
        }
    }
    Ok(())
}

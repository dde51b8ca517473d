//! A domain's partitions as an export or import saw them, from which later changes are detected.

use std::collections::BTreeSet;

use super::Store;
use super::forest::{LockSet, Locked};
use super::node::{Node, NodeArc};
use super::tree::Tree;
use crate::sync::Arc;
use crate::types::{Domid, PathBuf, PermSet};

/// A domain's partitions at one moment. While their roots are held, any change to one makes another root, so a
/// comparison of pointers misses none. Cost: writers must copy the nodes that they change.
pub struct DomainSnapshot {
    /// The domain's number.
    pub domid: Domid,
    /// The roots of the partitions with the domain's key, and of other partitions that belong to the domain.
    pub partitions: Vec<(PathBuf, NodeArc)>,
    /// The path of a partition that would belong to the domain, but did not exist. Its creation is a change too: the
    /// stream lacks a subtree that the domain then has.
    pub absent: Option<PathBuf>,
}

impl DomainSnapshot {
    /// Returns the domain's partitions in `trees`, a snapshot of the store ([`Store::snapshot_all`]). The caller adds
    /// partitions without the domain's key. Cost: their number.
    pub fn of(store: &Store, trees: &[Tree], domid: Domid) -> DomainSnapshot {
        let tree = trees.get(usize::from(store.layout.of_domain(domid).0));
        let partitions = tree.into_iter().flat_map(|tree| tree.partitions_of(domid));
        let partitions =
            partitions.map(|(root, node)| (root.clone(), NodeArc::clone(node))).collect();
        DomainSnapshot { domid, partitions, absent: None }
    }

    /// Returns a snapshot of another process, on this store's copy of the same nodes: the partitions in `unchanged` are as
    /// they are in `trees`, those in `changed` count as changed, whatever they become. Cost: their number.
    pub fn restored(
        store: &Store,
        trees: &[Tree],
        domid: Domid,
        (unchanged, changed, absent): (Vec<PathBuf>, Vec<PathBuf>, Option<PathBuf>),
    ) -> DomainSnapshot {
        let root_of = |root: PathBuf| {
            let partition = store.layout.partition(root.as_path());
            let tree = trees.get(usize::from(partition.shard.0))?;
            let node = NodeArc::clone(tree.root(&partition)?);
            Some((root, node))
        };
        // A node of no tree: none is equal to it.
        let perms = Arc::new(PermSet::control_only());
        let other = |root| (root, NodeArc::new(Node::new(Arc::clone(&perms), 0, b"")));
        let unchanged = unchanged.into_iter().filter_map(root_of);
        let partitions = unchanged.chain(changed.into_iter().map(other)).collect();
        DomainSnapshot { domid, partitions, absent }
    }

    /// Returns the roots of the partitions that have changed since, are gone, or are new. Cost: linear in the number of
    /// partitions, under the shared locks of their shards.
    pub fn changed_in(&self, store: &Store) -> Vec<PathBuf> {
        let of_domain = store.layout.of_domain(self.domid);
        // Also if no partition of the domain was seen: a new one with its key would be in this shard.
        let mut set = LockSet::one(of_domain, false);
        for root in self.partitions.iter().map(|(root, _)| root).chain(&self.absent) {
            set.add(store.layout.partition(root.as_path()).shard, false);
        }
        // All at once, so that there is a moment at which the whole domain is unchanged, not one for each partition.
        let locked = Locked::take(&store.shards, &set);
        let now = |root: &PathBuf| {
            let partition = store.layout.partition(root.as_path());
            locked.root_of(&partition)
        };
        let is_other = |(root, node): &&(PathBuf, NodeArc)| {
            !now(root).is_some_and(|now| NodeArc::ptr_eq(now, node))
        };
        // A set: with a search of the list RELEASE would be quadratic in the partitions.
        let was: BTreeSet<&PathBuf> = self.partitions.iter().map(|(root, _)| root).collect();
        let tree = locked.shard(of_domain).map(|shard| &shard.tree);
        let partitions = tree.into_iter().flat_map(|tree| tree.partitions_of(self.domid));
        let new = partitions.map(|(root, _)| root).filter(|root| !was.contains(root));
        let came = self.absent.iter().filter(|root| now(root).is_some());
        let changed = self.partitions.iter().filter(is_other).map(|(root, _)| root);
        changed.chain(new).chain(came).cloned().collect()
    }
}

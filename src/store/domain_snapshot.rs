//! A domain's partitions as an export or import saw them, from which later changes are detected.

use std::collections::BTreeSet;

use super::Store;
use super::forest::{LockSet, Locked};
use super::node::NodeArc;
use super::tree::Tree;
use crate::types::{Domid, PathBuf};

/// A domain's partitions at one moment. While their roots are held, any change to one makes another root, so a
/// comparison of pointers misses none. Cost: writers must copy the nodes that they change.
pub struct DomainSnapshot {
    /// The domain's number.
    pub domid: Domid,
    /// The roots of the partitions with the domain's key, and of other partitions that belong to the domain.
    pub partitions: Vec<(PathBuf, NodeArc)>,
    /// The path of a partition that would belong to the domain, but did not exist.
    pub absent: Option<PathBuf>,
}

impl Store {
    /// Returns the domain's partitions in `trees`, a snapshot of the store ([`Store::snapshot_all`]). The caller adds
    /// partitions without the domain's key. Cost: their number.
    pub fn domain_snapshot(&self, trees: &[Tree], domid: Domid) -> DomainSnapshot {
        let tree = trees.get(usize::from(self.layout.of_domain(domid).0));
        let partitions = tree.into_iter().flat_map(|tree| tree.partitions_of(domid));
        let partitions =
            partitions.map(|(root, node)| (root.clone(), NodeArc::clone(node))).collect();
        DomainSnapshot { domid, partitions, absent: None }
    }

    /// Returns the roots of the partitions that have changed since `seen`, are gone, or are new. Cost: linear in the
    /// number of partitions, under the shared locks of their shards.
    pub fn changed_since(&self, seen: &DomainSnapshot) -> Vec<PathBuf> {
        let of_domain = self.layout.of_domain(seen.domid);
        let mut set = LockSet::one(of_domain, false);
        for root in seen.partitions.iter().map(|(root, _)| root).chain(&seen.absent) {
            set.add(self.layout.partition(root.as_path()).shard, false);
        }
        let locked = Locked::take(self, &set);
        let now = |root: &PathBuf| {
            let partition = self.layout.partition(root.as_path());
            locked.root_of(&partition)
        };
        let is_other = |(root, node): &&(PathBuf, NodeArc)| {
            !now(root).is_some_and(|now| NodeArc::ptr_eq(now, node))
        };
        let was: BTreeSet<&PathBuf> = seen.partitions.iter().map(|(root, _)| root).collect();
        let tree = locked.shard(of_domain).map(|shard| &shard.tree);
        let partitions = tree.into_iter().flat_map(|tree| tree.partitions_of(seen.domid));
        let new = partitions.map(|(root, _)| root).filter(|root| !was.contains(root));
        let came = seen.absent.iter().filter(|root| now(root).is_some());
        let changed = seen.partitions.iter().filter(is_other).map(|(root, _)| root);
        changed.chain(new).chain(came).cloned().collect()
    }
}

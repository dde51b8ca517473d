//! A domain's partitions as an export or import saw them, from which later changes are detected.

use std::collections::BTreeSet;

use super::Store;
use super::forest::{LockSet, Locked};
use super::node::NodeArc;
use super::tree::Tree;
use crate::words::{Domid, PathBuf};

/// A domain's partitions at one moment. While their roots are held, any change to one makes another root, so a
/// comparison of pointers misses none. Cost: writers copy the nodes that differ.
pub struct DomainSnapshot {
    /// The domain's number.
    pub domid: Domid,
    /// The roots of the partitions with the domain's key, and of others that belong to it.
    pub homes: Vec<(PathBuf, NodeArc)>,
    /// The path of a partition that would belong to the domain, but did not exist.
    pub absent: Option<PathBuf>,
}

impl Store {
    /// Returns the domain's partitions in `trees`, a snapshot of the store ([`Store::cut`]). The caller adds
    /// partitions without the domain's key. Cost: their number.
    pub fn domain_snapshot(&self, trees: &[Tree], domid: Domid) -> DomainSnapshot {
        let tree = trees.get(usize::from(self.layout.of_domain(domid).0));
        let homes = tree.into_iter().flat_map(|tree| tree.homes_of(domid));
        let homes = homes.map(|(root, node)| (root.clone(), NodeArc::clone(node))).collect();
        DomainSnapshot { domid, homes, absent: None }
    }

    /// Returns the roots of the partitions that have changed since `seen`, are gone, or are new. Cost: their number,
    /// under the shared locks of their shards.
    pub fn changed_since(&self, seen: &DomainSnapshot) -> Vec<PathBuf> {
        let of_domain = self.layout.of_domain(seen.domid);
        let mut set = LockSet::one(of_domain, false);
        for root in seen.homes.iter().map(|(root, _)| root).chain(&seen.absent) {
            set.add(self.layout.home(root.as_path()).shard, false);
        }
        let locked = Locked::take(self, &set);
        let now = |root: &PathBuf| {
            let home = self.layout.home(root.as_path());
            locked.root_of(&home)
        };
        let is_other = |(root, node): &&(PathBuf, NodeArc)| {
            !now(root).is_some_and(|now| NodeArc::ptr_eq(now, node))
        };
        let was: BTreeSet<&PathBuf> = seen.homes.iter().map(|(root, _)| root).collect();
        let tree = locked.shard(of_domain).map(|shard| &shard.tree);
        let homes = tree.into_iter().flat_map(|tree| tree.homes_of(seen.domid));
        let new = homes.map(|(root, _)| root).filter(|root| !was.contains(root));
        let came = seen.absent.iter().filter(|root| now(root).is_some());
        let changed = seen.homes.iter().filter(is_other).map(|(root, _)| root);
        changed.chain(new).chain(came).cloned().collect()
    }
}

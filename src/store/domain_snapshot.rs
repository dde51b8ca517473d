//! The homes of a domain as an export or import saw them, from which changes can be told later.

use std::collections::BTreeSet;

use super::Store;
use super::forest::{LockSet, Locked};
use super::node::NodeArc;
use super::tree::Tree;
use crate::words::{Domid, PathBuf};

/// The homes of a domain at one moment. As long as it is kept, whoever changes one of them makes
/// another value, so that no change can be missed; the cost is the nodes that differ.
pub struct DomainSnapshot {
    /// The domain.
    pub domid: Domid,
    /// The homes with its key and what else belongs to it, each with its root.
    pub homes: Vec<(PathBuf, NodeArc)>,
    /// The root of a home that would belong to it too, if it were there.
    pub absent: Option<PathBuf>,
}

impl Store {
    /// The domain's homes in a cut of the store; what else belongs to it is the caller's to add.
    /// Cost: their number.
    pub fn domain_snapshot(&self, trees: &[Tree], domid: Domid) -> DomainSnapshot {
        let tree = trees.get(usize::from(self.layout.of_domain(domid).0));
        let homes = tree.into_iter().flat_map(|tree| tree.homes_of(domid));
        let homes = homes.map(|(root, node)| (root.clone(), NodeArc::clone(node))).collect();
        DomainSnapshot { domid, homes, absent: None }
    }

    /// The roots of the homes that are not now what was seen, that are gone, or that were not seen.
    /// Cost: their number, under the locks of the shards that they lie in.
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

//! The nodes of one shard, as a persistent value: a clone is a snapshot and shares everything.

use std::ops::Bound;

// `im` is imbl here, its maintained fork, since `im` itself has open soundness advisories (Cargo.toml).
use im::shared_ptr::DefaultSharedPtr;

use super::node::{Node, NodeArc};
use crate::types::{Domid, Partition, Path, PathBuf, domain_of_partition};

type Partitions =
    im::GenericHashMap<PathBuf, NodeArc, foldhash::fast::RandomState, DefaultSharedPtr>;

/// The partitions of one shard and the index of their owners.
#[derive(Clone, Default)]
pub struct Tree {
    partitions: Partitions,
    /// The boundaries: nodes of guests whose parent in the partition has another owner, and partition roots owned by
    /// guests. Removing the subtrees at a domain's boundaries removes all that it owns, as xenstore.txt requires at
    /// its death. Only boundaries are indexed, so a partition of a thousand nodes is one entry. An entry may name a
    /// removed path until its removal is settled.
    owned: im::OrdSet<(Domid, PathBuf)>,
    /// The roots of partitions with a domain's key, so that an export finds a domain's without a scan of all.
    of_domains: im::OrdSet<(Domid, PathBuf)>,
}

/// The result of a descent to a path.
pub enum Found<'t> {
    /// The node exists.
    Node(&'t NodeArc),
    /// The node does not exist. This is its nearest existing ancestor in the partition, with the length of that one's
    /// path; `None` if the partition does not exist.
    Missing(Option<(&'t NodeArc, usize)>),
}

impl<'t> Found<'t> {
    /// Returns the node, if it exists.
    pub fn node(self) -> Option<&'t NodeArc> {
        match self {
            Found::Node(node) => Some(node),
            Found::Missing(_) => None,
        }
    }
}

/// Finds `path`, which lies in `partition`, from the partition's root. Cost: the depth below the partition's root.
pub fn find<'t>(root: Option<&'t NodeArc>, partition: &Partition<'_>, path: Path<'_>) -> Found<'t> {
    let Some(mut node) = root else { return Found::Missing(None) };
    let mut reached = partition.root.bytes().len();
    for name in names_below(partition, path) {
        match node.children().get(name) {
            Some(Some(child)) => node = child,
            _ => return Found::Missing(Some((node, reached))),
        }
        // `/` already ends with the slash that other paths need before the next name.
        reached += name.len() + usize::from(reached > 1);
    }
    Found::Node(node)
}

/// Returns the node at `path`, which lies in `partition`, for changing. Copy-on-write: a node on the way that a
/// snapshot holds is copied, an unshared one is changed in place.
pub fn get_mut<'t>(
    root: &'t mut NodeArc,
    partition: &Partition<'_>,
    path: Path<'_>,
) -> Option<&'t mut Node> {
    let mut node = NodeArc::make_mut(root);
    for name in names_below(partition, path) {
        node = NodeArc::make_mut(node.child_mut(name)?.as_mut()?);
    }
    Some(node)
}

/// Like [`get_mut`], but adds the bytes of the copies to `copied_bytes`. The originals stay in memory with the
/// snapshots that hold them, and no account is charged for them.
pub fn get_mut_counted<'t>(
    root: &'t mut NodeArc,
    partition: &Partition<'_>,
    path: Path<'_>,
    copied_bytes: &mut usize,
) -> Option<&'t mut Node> {
    let mut own = |node: &'t mut NodeArc| {
        let mut shared_bytes = 0;
        // A snapshot dropped between this check and `make_mut` is counted although nothing is copied: the sum errs only
        // upwards, as the caller holds the exclusive lock or the transaction, so no snapshot can be taken meanwhile.
        if !NodeArc::is_unique(node) {
            *copied_bytes += node.copy_bytes();
            shared_bytes = node.shared_bytes();
        }
        (NodeArc::make_mut(node), shared_bytes)
    };
    let (mut node, mut shared_bytes) = own(root);
    for name in names_below(partition, path) {
        (node, shared_bytes) = own(node.child_mut(name)?.as_mut()?);
    }
    // The value is shared until the caller replaces it, which it may do now.
    *copied_bytes += shared_bytes;
    Some(node)
}

/// Returns the owner of the parent of `path`; `None` if `path` is the partition's root or the parent does not exist. If
/// the parent's owner differs from the node's owner, the node is a boundary.
pub fn owner_above(
    root: Option<&NodeArc>,
    partition: &Partition<'_>,
    path: Path<'_>,
) -> Option<Domid> {
    let parent = path.parent().filter(|_| partition.root != path)?;
    find(root, partition, parent).node().map(|parent| parent.perms.owner())
}

impl Tree {
    /// Returns the root of a partition.
    pub fn root(&self, partition: &Partition<'_>) -> Option<&NodeArc> {
        self.partitions.get(partition.root.bytes())
    }

    /// Returns the root of a partition for changing nodes below it.
    pub fn root_mut(&mut self, partition: &Partition<'_>) -> Option<&mut NodeArc> {
        self.partitions.get_mut(partition.root.bytes())
    }

    /// Sets or removes the root of a partition and returns the former one. Cost: logarithmic in the number of
    /// partitions.
    pub fn set_root(&mut self, at: Path<'_>, root: Option<NodeArc>) -> Option<NodeArc> {
        let Some(root) = root else {
            let (path, replaced) = self.partitions.remove_with_key(at.bytes())?;
            if let Some(domid) = domain_of_partition(at) {
                self.of_domains.remove(&(domid, path));
            }
            return Some(replaced);
        };
        if let Some(known) = self.partitions.get_mut(at.bytes()) {
            // The key stays, so a commit allocates no path, and the index of owners goes on sharing the existing one.
            return Some(std::mem::replace(known, root));
        }
        let path = at.to_buf();
        if let Some(domid) = domain_of_partition(at) {
            self.of_domains.insert((domid, path.clone()));
        }
        self.partitions.insert(path, root)
    }

    /// Returns the node at `path`, which lies in `partition`. Cost: the depth below the partition's root.
    pub fn get(&self, partition: &Partition<'_>, path: Path<'_>) -> Option<&NodeArc> {
        find(self.root(partition), partition, path).node()
    }

    /// Returns the roots of all partitions, in no order.
    pub fn partitions(&self) -> impl Iterator<Item = (&PathBuf, &NodeArc)> {
        self.partitions.iter()
    }

    /// Returns the partitions with a domain's key, in the order of their roots. Cost: for each returned partition,
    /// logarithmic in the number of all partitions.
    pub fn partitions_of(&self, domid: Domid) -> impl Iterator<Item = (&PathBuf, &NodeArc)> {
        // `/` sorts before every other path.
        let of_it = self.of_domains.range((domid, Path::ROOT.to_buf())..);
        let roots = of_it.take_while(move |(of, _)| *of == domid).map(|(_, root)| root);
        roots.filter_map(|root| self.partitions.get_key_value(root))
    }

    /// Returns the index of domains' partitions, for the consistency check.
    pub fn of_domains(&self) -> impl Iterator<Item = &(Domid, PathBuf)> {
        self.of_domains.iter()
    }

    /// Adds the boundary of `owner` at `path` to the index. The control domain's are not indexed: it never dies. A
    /// partition root that exists shares the path with the table of partitions, as its owner is charged for one.
    pub fn note_owned(&mut self, owner: Domid, path: Path<'_>) {
        if owner != Domid::CONTROL {
            let root = self.partitions.get_key_value(path.bytes()).map(|(root, _)| root.clone());
            self.owned.insert((owner, root.unwrap_or_else(|| path.to_buf())));
        }
    }

    /// Removes a boundary from the index.
    pub fn forget_owned(&mut self, owner: Domid, path: Path<'_>) {
        if owner != Domid::CONTROL {
            self.owned.remove(&(owner, path.to_buf()));
        }
    }

    /// Returns `owner`'s first boundary after `path`, or its first of all. Cost: logarithmic in the size of the
    /// index.
    pub fn owned_after(&self, owner: Domid, path: Option<&PathBuf>) -> Option<PathBuf> {
        let from = match path {
            Some(path) => Bound::Excluded((owner, path.clone())),
            // `/` sorts before every other path of the index, special ones included.
            None => Bound::Included((owner, Path::ROOT.to_buf())),
        };
        let (domid, path) = self.owned.range((from, Bound::Unbounded)).next()?;
        (*domid == owner).then(|| path.clone())
    }

    /// Returns the index of owners, for the consistency check.
    pub fn owned(&self) -> impl Iterator<Item = &(Domid, PathBuf)> {
        self.owned.iter()
    }
}

/// Returns the names between a partition's root and `path`, which lies in `partition`. The caller guarantees that, so
/// the root's bytes are not compared again.
fn names_below<'p>(partition: &Partition<'_>, path: Path<'p>) -> impl Iterator<Item = &'p [u8]> {
    debug_assert!(path.is_within(partition.root), "{path} is not in {}", partition.root);
    let below = path.bytes().get(partition.root.bytes().len()..).unwrap_or_default();
    below.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}

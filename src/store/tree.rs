//! The nodes of one shard: a value that can be copied at no cost, which is what a snapshot is.

use std::ops::Bound;

use im::shared_ptr::DefaultSharedPtr;

use super::node::{Node, NodeArc};
use crate::words::{Domid, Home, Path, PathBuf, domain_of_home};

type Homes = im::GenericHashMap<PathBuf, NodeArc, foldhash::fast::RandomState, DefaultSharedPtr>;

/// The homes of one shard, or the spine, and the index of their owners.
#[derive(Clone, Default)]
pub struct Tree {
    homes: Homes,
    /// The topmost nodes of each guest: those it owns whose parent it does not own, and every root
    /// of a home that it owns. Removing these removes all it owns, as xenstore.txt asks at its
    /// death. May name a path that is gone while the removal of it is being settled.
    owned: im::OrdSet<(Domid, PathBuf)>,
    /// The roots of the homes with a domain's key: a domain that moves is found without a look at
    /// the others.
    of_domains: im::OrdSet<(Domid, PathBuf)>,
}

/// The outcome of a descent to a path.
pub enum Found<'t> {
    /// The node is there.
    Node(&'t NodeArc),
    /// It is not; the deepest existing node above it in this home, with the length of its path.
    /// `None` if even the home's root is missing.
    Missing(Option<(&'t NodeArc, usize)>),
}

impl<'t> Found<'t> {
    /// The node, if it is there.
    pub fn node(self) -> Option<&'t NodeArc> {
        match self {
            Found::Node(node) => Some(node),
            Found::Missing(_) => None,
        }
    }
}

/// Looks for `path`, which lies in `home`, below that home's root. Cost: the depth below it.
pub fn find<'t>(root: Option<&'t NodeArc>, home: &Home<'_>, path: Path<'_>) -> Found<'t> {
    let Some(mut node) = root else { return Found::Missing(None) };
    let mut reached = home.root.bytes().len();
    for name in names_below(home, path) {
        match node.children().get(name) {
            Some(Some(child)) => node = child,
            _ => return Found::Missing(Some((node, reached))),
        }
        reached += name.len() + usize::from(reached > 1);
    }
    Found::Node(node)
}

/// The node at `path`, which lies in `home`, to be changed: in place where nobody else holds it,
/// else as copies of the nodes on the way to it.
pub fn get_mut<'t>(root: &'t mut NodeArc, home: &Home<'_>, path: Path<'_>) -> Option<&'t mut Node> {
    let mut node = NodeArc::make_mut(root);
    for name in names_below(home, path) {
        node = NodeArc::make_mut(node.child_mut(name)?.as_mut()?);
    }
    Some(node)
}

/// As [`get_mut`], and adds up what the copies take, in bytes: what is copied stays with the snapshots that
/// keep it.
pub fn get_mut_counted<'t>(
    root: &'t mut NodeArc,
    home: &Home<'_>,
    path: Path<'_>,
    copied_bytes: &mut usize,
) -> Option<&'t mut Node> {
    let mut own = |node: &'t mut NodeArc| {
        let mut shared_bytes = 0;
        if !NodeArc::is_unique(node) {
            *copied_bytes += node.copy_bytes();
            shared_bytes = node.shared_bytes();
        }
        (NodeArc::make_mut(node), shared_bytes)
    };
    let (mut node, mut shared_bytes) = own(root);
    for name in names_below(home, path) {
        (node, shared_bytes) = own(node.child_mut(name)?.as_mut()?);
    }
    // It may get another value.
    *copied_bytes += shared_bytes;
    Some(node)
}

/// The owner of the node above `path` in its home; none for the home's root. Nodes of all other owners begin at
/// `path`, should one of these own it.
pub fn owner_above(root: Option<&NodeArc>, home: &Home<'_>, path: Path<'_>) -> Option<Domid> {
    let parent = path.parent().filter(|_| home.root != path)?;
    find(root, home, parent).node().map(|parent| parent.perms.owner())
}

impl Tree {
    /// The root of a home.
    pub fn root(&self, home: &Home<'_>) -> Option<&NodeArc> {
        self.homes.get(home.root.bytes())
    }

    /// The root of a home, to change what is below it.
    pub fn root_mut(&mut self, home: &Home<'_>) -> Option<&mut NodeArc> {
        self.homes.get_mut(home.root.bytes())
    }

    /// Puts a root in place, or takes it away; answers the one that was there.
    pub fn set_root(&mut self, at: Path<'_>, root: Option<NodeArc>) -> Option<NodeArc> {
        let is_there = root.is_some();
        let path = at.to_buf();
        let replaced = match root {
            Some(root) => self.homes.insert(path.clone(), root),
            None => self.homes.remove(at.bytes()),
        };
        if is_there != replaced.is_some()
            && let Some(domid) = domain_of_home(at)
        {
            let root = (domid, path);
            if is_there {
                self.of_domains.insert(root)
            } else {
                self.of_domains.remove(&root)
            };
        }
        replaced
    }

    /// The node at `path`, which lies in `home`. Cost: the depth below the home.
    pub fn get(&self, home: &Home<'_>, path: Path<'_>) -> Option<&NodeArc> {
        find(self.root(home), home, path).node()
    }

    /// The roots of all homes, in no order.
    pub fn homes(&self) -> impl Iterator<Item = (&PathBuf, &NodeArc)> {
        self.homes.iter()
    }

    /// The homes with a domain's key, in the order of their roots. Cost: their number, each
    /// logarithmic in that of all.
    pub fn homes_of(&self, domid: Domid) -> impl Iterator<Item = (&PathBuf, &NodeArc)> {
        let of_it = self.of_domains.range((domid, Path::ROOT.to_buf())..);
        let roots = of_it.take_while(move |(of, _)| *of == domid).map(|(_, root)| root);
        roots.filter_map(|root| self.homes.get_key_value(root))
    }

    /// The whole index of domains' homes.
    pub fn of_domains(&self) -> impl Iterator<Item = &(Domid, PathBuf)> {
        self.of_domains.iter()
    }

    /// Notes that `owner`'s nodes begin at `path`. The control domain's are not indexed. A home's root shares its
    /// path with the table of homes, if it is there already: it is charged with it once.
    pub fn note_owned(&mut self, owner: Domid, path: Path<'_>) {
        if owner != Domid::CONTROL {
            let root = self.homes.get_key_value(path.bytes()).map(|(root, _)| root.clone());
            self.owned.insert((owner, root.unwrap_or_else(|| path.to_buf())));
        }
    }

    /// Takes such a note back.
    pub fn forget_owned(&mut self, owner: Domid, path: Path<'_>) {
        if owner != Domid::CONTROL {
            self.owned.remove(&(owner, path.to_buf()));
        }
    }

    /// The first place after `path`, or of all, where nodes of `owner` begin. Cost: logarithmic in
    /// the size of the index.
    pub fn owned_after(&self, owner: Domid, path: Option<&PathBuf>) -> Option<PathBuf> {
        let from = match path {
            Some(path) => Bound::Excluded((owner, path.clone())),
            // "/" sorts before every other path that can be there, special ones included.
            None => Bound::Included((owner, Path::ROOT.to_buf())),
        };
        let (domid, path) = self.owned.range((from, Bound::Unbounded)).next()?;
        (*domid == owner).then(|| path.clone())
    }

    /// The whole index of owners.
    pub fn owned(&self) -> impl Iterator<Item = &(Domid, PathBuf)> {
        self.owned.iter()
    }
}

/// The names on the way from a home's root to `path`, which lies in `home`: its bytes are not compared
/// with the root's again.
fn names_below<'p>(home: &Home<'_>, path: Path<'p>) -> impl Iterator<Item = &'p [u8]> {
    debug_assert!(path.is_within(home.root), "{path} is not in {}", home.root);
    let below = path.bytes().get(home.root.bytes().len()..).unwrap_or_default();
    below.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}

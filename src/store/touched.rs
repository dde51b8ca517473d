//! The homes of a transaction: each as it was when first touched, and as the transaction sees it.

use foldhash::fast::RandomState;
use indexmap::IndexMap;

use super::Shard;
use super::forest::{LockSet, Locked};
use super::node::{Node, NodeArc};
use super::pins::Pin;
use super::tree::{find, get_mut_counted};
use crate::sync::Arc;
use crate::words::{Domid, Home, Path, PathBuf, Perms, ShardId};

/// Homes by their roots, in the order in which they were first touched.
#[derive(Default)]
pub struct TouchedHomes {
    homes: IndexMap<PathBuf, Touched, RandomState>,
    /// Where the one is that was touched last: most requests are about the home of the one before.
    last: usize,
    /// What the copies of nodes take that were made to change them, and the paths of homes.
    copied_bytes: usize,
}

/// A home of a transaction.
pub struct Touched {
    shard: ShardId,
    /// The root when it was first touched. As long as it is held nobody changes it in place: who has
    /// the same root has the same home.
    base: Option<NodeArc>,
    /// The root as the transaction sees it.
    root: Option<NodeArc>,
    usage: Usage,
    /// Changes of the index of owners, in their order.
    index: Vec<(Change, Domid, PathBuf)>,
    /// What the copies take that were made to name homes, in bytes.
    named_bytes: usize,
    _pin: Pin,
}

/// What a transaction did with a home.
enum Usage {
    /// It only depends on some nodes being there with these permissions, and gave some of them
    /// children that are homes of their own. So does everybody who makes a domain, in the directories
    /// in which all are named; the names of others do not concern it.
    Names { seen: Vec<(PathBuf, Perms)>, named: Vec<Named> },
    /// It may depend on all of it.
    Reads,
    /// And changed it.
    Writes,
}

/// The name of a home in its parent.
pub struct Named {
    /// The parent's path.
    pub parent: PathBuf,
    /// The name.
    pub name: Box<[u8]>,
    /// The parent's generation then.
    pub generation: u64,
}

/// What becomes of a note in the index of owners.
#[derive(Clone, Copy)]
pub enum Change {
    /// It is made.
    Noted,
    /// It is taken back.
    Forgotten,
}

impl Touched {
    /// A home that nothing of was seen yet.
    pub fn new(shard: ShardId, root: Option<NodeArc>, pin: Pin) -> Touched {
        let usage = Usage::Names { seen: Vec::new(), named: Vec::new() };
        let (base, index, named_bytes) = (root.clone(), Vec::new(), 0);
        Touched { shard, base, root, usage, index, named_bytes, _pin: pin }
    }

    /// The root, of which from here on anything may be seen.
    pub fn read(&mut self, home: &Home<'_>) -> &Option<NodeArc> {
        if let Usage::Names { named, .. } = &mut self.usage {
            let named = std::mem::take(named);
            self.usage = if named.is_empty() { Usage::Reads } else { Usage::Writes };
            if let Some(root) = &mut self.root {
                Named::put(&named, root, home, &mut self.named_bytes);
            }
        }
        &self.root
    }

    /// The root, to be changed.
    pub fn write(&mut self, home: &Home<'_>) -> &mut Option<NodeArc> {
        self.read(home);
        self.usage = Usage::Writes;
        &mut self.root
    }

    /// Notes a change of the index of owners, to be made when the transaction commits.
    fn index(&mut self, home: &Home<'_>, change: Change, owner: Domid, path: PathBuf) {
        self.write(home);
        self.index.push((change, owner, path));
    }

    /// Looks at nothing but the permissions of a node; that one is missing cannot be seen so.
    pub fn perms(&mut self, home: &Home<'_>, path: Path<'_>) -> Option<Perms> {
        let Some(node) = find(self.root.as_ref(), home, path).node() else {
            self.read(home);
            return None;
        };
        let perms = Arc::clone(&node.perms);
        if let Usage::Names { seen, .. } = &mut self.usage
            && !seen.iter().any(|(other, _)| other.as_path() == path)
        {
            seen.push((path.to_buf(), Arc::clone(&perms)));
        }
        Some(perms)
    }

    /// Names a home in its parent, which is in this home.
    pub fn name(&mut self, home: &Home<'_>, mut named: Named) {
        if let Usage::Names { named: names, .. } = &mut self.usage {
            // Who makes many homes makes them in few directories.
            if let Some(last) = names.last().filter(|last| last.parent == named.parent) {
                named.parent.clone_from(&last.parent);
            }
            names.push(named);
            return;
        }
        self.usage = Usage::Writes;
        if let Some(root) = &mut self.root {
            Named::put(&[named], root, home, &mut self.named_bytes);
        }
    }

    /// Whether the home, whose root is `root` now, would answer what it answered.
    fn is_current(&self, root: Option<&NodeArc>, home: &Home<'_>) -> bool {
        match (root, &self.base, &self.usage) {
            (Some(root), Some(base), _) if NodeArc::ptr_eq(root, base) => true,
            (None, None, _) => true,
            (_, _, Usage::Names { seen, .. }) => seen.iter().all(|(path, perms)| {
                let node = find(root, home, path.as_path()).node();
                node.is_some_and(|node| Arc::ptr_eq(&node.perms, perms))
            }),
            _ => false,
        }
    }

    fn is_written(&self) -> bool {
        match &self.usage {
            Usage::Names { named, .. } => !named.is_empty(),
            Usage::Reads => false,
            Usage::Writes => true,
        }
    }
}

impl Named {
    /// Gives the nodes below `root` these children.
    fn put(names: &[Named], root: &mut NodeArc, home: &Home<'_>, copied_bytes: &mut usize) {
        for Named { parent, name, generation } in names {
            if let Some(node) = get_mut_counted(root, home, parent.as_path(), copied_bytes) {
                node.insert_child(*generation, name, None);
            }
        }
    }
}

impl TouchedHomes {
    /// A home; if it is touched for the first time, what `take` answers. Cost: constant.
    pub fn touch(
        &mut self,
        home: &Home<'_>,
        take: impl FnOnce() -> Touched,
    ) -> Option<&mut Touched> {
        let root = home.root;
        let is_last = self.homes.get_index(self.last).is_some_and(|(at, _)| at.as_path() == root);
        if !is_last {
            self.last = match self.homes.get_index_of(root.bytes()) {
                Some(at) => at,
                None => {
                    self.copied_bytes += root.bytes().len();
                    self.homes.insert_full(root.to_buf(), take()).0
                }
            };
        }
        self.homes.get_index_mut(self.last).map(|(_, touched)| touched)
    }

    /// The node at `path`, which lies in the home that was touched last, to be changed. What a copy takes is
    /// counted.
    pub fn node_mut(&mut self, home: &Home<'_>, path: Path<'_>) -> Option<&mut Node> {
        let (_, touched) = self.homes.get_index_mut(self.last)?;
        let root = touched.write(home).as_mut()?;
        get_mut_counted(root, home, path, &mut self.copied_bytes)
    }

    /// Notes a change of the index of owners in the home that was touched last, to be made when the transaction
    /// commits.
    pub fn index(&mut self, home: &Home<'_>, change: Change, owner: Domid, path: Path<'_>) {
        let Some((root, touched)) = self.homes.get_index_mut(self.last) else { return };
        let path = if root.as_path() == path { root.clone() } else { path.to_buf() };
        touched.index(home, change, owner, path);
    }

    /// The node at `path`, which lies in `home`, as the transaction sees it.
    pub fn node(&self, home: &Home<'_>, path: Path<'_>) -> Option<&NodeArc> {
        let touched = self.homes.get(home.root.bytes())?;
        find(touched.root.as_ref(), home, path).node()
    }

    /// What the copies of nodes take that were made to change them, and the paths of homes, in bytes.
    pub fn copied_bytes(&self) -> usize {
        self.copied_bytes
    }

    /// The root of a home that is not what it was when first touched, if there is one.
    pub fn changed_home(&self, locked: &Locked<'_>) -> Option<&PathBuf> {
        let is_changed = |(path, touched): &(&PathBuf, &Touched)| {
            let home = Home { shard: touched.shard, root: path.as_path() };
            !touched.is_current(locked.root_of(&home), &home)
        };
        self.homes.iter().find(is_changed).map(|(path, _)| path)
    }

    /// The locks that a commit needs: shared where it only looked. Cost: the homes.
    pub fn lock_set(&self) -> LockSet {
        let mut set = LockSet::default();
        for home in self.homes.values() {
            set.add(home.shard, home.is_written());
        }
        set
    }

    /// Whether every home is still what it was when first touched, as far as it matters. Cost: a
    /// lookup for each.
    pub fn are_current(&self, locked: &Locked<'_>) -> bool {
        self.changed_home(locked).is_none()
    }

    /// Puts what was written into the store. What it was remains here, so nothing is freed. Cost: the
    /// homes, the names, and the changes of the index of owners.
    pub fn swap_in(&mut self, locked: &mut Locked<'_>) {
        let mut copied_bytes = self.copied_bytes;
        for (path, touched) in &mut self.homes {
            let home = Home { shard: touched.shard, root: path.as_path() };
            let Some(Shard { tree, pins, .. }) = locked.shard_mut(touched.shard) else { continue };
            match &touched.usage {
                Usage::Names { named, .. } if !named.is_empty() => {
                    if let Some(root) = tree.root_mut(&home) {
                        Named::put(named, root, &home, &mut copied_bytes);
                    }
                }
                Usage::Names { .. } | Usage::Reads => {}
                Usage::Writes => drop(tree.set_root(home.root, touched.root.take())),
            }
            // Other transactions may keep what this one replaced. Which shard counts it makes no difference.
            pins.replaced((std::mem::take(&mut copied_bytes) + touched.named_bytes) as u64);
            for (change, owner, path) in touched.index.drain(..) {
                match change {
                    Change::Noted => tree.note_owned(owner, path.as_path()),
                    Change::Forgotten => tree.forget_owned(owner, path.as_path()),
                }
            }
        }
    }

    /// All homes.
    pub fn homes(&self) -> impl Iterator<Item = Home<'_>> {
        self.homes.iter().map(|(path, touched)| Home { shard: touched.shard, root: path.as_path() })
    }

    /// The root of a home when it was first touched, if it was.
    pub fn base(&self, home: &Home<'_>) -> Option<Option<&NodeArc>> {
        self.homes.get(home.root.bytes()).map(|touched| touched.base.as_ref())
    }
}

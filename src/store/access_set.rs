//! The partitions that a transaction accessed: each as it was at first access, and as the transaction sees it.

use foldhash::fast::RandomState;
use indexmap::IndexMap;

use super::forest::{LockSet, Locked};
use super::node::{Node, NodeArc};
use super::pins::Pin;
use super::shards::Shard;
use super::tree::{find, get_mut_counted};
use crate::sync::Arc;
use crate::types::{Domid, Partition, Path, PathBuf, Perms, ShardId};

/// A transaction's partitions by root path, in the order of first access.
#[derive(Default)]
pub struct AccessSet {
    // Entries are never removed, so the index `last` stays valid.
    partitions: IndexMap<PathBuf, TouchedPartition, RandomState>,
    /// The index of the partition accessed last: consecutive requests mostly concern the same one, which then takes a
    /// comparison instead of a hash.
    last: usize,
    /// The bytes of the copied nodes and of the partitions' paths, which the transaction's owner is charged for.
    copied_bytes: usize,
}

/// A transaction's snapshot of a partition and its copy.
pub struct TouchedPartition {
    shard: ShardId,
    /// The root at first access. While it is held, no writer changes it in place, so END compares pointers: the same
    /// root is the same partition. (A freed root's address could be reused; a held one's cannot.)
    base: Option<NodeArc>,
    /// The root as the transaction sees it: copies of changed nodes, the rest shared with `base`.
    root: Option<NodeArc>,
    usage: Usage,
    /// Changes of the index of owners, in order, applied at the commit. They are not part of `root`, since other
    /// commits and settlements change the shard's index meanwhile.
    index: Vec<(Change, Domid, PathBuf)>,
    /// The bytes of the nodes that were copied to add names of partitions.
    named_bytes: usize,
    // Dropped with `base`, so the shard counts the partition for as long as its snapshot keeps nodes in memory.
    _pin: Pin,
}

/// The dependence of a transaction on a partition. The value only ever changes to a later variant.
enum Usage {
    /// The transaction depends only on the existence and the permissions of these nodes, and added names of partitions
    /// to some. Every transaction that creates a domain does that in the directories that hold all domains; other
    /// clients' names there do not conflict with it.
    Names { seen: Vec<(PathBuf, Perms)>, named: Vec<Named> },
    /// The transaction may depend on any node of the partition.
    Reads,
    /// The transaction may depend on any node of the partition, and changed some.
    Writes,
}

/// A partition's name, to be added to its parent.
pub struct Named {
    /// The parent's path.
    pub parent: PathBuf,
    /// The name.
    pub name: Box<[u8]>,
    /// The generation that the parent gets.
    pub generation: u64,
}

/// A change of the index of owners.
#[derive(Clone, Copy)]
pub enum Change {
    /// The boundary is added.
    Noted,
    /// The boundary is removed.
    Forgotten,
}

impl TouchedPartition {
    /// Creates the record of a partition from which nothing was read yet.
    pub fn new(shard: ShardId, root: Option<NodeArc>, pin: Pin) -> TouchedPartition {
        let usage = Usage::Names { seen: Vec::new(), named: Vec::new() };
        // The second reference makes the first change copy the root, so `base` stays what END compares.
        let (base, index, named_bytes) = (root.clone(), Vec::new(), 0);
        TouchedPartition { shard, base, root, usage, index, named_bytes, _pin: pin }
    }

    /// Returns the root; from here on the transaction may depend on any node below it.
    pub fn read(&mut self, partition: &Partition<'_>) -> &Option<NodeArc> {
        if let Usage::Names { named, .. } = &mut self.usage {
            // From here on the transaction sees the names that it added itself.
            let named = std::mem::take(named);
            self.usage = if named.is_empty() { Usage::Reads } else { Usage::Writes };
            if let Some(root) = &mut self.root {
                Named::put(&named, root, partition, &mut self.named_bytes);
            }
        }
        &self.root
    }

    /// Returns the root for changing.
    pub fn write(&mut self, partition: &Partition<'_>) -> &mut Option<NodeArc> {
        self.read(partition);
        self.usage = Usage::Writes;
        &mut self.root
    }

    /// Records a change of the index of owners for the commit.
    fn index(&mut self, partition: &Partition<'_>, change: Change, owner: Domid, path: PathBuf) {
        // The index is part of the shard's tree: without the exclusive lock of a written partition `swap_in` would skip
        // it.
        self.write(partition);
        self.index.push((change, owner, path));
    }

    /// Returns a node's permissions and records a dependence on only these. The absence of a node cannot be recorded in
    /// this way; the transaction then depends on the whole partition.
    pub fn perms(&mut self, partition: &Partition<'_>, path: Path<'_>) -> Option<Perms> {
        let Some(node) = find(self.root.as_ref(), partition, path).node() else {
            self.read(partition);
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

    /// Adds the name of another partition to its parent, which is in this partition.
    pub fn name(&mut self, partition: &Partition<'_>, mut named: Named) {
        if let Usage::Names { named: names, .. } = &mut self.usage {
            // A transaction that creates many partitions does so in few directories, so names share the parent's
            // path.
            if let Some(last) = names.last().filter(|last| last.parent == named.parent) {
                named.parent.clone_from(&last.parent);
            }
            names.push(named);
            return;
        }
        self.usage = Usage::Writes;
        if let Some(root) = &mut self.root {
            Named::put(&[named], root, partition, &mut self.named_bytes);
        }
    }

    /// Returns whether the partition, whose current root is `root`, would still give the replies that it gave.
    fn is_current(&self, root: Option<&NodeArc>, partition: &Partition<'_>) -> bool {
        match (root, &self.base, &self.usage) {
            (Some(root), Some(base), _) if NodeArc::ptr_eq(root, base) => true,
            // Even if the partition existed in between: the transaction saw none.
            (None, None, _) => true,
            (_, _, Usage::Names { seen, .. }) => seen.iter().all(|(path, perms)| {
                let node = find(root, partition, path.as_path()).node();
                // By pointer: permissions that were set to an equal value only cost a replay.
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
    /// Adds these names to the nodes below `root`.
    fn put(
        names: &[Named],
        root: &mut NodeArc,
        partition: &Partition<'_>,
        copied_bytes: &mut usize,
    ) {
        for Named { parent, name, generation } in names {
            if let Some(node) = get_mut_counted(root, partition, parent.as_path(), copied_bytes) {
                node.insert_child(*generation, name, None);
            }
        }
    }
}

impl AccessSet {
    /// Returns a partition's record; `take` creates it at first access. Cost: constant.
    pub fn touch(
        &mut self,
        partition: &Partition<'_>,
        take: impl FnOnce() -> TouchedPartition,
    ) -> Option<&mut TouchedPartition> {
        let root = partition.root;
        let is_last =
            self.partitions.get_index(self.last).is_some_and(|(at, _)| at.as_path() == root);
        if !is_last {
            self.last = match self.partitions.get_index_of(root.bytes()) {
                Some(at) => at,
                // Charged, as guests choose how long a partition's path is.
                None => {
                    self.copied_bytes += root.bytes().len();
                    self.partitions.insert_full(root.to_buf(), take()).0
                }
            };
        }
        self.partitions.get_index_mut(self.last).map(|(_, touched)| touched)
    }

    /// Returns a mutable reference to the node at `path`, which lies in the partition accessed last, and counts the
    /// bytes of the copies that this needs.
    pub fn node_mut(&mut self, partition: &Partition<'_>, path: Path<'_>) -> Option<&mut Node> {
        let (_, touched) = self.partitions.get_index_mut(self.last)?;
        let root = touched.write(partition).as_mut()?;
        get_mut_counted(root, partition, path, &mut self.copied_bytes)
    }

    /// Records a change of the index of owners for the commit, in the partition accessed last.
    pub fn index(
        &mut self,
        partition: &Partition<'_>,
        change: Change,
        owner: Domid,
        path: Path<'_>,
    ) {
        let Some((root, touched)) = self.partitions.get_index_mut(self.last) else { return };
        let path = if root.as_path() == path { root.clone() } else { path.to_buf() };
        touched.index(partition, change, owner, path);
    }

    /// Returns the node at `path`, which lies in `partition`, as the transaction sees it.
    pub fn node(&self, partition: &Partition<'_>, path: Path<'_>) -> Option<&NodeArc> {
        let touched = self.partitions.get(partition.root.bytes())?;
        find(touched.root.as_ref(), partition, path).node()
    }

    /// Returns the size of the copied nodes and of the partitions' paths, in bytes.
    pub fn copied_bytes(&self) -> usize {
        self.copied_bytes
    }

    /// Returns the root of the first partition that has changed since its first access in a way on which the
    /// transaction depends.
    pub fn changed_partition(&self, locked: &Locked<'_>) -> Option<&PathBuf> {
        let is_changed = |(path, touched): &(&PathBuf, &TouchedPartition)| {
            let partition = Partition { shard: touched.shard, root: path.as_path() };
            !touched.is_current(locked.root_of(&partition), &partition)
        };
        self.partitions.iter().find(is_changed).map(|(path, _)| path)
    }

    /// Returns the locks that a commit needs: shared for a partition that was only read. Cost: the partitions.
    pub fn lock_set(&self) -> LockSet {
        let mut set = LockSet::default();
        for partition in self.partitions.values() {
            set.add(partition.shard, partition.is_written());
        }
        set
    }

    /// Returns whether no partition has changed since its first access in a way on which the transaction depends. Cost:
    /// a look-up for each partition.
    pub fn are_current(&self, locked: &Locked<'_>) -> bool {
        self.changed_partition(locked).is_none()
    }

    /// Installs the written partitions into the store. The former roots stay in `base`, so nothing is freed under the
    /// locks. Cost: the partitions, the names, and the changes of the index of owners.
    pub fn swap_in(&mut self, locked: &mut Locked<'_>) {
        let mut copied_bytes = self.copied_bytes;
        for (path, touched) in &mut self.partitions {
            let partition = Partition { shard: touched.shard, root: path.as_path() };
            // A partition that was only read is locked shared, and has nothing to install.
            let Some(Shard { tree, pins, .. }) = locked.shard_mut(touched.shard) else { continue };
            match &touched.usage {
                // The names are added to the current directory, to which other clients may have added names since.
                Usage::Names { named, .. } if !named.is_empty() => {
                    if let Some(root) = tree.root_mut(&partition) {
                        Named::put(named, root, &partition, &mut copied_bytes);
                    }
                }
                Usage::Names { .. } | Usage::Reads => {}
                // The current root is `base`, or the comparison under these locks would have failed, so no other commit
                // is lost.
                Usage::Writes => drop(tree.set_root(partition.root, touched.root.take())),
            }
            // Other transactions' snapshots may keep the nodes that this one replaced. The bounds are on sums, so any
            // shard may count it.
            pins.replaced((std::mem::take(&mut copied_bytes) + touched.named_bytes) as u64);
            for (change, owner, path) in touched.index.drain(..) {
                match change {
                    Change::Noted => tree.note_owned(owner, path.as_path()),
                    Change::Forgotten => tree.forget_owned(owner, path.as_path()),
                }
            }
        }
    }

    /// Returns all partitions.
    pub fn partitions(&self) -> impl Iterator<Item = Partition<'_>> {
        self.partitions
            .iter()
            .map(|(path, touched)| Partition { shard: touched.shard, root: path.as_path() })
    }

    /// Returns the root of a partition at its first access; the outer `None` means that it was not accessed.
    pub fn base(&self, partition: &Partition<'_>) -> Option<Option<&NodeArc>> {
        self.partitions.get(partition.root.bytes()).map(|touched| touched.base.as_ref())
    }
}

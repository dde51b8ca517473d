//! The partitions that an operation works on: those of the store, under locks, or a transaction's copies.

use smallvec::SmallVec;

use super::node::{Node, NodeArc};
use super::shards::{Shard, Shards};
use super::tree::{self, Found};
use super::{StoreError, Tree};
use crate::sync::{Arc, RwLockReadGuard, RwLockWriteGuard};
use crate::types::{Domid, Layout, Partition, Path, Perms, ShardId};

/// A source of partitions for operations: [`Locked`] or [`super::tx_view::TxView`].
pub trait Forest {
    /// Returns the function from paths to shards and partitions.
    fn layout(&self) -> Layout;

    /// Returns the root of a partition for reading; `None` if it does not exist.
    ///
    /// # Errors
    /// [`StoreError::NeedsLock`] if its shard is not locked.
    fn root(&mut self, partition: &Partition<'_>) -> Result<Option<&NodeArc>, StoreError>;

    /// Declares that a partition will be changed. An operation claims every partition that it will change before it
    /// changes the first, so it can restart for a missing lock with nothing to undo.
    ///
    /// # Errors
    /// [`StoreError::NeedsLock`] if its shard is not locked exclusively.
    fn claim(&mut self, partition: &Partition<'_>) -> Result<(), StoreError>;

    /// Sets or removes the root of a partition; returns the former one.
    ///
    /// # Errors
    /// As [`Forest::claim`].
    fn set_root(
        &mut self,
        partition: &Partition<'_>,
        root: Option<NodeArc>,
    ) -> Result<Option<NodeArc>, StoreError>;

    /// Adds a boundary to the index of owners: `owner`'s nodes begin at `path`.
    ///
    /// # Errors
    /// As [`Forest::claim`].
    fn note_owned(
        &mut self,
        partition: &Partition<'_>,
        owner: Domid,
        path: Path<'_>,
    ) -> Result<(), StoreError>;

    /// Removes a boundary from the index of owners.
    ///
    /// # Errors
    /// As [`Forest::claim`].
    fn forget_owned(
        &mut self,
        partition: &Partition<'_>,
        owner: Domid,
        path: Path<'_>,
    ) -> Result<(), StoreError>;

    /// Returns the permissions of the node at `path`, if it exists. A transaction that gets only these depends on
    /// nothing else of the node, so other clients' new names in a directory do not conflict with it.
    ///
    /// # Errors
    /// As [`Forest::root`].
    fn perms(
        &mut self,
        partition: &Partition<'_>,
        path: Path<'_>,
    ) -> Result<Option<Perms>, StoreError> {
        Ok(self.get(partition, path)?.map(|node| Arc::clone(&node.perms)))
    }

    /// Adds a child to the node at `path` that is the root of another partition.
    ///
    /// # Errors
    /// As [`Forest::claim`].
    fn name_partition(
        &mut self,
        partition: &Partition<'_>,
        path: Path<'_>,
        name: &[u8],
        generation: u64,
    ) -> Result<(), StoreError> {
        if let Some(node) = self.get_mut(partition, path)? {
            node.insert_child(generation, name, None);
        }
        Ok(())
    }

    /// Finds `path`, which lies in `partition`. Cost: the depth below the partition's root.
    ///
    /// # Errors
    /// As [`Forest::root`].
    fn find(&mut self, partition: &Partition<'_>, path: Path<'_>) -> Result<Found<'_>, StoreError> {
        Ok(tree::find(self.root(partition)?, partition, path))
    }

    /// Returns the node at `path`, if it exists. Cost: the depth below the partition's root.
    ///
    /// # Errors
    /// As [`Forest::root`].
    fn get(
        &mut self,
        partition: &Partition<'_>,
        path: Path<'_>,
    ) -> Result<Option<&NodeArc>, StoreError> {
        Ok(self.find(partition, path)?.node())
    }

    /// Returns the node at `path` for changing. Copy-on-write: nodes on the way that are shared are copied.
    ///
    /// # Errors
    /// As [`Forest::claim`].
    fn get_mut(
        &mut self,
        partition: &Partition<'_>,
        path: Path<'_>,
    ) -> Result<Option<&mut Node>, StoreError>;
}

/// The shards to lock, in lock order, and how. `exclusive` is a flag because operations compute it
/// ([`super::Verb::writes`]); two requests for a shard combine by or. Four locks take no allocation: the first, and one
/// for each round before all are taken (`ROUNDS_MAX`).
#[derive(Clone, Default)]
pub struct LockSet(SmallVec<[(ShardId, bool); 4]>);

impl LockSet {
    /// Creates a set of one shard.
    pub fn one(shard: ShardId, exclusive: bool) -> LockSet {
        let mut set = LockSet::default();
        set.add(shard, exclusive);
        set
    }

    /// Creates a set of all shards, the root shard included.
    pub fn all(layout: Layout, exclusive: bool) -> LockSet {
        LockSet(layout.all().map(|shard| (shard, exclusive)).collect())
    }

    /// Adds a shard; if it is in the set, it becomes exclusive if either request is.
    pub fn add(&mut self, shard: ShardId, exclusive: bool) {
        match self.0.binary_search_by_key(&shard, |(shard, _)| *shard) {
            // One guard per shard: parking_lot's lock is not reentrant, so a thread that took one twice would wait for
            // itself.
            Ok(at) => self.0[at].1 |= exclusive,
            // In order, as `Locked::take` goes by it.
            Err(at) => self.0.insert(at, (shard, exclusive)),
        }
    }
}

enum Guard<'s> {
    Shared(RwLockReadGuard<'s, Shard>),
    Exclusive(RwLockWriteGuard<'s, Shard>),
}

/// Locked shards. Locks are always taken in the order of shard numbers, the root shard last, so deadlock is
/// impossible.
pub struct Locked<'s> {
    layout: Layout,
    guards: SmallVec<[(ShardId, Guard<'s>); 4]>,
}

impl<'s> Locked<'s> {
    /// Takes the locks of `set`, in their order. The caller must hold no shard's lock.
    pub fn take(shards: &'s Shards, set: &LockSet) -> Locked<'s> {
        let lock = |&(shard, exclusive): &(ShardId, bool)| {
            let guard = if exclusive {
                Guard::Exclusive(shards.write(shard))
            } else {
                Guard::Shared(shards.read(shard))
            };
            (shard, guard)
        };
        Locked { layout: shards.layout, guards: set.0.iter().map(lock).collect() }
    }

    /// Returns a shard if it is locked.
    pub fn shard(&self, shard: ShardId) -> Option<&Shard> {
        // A scan, as nearly every operation holds one or two guards.
        self.shards().find(|(held, _)| *held == shard).map(|(_, shard)| shard)
    }

    /// Returns the locked shards.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &Shard)> {
        self.guards.iter().map(|(shard, guard)| match guard {
            Guard::Shared(guard) => (*shard, &**guard),
            Guard::Exclusive(guard) => (*shard, &**guard),
        })
    }

    /// Returns the root of a partition if it exists and its shard is locked.
    pub fn root_of(&self, partition: &Partition<'_>) -> Option<&NodeArc> {
        self.shard(partition.shard)?.tree.root(partition)
    }

    /// Returns a shard for changing if it is locked exclusively.
    pub fn shard_mut(&mut self, shard: ShardId) -> Option<&mut Shard> {
        self.guards.iter_mut().find(|(held, _)| *held == shard).and_then(|(_, guard)| match guard {
            Guard::Shared(_) => None,
            Guard::Exclusive(guard) => Some(&mut **guard),
        })
    }
}

impl Locked<'_> {
    fn tree_mut(&mut self, partition: &Partition<'_>) -> Result<&mut Tree, StoreError> {
        let shard = partition.shard;
        self.shard_mut(shard).map(|shard| &mut shard.tree).ok_or(StoreError::NeedsLock(shard, true))
    }
}

impl Forest for Locked<'_> {
    fn layout(&self) -> Layout {
        self.layout
    }

    fn root(&mut self, partition: &Partition<'_>) -> Result<Option<&NodeArc>, StoreError> {
        let shard =
            self.shard(partition.shard).ok_or(StoreError::NeedsLock(partition.shard, false))?;
        Ok(shard.tree.root(partition))
    }

    fn claim(&mut self, partition: &Partition<'_>) -> Result<(), StoreError> {
        self.tree_mut(partition).map(drop)
    }

    fn get_mut(
        &mut self,
        partition: &Partition<'_>,
        path: Path<'_>,
    ) -> Result<Option<&mut Node>, StoreError> {
        let shard =
            self.shard_mut(partition.shard).ok_or(StoreError::NeedsLock(partition.shard, true))?;
        let Some(root) = shard.tree.root_mut(partition) else { return Ok(None) };
        let mut copied_bytes = 0;
        let node = tree::get_mut_counted(root, partition, path, &mut copied_bytes);
        // No account is charged for the originals that snapshots keep, so their bytes count towards the common bound.
        shard.pins.replaced(copied_bytes as u64);
        Ok(node)
    }

    fn set_root(
        &mut self,
        partition: &Partition<'_>,
        root: Option<NodeArc>,
    ) -> Result<Option<NodeArc>, StoreError> {
        Ok(self.tree_mut(partition)?.set_root(partition.root, root))
    }

    fn note_owned(
        &mut self,
        partition: &Partition<'_>,
        owner: Domid,
        path: Path<'_>,
    ) -> Result<(), StoreError> {
        self.tree_mut(partition)?.note_owned(owner, path);
        Ok(())
    }

    fn forget_owned(
        &mut self,
        partition: &Partition<'_>,
        owner: Domid,
        path: Path<'_>,
    ) -> Result<(), StoreError> {
        self.tree_mut(partition)?.forget_owned(owner, path);
        Ok(())
    }
}

//! A transaction's partitions as operations see them.

use super::access_set::{AccessSet, Change, Named, TouchedPartition};
use super::error::StoreError;
use super::forest::Forest;
use super::node::{Node, NodeArc};
use super::shards::Shards;
use crate::types::{Domid, Layout, Partition, Path, Perms};

/// A transaction's partitions. Each partition is a snapshot taken from the store at its first access, which locks one
/// shard for as long as a root is cloned. So a transaction sees partitions of different moments; its END detects that,
/// as it compares all partitions under one set of locks.
pub struct TxView<'a> {
    /// The shards from which partitions are taken.
    pub shards: &'a Shards,
    /// The partitions taken so far.
    pub partitions: &'a mut AccessSet,
}

impl TxView<'_> {
    fn touch(&mut self, partition: &Partition<'_>) -> Option<&mut TouchedPartition> {
        let shards = self.shards;
        self.partitions.touch(partition, || {
            let root = shards.read(partition.shard).tree.root(partition).cloned();
            TouchedPartition::new(partition.shard, root, shards.pins(partition.shard).pin())
        })
    }

    fn index(&mut self, partition: &Partition<'_>, change: Change, owner: Domid, path: Path<'_>) {
        // The index omits the control domain; recording such a change would make the partition a written one for
        // nothing.
        if owner != Domid::CONTROL {
            // Makes this the partition accessed last, to which `AccessSet::index` refers.
            self.touch(partition);
            self.partitions.index(partition, change, owner, path);
        }
    }
}

impl Forest for TxView<'_> {
    fn layout(&self) -> Layout {
        self.shards.layout
    }

    fn root(&mut self, partition: &Partition<'_>) -> Result<Option<&NodeArc>, StoreError> {
        Ok(self.touch(partition).and_then(|touched| touched.read(partition).as_ref()))
    }

    // A transaction changes only its own copies, so no lock can be missing; END takes all locks of its partitions at
    // once.
    fn claim(&mut self, _partition: &Partition<'_>) -> Result<(), StoreError> {
        Ok(())
    }

    fn get_mut(
        &mut self,
        partition: &Partition<'_>,
        path: Path<'_>,
    ) -> Result<Option<&mut Node>, StoreError> {
        self.touch(partition);
        Ok(self.partitions.node_mut(partition, path))
    }

    fn set_root(
        &mut self,
        partition: &Partition<'_>,
        root: Option<NodeArc>,
    ) -> Result<Option<NodeArc>, StoreError> {
        Ok(self
            .touch(partition)
            .and_then(|touched| std::mem::replace(touched.write(partition), root)))
    }

    fn note_owned(
        &mut self,
        partition: &Partition<'_>,
        owner: Domid,
        path: Path<'_>,
    ) -> Result<(), StoreError> {
        self.index(partition, Change::Noted, owner, path);
        Ok(())
    }

    fn forget_owned(
        &mut self,
        partition: &Partition<'_>,
        owner: Domid,
        path: Path<'_>,
    ) -> Result<(), StoreError> {
        self.index(partition, Change::Forgotten, owner, path);
        Ok(())
    }

    fn perms(
        &mut self,
        partition: &Partition<'_>,
        path: Path<'_>,
    ) -> Result<Option<Perms>, StoreError> {
        Ok(self.touch(partition).and_then(|touched| touched.perms(partition, path)))
    }

    fn name_partition(
        &mut self,
        partition: &Partition<'_>,
        path: Path<'_>,
        name: &[u8],
        generation: u64,
    ) -> Result<(), StoreError> {
        if let Some(touched) = self.touch(partition) {
            let (parent, name) = (path.to_buf(), name.into());
            touched.name(partition, Named { parent, name, generation });
        }
        Ok(())
    }
}

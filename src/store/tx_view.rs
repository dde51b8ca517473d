//! A transaction's partitions as operations see them.

use super::Store;
use super::access_set::{AccessSet, Change, Named, TouchedPartition};
use super::error::StoreError;
use super::forest::{Forest, Locked};
use super::node::{Node, NodeArc};
use crate::types::{Domid, Layout, Partition, Path, Perms};

/// A transaction's partitions. Each partition is a snapshot taken from the store at its first access.
pub struct TxView<'a, 's> {
    /// The store from which partitions are taken.
    pub store: &'a Store,
    /// The locks, if the caller holds any; then it holds all. Without locks, each first access locks one shard for as
    /// long as a root is cloned, so a transaction sees partitions of different moments. The transaction's END detects
    /// that, as it compares all partitions under one set of locks.
    pub locked: Option<&'a Locked<'s>>,
    /// The partitions taken so far.
    pub partitions: &'a mut AccessSet,
}

impl TxView<'_, '_> {
    fn touch(&mut self, partition: &Partition<'_>) -> Option<&mut TouchedPartition> {
        let (store, locked) = (self.store, self.locked);
        self.partitions.touch(partition, || {
            let root = match locked {
                Some(locked) => locked.root_of(partition).cloned(),
                None => store.read_shard(partition.shard).tree.root(partition).cloned(),
            };
            TouchedPartition::new(
                partition.shard,
                root,
                store.pins[usize::from(partition.shard.0)].pin(),
            )
        })
    }

    fn index(&mut self, partition: &Partition<'_>, change: Change, owner: Domid, path: Path<'_>) {
        if owner != Domid::CONTROL {
            self.touch(partition);
            self.partitions.index(partition, change, owner, path);
        }
    }
}

impl Forest for TxView<'_, '_> {
    fn layout(&self) -> Layout {
        self.store.layout
    }

    fn root(&mut self, partition: &Partition<'_>) -> Result<Option<&NodeArc>, StoreError> {
        Ok(self.touch(partition).and_then(|touched| touched.read(partition).as_ref()))
    }

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

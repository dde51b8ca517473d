//! A transaction's partitions as operations see them.

use super::Store;
use super::error::StoreError;
use super::forest::{Forest, Locked};
use super::node::{Node, NodeArc};
use super::touched::{Change, Named, Touched, TouchedHomes};
use crate::words::{Domid, Home, Layout, Path, Perms};

/// A transaction's partitions. Each is a snapshot taken from the store at its first access.
pub struct Own<'a, 's> {
    /// The store from which partitions are taken.
    pub store: &'a Store,
    /// The locks, if the caller holds any; then it holds all. Without them, each first access locks one shard for as
    /// long as a root is cloned, so a transaction sees partitions of different moments. Its END detects that, as it
    /// compares all of them under one set of locks.
    pub locked: Option<&'a Locked<'s>>,
    /// The partitions taken so far.
    pub homes: &'a mut TouchedHomes,
}

impl Own<'_, '_> {
    fn touch(&mut self, home: &Home<'_>) -> Option<&mut Touched> {
        let (store, locked) = (self.store, self.locked);
        self.homes.touch(home, || {
            let root = match locked {
                Some(locked) => locked.root_of(home).cloned(),
                None => store.read_shard(home.shard).tree.root(home).cloned(),
            };
            Touched::new(home.shard, root, store.pins[usize::from(home.shard.0)].pin())
        })
    }

    fn index(&mut self, home: &Home<'_>, change: Change, owner: Domid, path: Path<'_>) {
        if owner != Domid::CONTROL {
            self.touch(home);
            self.homes.index(home, change, owner, path);
        }
    }
}

impl Forest for Own<'_, '_> {
    fn layout(&self) -> Layout {
        self.store.layout
    }

    fn root(&mut self, home: &Home<'_>) -> Result<Option<&NodeArc>, StoreError> {
        Ok(self.touch(home).and_then(|touched| touched.read(home).as_ref()))
    }

    fn claim(&mut self, _home: &Home<'_>) -> Result<(), StoreError> {
        Ok(())
    }

    fn get_mut(
        &mut self,
        home: &Home<'_>,
        path: Path<'_>,
    ) -> Result<Option<&mut Node>, StoreError> {
        self.touch(home);
        Ok(self.homes.node_mut(home, path))
    }

    fn set_root(
        &mut self,
        home: &Home<'_>,
        root: Option<NodeArc>,
    ) -> Result<Option<NodeArc>, StoreError> {
        Ok(self.touch(home).and_then(|touched| std::mem::replace(touched.write(home), root)))
    }

    fn note_owned(
        &mut self,
        home: &Home<'_>,
        owner: Domid,
        path: Path<'_>,
    ) -> Result<(), StoreError> {
        self.index(home, Change::Noted, owner, path);
        Ok(())
    }

    fn forget_owned(
        &mut self,
        home: &Home<'_>,
        owner: Domid,
        path: Path<'_>,
    ) -> Result<(), StoreError> {
        self.index(home, Change::Forgotten, owner, path);
        Ok(())
    }

    fn perms(&mut self, home: &Home<'_>, path: Path<'_>) -> Result<Option<Perms>, StoreError> {
        Ok(self.touch(home).and_then(|touched| touched.perms(home, path)))
    }

    fn name_home(
        &mut self,
        home: &Home<'_>,
        path: Path<'_>,
        name: &[u8],
        generation: u64,
    ) -> Result<(), StoreError> {
        if let Some(touched) = self.touch(home) {
            let (parent, name) = (path.to_buf(), name.into());
            touched.name(home, Named { parent, name, generation });
        }
        Ok(())
    }
}

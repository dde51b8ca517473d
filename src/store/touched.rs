//! The homes of a transaction: each as it was when first touched, and as the transaction sees it.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::forest::{Forest, LockSet, Locked};
use super::node::Node;
use super::op::Stop;
use super::pins::Pin;
use super::{Shard, Store};
use crate::sync::Arc;
use crate::words::{Domid, Home, Layout, Path, PathBuf, ShardId};

/// Homes by their roots.
#[derive(Default)]
pub struct TouchedHomes(HashMap<PathBuf, Touched, RandomState>);

/// A home of a transaction.
struct Touched {
    shard: ShardId,
    /// The root when it was first touched. As long as it is held nobody changes it in place: who has
    /// the same root has the same home.
    base: Option<Arc<Node>>,
    /// The root as the transaction sees it.
    root: Option<Arc<Node>>,
    written: bool,
    /// Changes of the index of owners, in their order.
    index: Vec<(Change, Domid, PathBuf)>,
    _pin: Pin,
}

/// What becomes of a note in the index of owners.
#[derive(Clone, Copy)]
enum Change {
    Noted,
    Forgotten,
}

impl TouchedHomes {
    /// The locks that a commit needs: shared where it only looked. Cost: the homes.
    pub fn lock_set(&self) -> LockSet {
        let mut set = LockSet::default();
        for home in self.0.values() {
            set.add(home.shard, home.written);
        }
        set
    }

    /// Whether every home is still what it was when first touched. Cost: a lookup for each.
    pub fn are_current(&self, locked: &Locked<'_>) -> bool {
        self.0.iter().all(|(path, touched)| {
            let home = Home { shard: touched.shard, root: path.as_path() };
            let root = locked.shard(touched.shard).and_then(|shard| shard.tree.root(&home));
            match (root, &touched.base) {
                (Some(root), Some(base)) => Arc::ptr_eq(root, base),
                (None, None) => true,
                _ => false,
            }
        })
    }

    /// Puts what was written into the store. What it was remains here, so nothing is freed. Cost: the
    /// homes, and the changes of the index of owners.
    pub fn swap_in(&mut self, locked: &mut Locked<'_>) {
        for (path, touched) in &mut self.0 {
            if touched.written
                && let Some(Shard { tree, .. }) = locked.shard_mut(touched.shard)
            {
                tree.set_root(path.as_path(), touched.root.take());
                for (change, owner, path) in touched.index.drain(..) {
                    match change {
                        Change::Noted => tree.note_owned(owner, path.as_path()),
                        Change::Forgotten => tree.forget_owned(owner, path.as_path()),
                    }
                }
            }
        }
    }

    /// The root of a home when it was first touched, if it was.
    pub fn base(&self, home: &Home<'_>) -> Option<Option<&Arc<Node>>> {
        self.0.get(home.root.bytes()).map(|touched| touched.base.as_ref())
    }

    /// Forgets them all. Cost: that of freeing what nobody else holds.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// The homes of a transaction, each taken from the store when first touched.
pub struct Own<'a, 's> {
    /// Where they are taken from.
    pub store: &'a Store,
    /// The locks that are held, if any are: then it is all of them.
    pub locked: Option<&'a Locked<'s>>,
    /// Those that are taken.
    pub homes: &'a mut TouchedHomes,
}

impl Own<'_, '_> {
    fn touch(&mut self, home: &Home<'_>) -> Option<&mut Touched> {
        if !self.homes.0.contains_key(home.root.bytes()) {
            let base = match self.locked {
                Some(locked) => {
                    locked.shard(home.shard).and_then(|shard| shard.tree.root(home)).cloned()
                }
                None => self.store.shard(home.shard).read().tree.root(home).cloned(),
            };
            let touched = Touched {
                shard: home.shard,
                root: base.clone(),
                base,
                written: false,
                index: Vec::new(),
                _pin: self.store.pins[usize::from(home.shard.0)].pin(),
            };
            self.homes.0.insert(home.root.to_buf(), touched);
        }
        self.homes.0.get_mut(home.root.bytes())
    }

    fn write(&mut self, home: &Home<'_>) -> Option<&mut Touched> {
        let touched = self.touch(home)?;
        touched.written = true;
        Some(touched)
    }

    fn index(&mut self, home: &Home<'_>, change: Change, owner: Domid, path: Path<'_>) {
        if owner != Domid::CONTROL
            && let Some(touched) = self.write(home)
        {
            touched.index.push((change, owner, path.to_buf()));
        }
    }
}

impl Forest for Own<'_, '_> {
    fn layout(&self) -> Layout {
        self.store.layout
    }

    fn root(&mut self, home: &Home<'_>) -> Result<Option<&Arc<Node>>, Stop> {
        Ok(self.touch(home).and_then(|touched| touched.root.as_ref()))
    }

    fn root_mut(&mut self, home: &Home<'_>) -> Result<Option<&mut Arc<Node>>, Stop> {
        Ok(self.write(home).and_then(|touched| touched.root.as_mut()))
    }

    fn set_root(
        &mut self,
        home: &Home<'_>,
        root: Option<Arc<Node>>,
    ) -> Result<Option<Arc<Node>>, Stop> {
        Ok(self.write(home).and_then(|touched| std::mem::replace(&mut touched.root, root)))
    }

    fn note_owned(&mut self, home: &Home<'_>, owner: Domid, path: Path<'_>) -> Result<(), Stop> {
        self.index(home, Change::Noted, owner, path);
        Ok(())
    }

    fn forget_owned(&mut self, home: &Home<'_>, owner: Domid, path: Path<'_>) -> Result<(), Stop> {
        self.index(home, Change::Forgotten, owner, path);
        Ok(())
    }
}

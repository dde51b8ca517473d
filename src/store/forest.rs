//! Where an operation finds the homes that it works on: the store itself under locks, or a
//! transaction's own.

use smallvec::SmallVec;

use super::node::{Node, NodeArc};
use super::tree::{self, Found};
use super::{Shard, Store, StoreError, Tree};
use crate::sync::{Arc, RwLockReadGuard, RwLockWriteGuard};
use crate::words::{Domid, Home, Layout, Path, Perms, ShardId};

/// Homes, by their roots.
pub trait Forest {
    /// Which path lies where.
    fn layout(&self) -> Layout;

    /// The root of a home, to look at; nothing if there is no such home.
    ///
    /// # Errors
    /// [`StoreError::NeedsLock`] if its shard is not locked.
    fn root(&mut self, home: &Home<'_>) -> Result<Option<&NodeArc>, StoreError>;

    /// Says that a home is going to be changed. An operation claims every home that it will change
    /// before it changes the first.
    ///
    /// # Errors
    /// [`StoreError::NeedsLock`] if its shard is not locked exclusively.
    fn claim(&mut self, home: &Home<'_>) -> Result<(), StoreError>;

    /// Puts a root in the place of a home's, or takes it away; answers the one that was there.
    ///
    /// # Errors
    /// As [`Forest::claim`].
    fn set_root(
        &mut self,
        home: &Home<'_>,
        root: Option<NodeArc>,
    ) -> Result<Option<NodeArc>, StoreError>;

    /// Notes that `owner`'s nodes begin at `path`.
    ///
    /// # Errors
    /// As [`Forest::claim`].
    fn note_owned(
        &mut self,
        home: &Home<'_>,
        owner: Domid,
        path: Path<'_>,
    ) -> Result<(), StoreError>;

    /// Takes such a note back.
    ///
    /// # Errors
    /// As [`Forest::claim`].
    fn forget_owned(
        &mut self,
        home: &Home<'_>,
        owner: Domid,
        path: Path<'_>,
    ) -> Result<(), StoreError>;

    /// The permissions of the node at `path`, if it is there: nothing else of it is seen.
    ///
    /// # Errors
    /// As [`Forest::root`].
    fn perms(&mut self, home: &Home<'_>, path: Path<'_>) -> Result<Option<Perms>, StoreError> {
        Ok(self.get(home, path)?.map(|node| Arc::clone(&node.perms)))
    }

    /// Gives the node at `path` a child that is the root of a home of its own.
    ///
    /// # Errors
    /// As [`Forest::claim`].
    fn name_home(
        &mut self,
        home: &Home<'_>,
        path: Path<'_>,
        name: &[u8],
        generation: u64,
    ) -> Result<(), StoreError> {
        if let Some(node) = self.get_mut(home, path)? {
            node.insert_child(generation, name, None);
        }
        Ok(())
    }

    /// Looks for `path`, which lies in `home`. Cost: the depth below the home.
    ///
    /// # Errors
    /// As [`Forest::root`].
    fn find(&mut self, home: &Home<'_>, path: Path<'_>) -> Result<Found<'_>, StoreError> {
        Ok(tree::find(self.root(home)?, home, path))
    }

    /// The node at `path`, if it is there. Cost: the depth below the home.
    ///
    /// # Errors
    /// As [`Forest::root`].
    fn get(&mut self, home: &Home<'_>, path: Path<'_>) -> Result<Option<&NodeArc>, StoreError> {
        Ok(self.find(home, path)?.node())
    }

    /// The node at `path` to be changed: in place where nobody else holds it, else as copies of the
    /// nodes on the way to it.
    ///
    /// # Errors
    /// As [`Forest::claim`].
    fn get_mut(&mut self, home: &Home<'_>, path: Path<'_>)
    -> Result<Option<&mut Node>, StoreError>;
}

/// Which shards to lock, and how; in the order in which locks are taken. `exclusive` is a flag, since it is what
/// operations compute (`Verb::writes`), and of two wishes for a shard the or.
#[derive(Clone, Default)]
pub struct LockSet(SmallVec<[(ShardId, bool); 4]>);

impl LockSet {
    /// One shard.
    pub fn one(shard: ShardId, exclusive: bool) -> LockSet {
        let mut set = LockSet::default();
        set.add(shard, exclusive);
        set
    }

    /// Every shard and the spine.
    pub fn all(layout: Layout, exclusive: bool) -> LockSet {
        LockSet(layout.all().map(|shard| (shard, exclusive)).collect())
    }

    /// Adds a shard, or makes it exclusive.
    pub fn add(&mut self, shard: ShardId, exclusive: bool) {
        match self.0.binary_search_by_key(&shard, |(shard, _)| *shard) {
            Ok(at) => self.0[at].1 |= exclusive,
            Err(at) => self.0.insert(at, (shard, exclusive)),
        }
    }
}

/// Some microseconds: longer than a request holds a lock, shorter than two switches of threads. Shuttle
/// explores what happens when it is held, and need not see it asked for again and again.
const TRIES_BEFORE_SLEEP: u32 = if cfg!(feature = "shuttle") { 0 } else { 100 };

/// A lock that is held.
enum Guard<'s> {
    Shared(RwLockReadGuard<'s, Shard>),
    Exclusive(RwLockWriteGuard<'s, Shard>),
}

/// What becomes free soon, tried [`TRIES_BEFORE_SLEEP`] times. To sleep and be woken takes longer than a
/// request holds a lock, and a lock of parking_lot's gives its core away before. Apart from the code of
/// those who find it free.
#[cold]
fn soon<G>(get: impl Fn() -> Option<G>) -> Option<G> {
    for _ in 0..TRIES_BEFORE_SLEEP {
        let got = get();
        if got.is_some() {
            return got;
        }
        std::hint::spin_loop();
    }
    None
}

/// Shards of the store under locks. Taken in the order of their numbers, the spine last, so that
/// no two threads ever wait for each other.
pub struct Locked<'s> {
    layout: Layout,
    guards: SmallVec<[(ShardId, Guard<'s>); 4]>,
}

impl<'s> Locked<'s> {
    /// Takes the locks of `set`.
    pub fn take(store: &'s Store, set: &LockSet) -> Locked<'s> {
        let lock = |&(shard, exclusive): &(ShardId, bool)| {
            let guard = if exclusive {
                Guard::Exclusive(store.write_shard(shard))
            } else {
                Guard::Shared(store.read_shard(shard))
            };
            (shard, guard)
        };
        Locked { layout: store.layout, guards: set.0.iter().map(lock).collect() }
    }

    /// A shard, if it is locked.
    pub fn shard(&self, shard: ShardId) -> Option<&Shard> {
        self.shards().find(|(held, _)| *held == shard).map(|(_, shard)| shard)
    }

    /// The shards that are locked.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &Shard)> {
        self.guards.iter().map(|(shard, guard)| match guard {
            Guard::Shared(guard) => (*shard, &**guard),
            Guard::Exclusive(guard) => (*shard, &**guard),
        })
    }

    /// The root of a home, if there is one and its shard is locked.
    pub fn root_of(&self, home: &Home<'_>) -> Option<&NodeArc> {
        self.shard(home.shard)?.tree.root(home)
    }

    /// A shard, if it is locked exclusively.
    pub fn shard_mut(&mut self, shard: ShardId) -> Option<&mut Shard> {
        self.guards.iter_mut().find(|(held, _)| *held == shard).and_then(|(_, guard)| match guard {
            Guard::Shared(_) => None,
            Guard::Exclusive(guard) => Some(&mut **guard),
        })
    }
}

impl Locked<'_> {
    fn tree_mut(&mut self, home: &Home<'_>) -> Result<&mut Tree, StoreError> {
        let shard = home.shard;
        self.shard_mut(shard).map(|shard| &mut shard.tree).ok_or(StoreError::NeedsLock(shard, true))
    }
}

impl Forest for Locked<'_> {
    fn layout(&self) -> Layout {
        self.layout
    }

    fn root(&mut self, home: &Home<'_>) -> Result<Option<&NodeArc>, StoreError> {
        let shard = self.shard(home.shard).ok_or(StoreError::NeedsLock(home.shard, false))?;
        Ok(shard.tree.root(home))
    }

    fn claim(&mut self, home: &Home<'_>) -> Result<(), StoreError> {
        self.tree_mut(home).map(drop)
    }

    fn get_mut(
        &mut self,
        home: &Home<'_>,
        path: Path<'_>,
    ) -> Result<Option<&mut Node>, StoreError> {
        let shard = self.shard_mut(home.shard).ok_or(StoreError::NeedsLock(home.shard, true))?;
        let Some(root) = shard.tree.root_mut(home) else { return Ok(None) };
        let mut copied_bytes = 0;
        let node = tree::get_mut_counted(root, home, path, &mut copied_bytes);
        shard.pins.replaced(copied_bytes as u64);
        Ok(node)
    }

    fn set_root(
        &mut self,
        home: &Home<'_>,
        root: Option<NodeArc>,
    ) -> Result<Option<NodeArc>, StoreError> {
        Ok(self.tree_mut(home)?.set_root(home.root, root))
    }

    fn note_owned(
        &mut self,
        home: &Home<'_>,
        owner: Domid,
        path: Path<'_>,
    ) -> Result<(), StoreError> {
        self.tree_mut(home)?.note_owned(owner, path);
        Ok(())
    }

    fn forget_owned(
        &mut self,
        home: &Home<'_>,
        owner: Domid,
        path: Path<'_>,
    ) -> Result<(), StoreError> {
        self.tree_mut(home)?.forget_owned(owner, path);
        Ok(())
    }
}

/// After this many rounds of finding out which locks are needed, all are taken.
const ROUNDS_MAX: usize = 3;

impl Store {
    /// Locks a shard to look at it. Whoever needs others too takes [`Locked`].
    pub(super) fn read_shard(&self, shard: ShardId) -> RwLockReadGuard<'_, Shard> {
        let lock = self.shard(shard);
        lock.try_read().or_else(|| soon(|| lock.try_read())).unwrap_or_else(|| lock.read())
    }

    /// Locks a shard to change it, as [`Store::read_shard`].
    pub(super) fn write_shard(&self, shard: ShardId) -> RwLockWriteGuard<'_, Shard> {
        let lock = self.shard(shard);
        lock.try_write().or_else(|| soon(|| lock.try_write())).unwrap_or_else(|| lock.write())
    }

    /// Runs `work` with the locks of `set`, again with more as often as it asks for more. `work`
    /// must not have changed anything when it does.
    ///
    /// # Errors
    /// Those of `work`.
    pub(super) fn with_locks<R>(
        &self,
        mut set: LockSet,
        mut work: impl FnMut(&mut Locked<'_>) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        for round in 0.. {
            match work(&mut Locked::take(self, &set)) {
                Ok(result) => return Ok(result),
                Err(error @ (StoreError::Refused(_) | StoreError::StaleEpoch)) => {
                    return Err(error);
                }
                Err(StoreError::NeedsLock(shard, exclusive)) if round < ROUNDS_MAX => {
                    set.add(shard, exclusive);
                }
                Err(StoreError::NeedsLock(..)) => set = LockSet::all(self.layout, true),
            }
        }
        unreachable!("with all locks held nothing is needed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn with_locks_when_more_are_needed_three_times_takes_all() {
        let store = Store::alone(Layout::new(8));
        let mut held = Vec::new();
        let all_held = store.with_locks(LockSet::one(ShardId(0), true), |locked| {
            let is_held = |shard: &ShardId| locked.shard(*shard).is_some();
            let count = store.layout.all().filter(is_held).count();
            held.push(count);
            let missing = store.layout.all().find(|shard| !is_held(shard));
            missing.map_or(Ok(count), |shard| Err(StoreError::NeedsLock(shard, true)))
        });
        assert_eq!(all_held.ok(), Some(9));
        assert_eq!(held, [1, 2, 3, 4, 9]);
    }
}

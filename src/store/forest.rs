//! Where an operation finds its trees: the store itself under locks, or a transaction's own.

use smallvec::SmallVec;

use super::{Shard, Stop, Store, Tree};
use crate::sync::{RwLockReadGuard, RwLockWriteGuard};
use crate::words::{Layout, ShardId};

/// Trees by shard.
pub trait Forest {
    /// Which path lies where.
    fn layout(&self) -> Layout;

    /// The shard's tree, to look at.
    ///
    /// # Errors
    /// [`Stop::Needs`] if the shard is not locked.
    fn tree(&mut self, shard: ShardId) -> Result<&Tree, Stop>;

    /// The shard's tree, to change. An operation asks for every tree that it will change before it
    /// changes the first.
    ///
    /// # Errors
    /// [`Stop::Needs`] if the shard is not locked exclusively.
    fn tree_mut(&mut self, shard: ShardId) -> Result<&mut Tree, Stop>;
}

/// Which shards to lock, and how; in the order in which locks are taken.
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

/// A lock that is held.
enum Guard<'s> {
    Shared(RwLockReadGuard<'s, Shard>),
    Exclusive(RwLockWriteGuard<'s, Shard>),
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
            let lock = &store.shards[usize::from(shard.0)];
            let guard =
                if exclusive { Guard::Exclusive(lock.write()) } else { Guard::Shared(lock.read()) };
            (shard, guard)
        };
        Locked { layout: store.layout, guards: set.0.iter().map(lock).collect() }
    }

    /// A shard, if it is locked.
    pub fn shard(&self, shard: ShardId) -> Option<&Shard> {
        self.guards.iter().find(|(held, _)| *held == shard).map(|(_, guard)| match guard {
            Guard::Shared(guard) => &**guard,
            Guard::Exclusive(guard) => &**guard,
        })
    }

    /// A shard, if it is locked exclusively.
    pub fn shard_mut(&mut self, shard: ShardId) -> Option<&mut Shard> {
        self.guards.iter_mut().find(|(held, _)| *held == shard).and_then(|(_, guard)| match guard {
            Guard::Shared(_) => None,
            Guard::Exclusive(guard) => Some(&mut **guard),
        })
    }
}

impl Forest for Locked<'_> {
    fn layout(&self) -> Layout {
        self.layout
    }

    fn tree(&mut self, shard: ShardId) -> Result<&Tree, Stop> {
        self.shard(shard).map(|shard| &shard.tree).ok_or(Stop::Needs(shard, false))
    }

    fn tree_mut(&mut self, shard: ShardId) -> Result<&mut Tree, Stop> {
        self.shard_mut(shard).map(|shard| &mut shard.tree).ok_or(Stop::Needs(shard, true))
    }
}

/// After this many rounds of finding out which locks are needed, all are taken.
const ROUNDS_MAX: usize = 3;

impl Store {
    /// Runs `work` with the locks of `set`, again with more as often as it asks for more. `work`
    /// must not have changed anything when it does.
    ///
    /// # Errors
    /// Those of `work`.
    pub(super) fn with_locks<R>(
        &self,
        mut set: LockSet,
        mut work: impl FnMut(&mut Locked<'_>) -> Result<R, Stop>,
    ) -> Result<R, crate::words::Errno> {
        for round in 0.. {
            match work(&mut Locked::take(self, &set)) {
                Ok(result) => return Ok(result),
                Err(Stop::Refused(errno)) => return Err(errno),
                Err(Stop::Needs(shard, exclusive)) if round < ROUNDS_MAX => {
                    set.add(shard, exclusive);
                }
                Err(Stop::Needs(..)) => set = LockSet::all(self.layout, true),
            }
        }
        unreachable!("with all locks held nothing is needed")
    }
}

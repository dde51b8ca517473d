//! The shards: each a part of the store behind one lock.

use crossbeam::utils::CachePadded;

use super::forest::{LockSet, Locked};
use super::pins::Pins;
use super::recent::Recent;
use super::{StoreError, Tree};
use crate::sync::{Arc, AtomicU64, RwLock, RwLockReadGuard, RwLockWriteGuard};
use crate::types::{Layout, ShardId};
use crate::watch::Trie;

/// Number of attempts to take a held lock before the thread sleeps: some microseconds, which is longer than a request
/// holds a lock and shorter than two context switches. Of the values tried, 40 gained less, and 1,000 cost more when
/// the holder lost its core. Shuttle explores schedules with the lock held anyway, and retries would only multiply
/// them.
const TRIES_BEFORE_SLEEP: u32 = if cfg!(feature = "shuttle") { 0 } else { 100 };

/// After this many restarts, each with one more lock, all locks are taken. That bounds the restarts of an operation
/// that touches many shards, such as RM of `/local`, and guarantees that they end.
const ROUNDS_MAX: usize = 3;

/// Part of the store behind one lock: partitions, their index, and the watches on paths in them.
pub struct Shard {
    pub tree: Tree,
    pub watches: Trie,
    pub recent: Recent,
    pub pins: Arc<Pins>,
}

/// All shards, with the counters that threads read without a lock.
pub struct Shards {
    pub layout: Layout,
    /// The root shard is the last. Each shard has cache lines of its own, so a write to one does not invalidate its
    /// neighbour's (false sharing).
    // Locks and not owner threads: passing a request to another thread costs as much as twenty operations, and most
    // toolstack requests concern domains of other threads. Readers share a lock.
    locks: Box<[CachePadded<RwLock<Shard>>]>,
    /// A second handle to each shard's `Shard::pins`, which threads read without the shard's lock.
    pub pins: Box<[Arc<Pins>]>,
    /// The sum of replaced bytes over all shards; see [`Pins`].
    pub replaced: Arc<AtomicU64>,
}

/// Retries `get` up to [`TRIES_BEFORE_SLEEP`] times. Sleeping and being woken takes longer than a request holds a
/// lock, and parking_lot's own spinning is shorter and then yields the core. A thread that sleeps in the end is woken
/// fairly (parking_lot 0.12), so readers without a pause cannot starve a writer. A separate cold function keeps this
/// code out of the uncontended path.
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

impl Shards {
    /// Creates empty shards.
    pub fn new(layout: Layout) -> Shards {
        let replaced: Arc<AtomicU64> = Arc::default();
        let pins: Box<[_]> = layout.all().map(|_| Pins::new(Arc::clone(&replaced))).collect();
        let shard = |pins: &Arc<Pins>| {
            CachePadded::new(RwLock::new(Shard {
                tree: Tree::default(),
                watches: Trie::default(),
                recent: Recent::new(),
                pins: Arc::clone(pins),
            }))
        };
        Shards { layout, locks: pins.iter().map(shard).collect(), pins, replaced }
    }

    /// Returns a shard's lock.
    pub fn lock(&self, shard: ShardId) -> &RwLock<Shard> {
        &self.locks[usize::from(shard.0)]
    }

    /// Returns a shard's counters of pinned partitions and replaced bytes.
    pub fn pins(&self, shard: ShardId) -> &Arc<Pins> {
        &self.pins[usize::from(shard.0)]
    }

    /// Locks a single shard for reading. Code that needs several takes [`Locked`], which keeps the lock order.
    pub fn read(&self, shard: ShardId) -> RwLockReadGuard<'_, Shard> {
        let lock = self.lock(shard);
        lock.try_read().or_else(|| soon(|| lock.try_read())).unwrap_or_else(|| lock.read())
    }

    /// Locks a single shard for changing, like [`Shards::read`] for reading.
    pub fn write(&self, shard: ShardId) -> RwLockWriteGuard<'_, Shard> {
        let lock = self.lock(shard);
        lock.try_write().or_else(|| soon(|| lock.try_write())).unwrap_or_else(|| lock.write())
    }

    /// Runs `work` with the locks of `set`. If it returns [`StoreError::NeedsLock`], the locks are released, the set
    /// grows, and `work` restarts; it must not have changed anything by then. The common case needs one lock and pays
    /// nothing for this.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn with_locks<R>(
        &self,
        mut set: LockSet,
        mut work: impl FnMut(&mut Locked<'_>) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        for round in 0.. {
            // Each round takes its locks anew: adding a lock of a lower number to those held would break the lock
            // order.
            match work(&mut Locked::take(self, &set)) {
                Ok(result) => return Ok(result),
                Err(error @ (StoreError::Refused(_) | StoreError::StaleEpoch)) => {
                    return Err(error);
                }
                Err(StoreError::NeedsLock(shard, exclusive)) if round < ROUNDS_MAX => {
                    set.add(shard, exclusive);
                }
                // Exclusively, as it is not known which of them the operation will change.
                Err(StoreError::NeedsLock(..)) => set = LockSet::all(self.layout, true),
            }
        }
        unreachable!("no further lock is needed with all locks held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn lock_set_grows_to_all_shards_after_three_retries() {
        let layout = Layout::new(8);
        let shards = Shards::new(layout);
        let mut held = Vec::new();
        let all_held = shards.with_locks(LockSet::one(ShardId(0), true), |locked| {
            let is_held = |shard: &ShardId| locked.shard(*shard).is_some();
            let count = layout.all().filter(is_held).count();
            held.push(count);
            let missing = layout.all().find(|shard| !is_held(shard));
            missing.map_or(Ok(count), |shard| Err(StoreError::NeedsLock(shard, true)))
        });
        assert_eq!(all_held.ok(), Some(9));
        assert_eq!(held, [1, 2, 3, 4, 9]);
    }
}

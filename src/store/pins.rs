//! The memory that snapshots of open transactions keep: partitions as they were at first access, and nodes of them
//! that were replaced since. No account is charged for it, so both are bounded for the whole daemon.

use crate::sync::{Arc, AtomicU32, AtomicU64, Ordering};

/// The number of partitions of one shard that may be pinned; above it, threads drop their transactions' snapshots
/// early, the oldest first. A guest's transactions are charged in its quota `memory`, which by default admits some
/// 6,000 partitions, so a single guest cannot make others lose their snapshots.
pub const PINNED_PARTITIONS_MAX: u32 = 16_384;
/// A snapshot is dropped once this many bytes have been replaced in all shards since the snapshot was taken. The nodes
/// that snapshots keep in addition to the current tree were all replaced since the oldest one, so together they keep no
/// more than this. Ordinary transactions end long before. Counting partitions does not suffice: a guest with 2 KB on
/// each of 900 levels made 478 MiB of 250 snapshots.
pub const REPLACED_BYTES_MAX: u64 = 8 << 20;
/// A shard adds to the common sum in steps of this size. The sum is on a cache line that all threads read in each pass,
/// so writing it with each change would make all shards contend; the error, at most one step per shard, is small
/// against [`REPLACED_BYTES_MAX`].
const REPLACED_BYTES_STEP: u64 = 64 << 10;

/// The counters of one shard.
pub struct Pins {
    /// All accesses are relaxed: the counts only decide when snapshots are dropped, and publish nothing.
    partitions: AtomicU32,
    /// Bytes replaced or removed while snapshots kept them. The counter only grows: dropping a snapshot subtracts
    /// nothing, as other snapshots may keep the same bytes.
    replaced: AtomicU64,
    /// The sum over all shards, in whole steps, which threads read in each pass.
    all_replaced: Arc<AtomicU64>,
}

impl Pins {
    /// Creates a shard's counters; `all_replaced` is common to all shards.
    pub fn new(all_replaced: Arc<AtomicU64>) -> Arc<Pins> {
        let (partitions, replaced) = Default::default();
        Arc::new(Pins { partitions, replaced, all_replaced })
    }

    /// Counts a pinned partition until the returned guard is dropped. Cost: constant.
    pub fn pin(self: &Arc<Pins>) -> Pin {
        self.partitions.fetch_add(1, Ordering::Relaxed);
        Pin(Arc::clone(self))
    }

    /// Returns how many partitions are pinned; one that two transactions pin counts twice.
    pub fn count(&self) -> u32 {
        self.partitions.load(Ordering::Relaxed)
    }

    /// Counts bytes that the tree no longer holds but snapshots may. Cost: constant.
    pub fn replaced(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let before = self.replaced.fetch_add(bytes, Ordering::Relaxed);
        let steps = (before + bytes) / REPLACED_BYTES_STEP - before / REPLACED_BYTES_STEP;
        if steps > 0 {
            self.all_replaced.fetch_add(steps * REPLACED_BYTES_STEP, Ordering::Relaxed);
        }
    }
}

/// A pinned partition; dropping it unpins.
pub struct Pin(Arc<Pins>);

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.partitions.fetch_sub(1, Ordering::Relaxed);
    }
}

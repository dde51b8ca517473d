//! What the snapshots of open transactions keep: the homes that they pin, as these were when first touched,
//! and what is replaced in these meanwhile. No account is charged for that, so both are bounded.

use crate::sync::{Arc, AtomicU32, AtomicU64, Ordering};

/// So many homes of one shard may be pinned; beyond it snapshots are given up before their time, the
/// oldest first. What a guest's transactions keep of their own is charged in its quota `memory`, which ends at some
/// 6,000 homes by default, so a single guest cannot make others give up theirs.
pub const PINNED_HOMES_MAX: u32 = 16_384;
/// A snapshot that is older than so many replaced bytes, of all shards, is given up: what the snapshots of
/// all transactions keep beside the tree is at most this. Ordinary transactions are over long before.
pub const REPLACED_BYTES_MAX: u64 = 8 << 20;
/// What a shard counts by itself before all threads see it.
const REPLACED_BYTES_STEP: u64 = 64 << 10;

/// What snapshots keep of one shard.
pub struct Pins {
    homes: AtomicU32,
    /// Bytes that were replaced or removed while snapshots kept them. Only grows.
    replaced: AtomicU64,
    /// The sum over all shards, in whole steps: threads look at it in each pass.
    all_replaced: Arc<AtomicU64>,
}

impl Pins {
    /// Returns the pins of a shard, `all_replaced` of which is the same for all shards.
    pub fn new(all_replaced: Arc<AtomicU64>) -> Arc<Pins> {
        let (homes, replaced) = Default::default();
        Arc::new(Pins { homes, replaced, all_replaced })
    }

    /// Pins a home until what this returns is dropped. Cost: constant.
    pub fn pin(self: &Arc<Pins>) -> Pin {
        self.homes.fetch_add(1, Ordering::Relaxed);
        Pin(Arc::clone(self))
    }

    /// How many homes are pinned; one that two transactions pin counts twice.
    pub fn count(&self) -> u32 {
        self.homes.load(Ordering::Relaxed)
    }

    /// Counts bytes that the tree no longer has and snapshots may keep. Cost: constant.
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

/// A home that is pinned.
pub struct Pin(Arc<Pins>);

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.homes.fetch_sub(1, Ordering::Relaxed);
    }
}

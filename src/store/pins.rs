//! How many homes open transactions pin, as they were when first touched. Whatever is replaced
//! below such a root is kept for them.

use crate::sync::{Arc, AtomicU32, Ordering};

/// So many homes of one shard may be pinned; beyond it snapshots are given up before their time, the
/// oldest first. One guest's transactions pin at most 10,240 (the default quotas of transactions and of
/// their requests), so a single one cannot make others give up theirs.
pub const PINNED_HOMES_MAX: u32 = 16_384;

/// The pinned homes of one shard.
#[derive(Default)]
pub struct Pins(AtomicU32);

impl Pins {
    /// Pins a home until what this answers is dropped. Cost: constant.
    pub fn pin(self: &Arc<Pins>) -> Pin {
        self.0.fetch_add(1, Ordering::Relaxed);
        Pin(Arc::clone(self))
    }

    /// How many homes are pinned; one that two transactions pin counts twice.
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A home that is pinned.
pub struct Pin(Arc<Pins>);

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

//! Which versions of a shard's tree open transactions pin. Whatever was replaced since such a version
//! is kept for them, so versions are what is counted, not transactions: any number of those may look
//! at one version.

use std::collections::BTreeMap;

use crate::sync::{Arc, AtomicU32, Mutex, Ordering};

/// So many versions of one shard may be pinned; beyond it snapshots are given up before their time.
/// Each keeps what one commit replaced, in the worst case of an ordinary write a value and the nodes on
/// its path.
pub const PINNED_VERSIONS_MAX: u32 = 1024;

/// The pinned versions of one shard.
#[derive(Default)]
pub struct Pins {
    /// How many snapshots there are of each.
    versions: Mutex<BTreeMap<u64, u32>>,
    count: AtomicU32,
}

impl Pins {
    /// Pins a version until what this answers is dropped. Cost: logarithmic in the number of
    /// versions.
    pub fn pin(self: &Arc<Pins>, version: u64) -> Pin {
        let mut versions = self.versions.lock();
        *versions.entry(version).or_default() += 1;
        self.note_count(&versions);
        Pin { pins: Arc::clone(self), version }
    }

    /// How many versions are pinned.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    fn note_count(&self, versions: &BTreeMap<u64, u32>) {
        self.count.store(u32::try_from(versions.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

/// A version that is pinned.
pub struct Pin {
    pins: Arc<Pins>,
    version: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut versions = self.pins.versions.lock();
        if let Some(snapshots) = versions.get_mut(&self.version) {
            *snapshots -= 1;
            if *snapshots == 0 {
                versions.remove(&self.version);
            }
        }
        self.pins.note_count(&versions);
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_pinned_while_anybody_pins_it() {
        let pins = Arc::new(Pins::default());
        let first = pins.pin(7);
        let (second, other) = (pins.pin(7), pins.pin(8));
        assert_eq!(pins.count(), 2);
        drop(first);
        assert_eq!(pins.count(), 2);
        drop(second);
        assert_eq!(pins.count(), 1);
        drop(other);
        assert_eq!(pins.count(), 0);
    }
}

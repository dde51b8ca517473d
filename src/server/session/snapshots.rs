//! The age limit of transactions' snapshots, which keep replaced nodes in memory: a second, and less while too many
//! versions of a shard are pinned or once too much was replaced. Each worker drops its oldest snapshot first, at the
//! cost of freeing it. The transaction's log is replayed when it is next used, and not before. No account is charged
//! for that memory, so it needs a limit of its own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::server::mailbox::Slot;
use crate::store::{REPLACED_BYTES_MAX, Store};

/// The age at which a snapshot is dropped.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(1);
/// The limit for a snapshot on which a log is being replayed in pieces: dropping it would restart the replay over and
/// over. A guest's log has some hundred pieces at most, one a pass, but a guest that is not served stops its replay
/// halfway.
const REPLAYED_AGE_MAX: Duration = Duration::from_secs(30);

/// The snapshots of one transaction.
pub struct Snapshot {
    /// When the first of the snapshots was taken.
    pub first: Instant,
    /// When the first of the snapshots was taken, or when they were last renewed.
    pub since: Instant,
    /// The value of [`Store::replaced_bytes`] at that time.
    pub replaced: u64,
    /// The slot of the transaction's connection.
    pub slot: Slot,
    /// The number of the transaction's connection.
    pub connection: u64,
    /// The transaction's id.
    pub transaction: u32,
}

/// The snapshots of a worker's transactions, the oldest first. Each is appended with the present time, so the front is
/// always due first.
#[derive(Default)]
pub struct Snapshots(VecDeque<Snapshot>);

impl Snapshot {
    /// Returns whether a guest's replay may keep the snapshot. Replaced bytes do not count within the first second:
    /// otherwise a guest that replaces much could keep a long replay from ever completing.
    pub fn is_in_time(&self, store: &Store, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.first);
        age < SNAPSHOT_AGE_MAX || age < REPLAYED_AGE_MAX && !self.keeps_too_much(store)
    }

    fn keeps_too_much(&self, store: &Store) -> bool {
        let replaced = store.replaced_bytes().wrapping_sub(self.replaced);
        replaced > REPLACED_BYTES_MAX || store.pins_too_much()
    }
}

impl Snapshots {
    /// Returns the number of snapshots.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds the newest snapshot.
    pub fn add(&mut self, snapshot: Snapshot) {
        self.0.push_back(snapshot);
    }

    /// Takes the oldest snapshot if it must be dropped now.
    pub fn take_due(&mut self, store: &Store, now: Instant) -> Option<Snapshot> {
        self.next_due(store, now).filter(|due| *due <= now)?;
        self.0.pop_front()
    }

    /// Returns when to drop the oldest snapshot. The snapshot may already be dropped by then, with its transaction.
    pub fn next_due(&self, store: &Store, now: Instant) -> Option<Instant> {
        let oldest = self.0.front()?;
        Some(if oldest.keeps_too_much(store) { now } else { oldest.since + SNAPSHOT_AGE_MAX })
    }
}

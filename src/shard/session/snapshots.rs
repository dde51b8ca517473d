//! How long transactions keep their snapshots, which pin what others replace: for a second, and for
//! less while too many versions of a shard are pinned, or once too much was replaced. Of a worker's, the
//! oldest goes first, at the cost of freeing it; its transaction is run again when it is next used, and not
//! before.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::shard::mailbox::Place;
use crate::store::{REPLACED_BYTES_MAX, Store};

/// A snapshot is given up when it is this old.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(1);
/// One on which a log is being run again, in pieces, is kept for longer, or the log would be begun again and again.
/// A guest's log has some hundred pieces at most, one a pass; but a guest that is not served stops it halfway.
const REPLAYED_AGE_MAX: Duration = Duration::from_secs(30);

/// The snapshots of one transaction.
pub struct Snapshot {
    /// When the first of them was taken.
    pub first: Instant,
    /// The same, or when they were last kept for longer.
    pub since: Instant,
    /// [`Store::replaced_bytes`] then.
    pub replaced: u64,
    /// The transaction's connection: its place and its number.
    pub place: Place,
    /// See [`Snapshot::place`].
    pub connection: u64,
    /// The transaction's id.
    pub transaction: u32,
}

/// The snapshots of a worker's transactions, the oldest first.
#[derive(Default)]
pub struct Snapshots(VecDeque<Snapshot>);

impl Snapshot {
    /// Whether it may be kept for a log of a guest that is being run again on it. What others replace does not count
    /// within the first second, else a guest that replaces much would keep a long log from ever being run to its end.
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
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds the newest.
    pub fn add(&mut self, snapshot: Snapshot) {
        self.0.push_back(snapshot);
    }

    /// Takes the oldest if it is to be given up.
    pub fn take_due(&mut self, store: &Store, now: Instant) -> Option<Snapshot> {
        self.next_due(store, now).filter(|due| *due <= now)?;
        self.0.pop_front()
    }

    /// When the oldest snapshot is to be given up. It may be gone by then, with its transaction.
    pub fn next_due(&self, store: &Store, now: Instant) -> Option<Instant> {
        let oldest = self.0.front()?;
        Some(if oldest.keeps_too_much(store) { now } else { oldest.since + SNAPSHOT_AGE_MAX })
    }
}

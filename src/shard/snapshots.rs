//! How long transactions keep their snapshots, which pin what others replace: for a second, and for
//! less while too many versions of a shard are pinned, or once too much was replaced. Of a thread's, the
//! oldest goes first, at the cost of freeing it; its transaction is run again when it is next used, and not
//! before.

use std::time::{Duration, Instant};

use super::thread::{Place, Thread};
use crate::store::REPLACED_BYTES_MAX;

/// A snapshot is given up when it is this old.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(1);
/// One on which a log is being run again, in pieces, is kept for longer, or the log would be begun again and again.
/// A guest's log has some hundred pieces at most, one a pass; but a guest that is not served stops it halfway.
const REPLAYED_AGE_MAX: Duration = Duration::from_secs(30);
/// So many are given up in one pass; the rest in the next, so that requests come in between.
const GIVEN_UP_PER_PASS: usize = 4096;

/// The snapshots of one transaction.
pub struct Snapshot {
    /// When the first of them was taken.
    pub first: Instant,
    /// The same, or when they were last kept for longer.
    pub since: Instant,
    /// [`Store::replaced_bytes`](crate::store::Store::replaced_bytes) then.
    pub replaced: u64,
    /// The transaction's connection: its place and its number.
    pub place: Place,
    /// See [`Snapshot::place`].
    pub connection: u64,
    /// The transaction's id.
    pub transaction: u32,
}

impl Thread {
    /// Gives up what is too old, or too much.
    pub(super) fn give_up_snapshots(&mut self) {
        for _ in 0..self.snapshots.len().min(GIVEN_UP_PER_PASS) {
            if self.next_to_give_up().is_none_or(|due| due > self.now) {
                return;
            }
            let Some(oldest) = self.snapshots.pop_front() else { return };
            if self.is_needed(&oldest) {
                self.keep(oldest);
            } else {
                self.give_up_snapshot(&oldest);
            }
        }
    }

    /// Whether the log of its transaction is being run again on it. What others replace does not count within the
    /// first second, else a guest that replaces much would keep a long log from ever being run to its end; and not
    /// at all for the control domain, whose logs can be long.
    fn is_needed(&self, snapshot: &Snapshot) -> bool {
        let Some(Some(connection)) = self.connections.get(snapshot.place) else { return false };
        let age = self.now.saturating_duration_since(snapshot.first);
        let is_in_time =
            age < SNAPSHOT_AGE_MAX || age < REPLAYED_AGE_MAX && !self.keeps_too_much(snapshot);
        (is_in_time || !connection.is_guest()) && self.is_being_replayed(snapshot)
    }

    /// Keeps a snapshot as if it had been taken now.
    fn keep(&mut self, snapshot: Snapshot) {
        let Some(Some(connection)) = self.connections.get_mut(snapshot.place) else { return };
        let Some(open) = connection.transactions.get_mut(&snapshot.transaction) else { return };
        let (since, replaced) = (self.now, self.shared.store.replaced_bytes());
        open.snapshots_from = Some(since);
        self.snapshots.push_back(Snapshot { since, replaced, ..snapshot });
    }

    /// When the oldest snapshot is to be given up. It may be gone by then, with its transaction.
    pub(super) fn next_to_give_up(&self) -> Option<Instant> {
        let oldest = self.snapshots.front()?;
        let early = self.keeps_too_much(oldest);
        Some(if early { self.now } else { oldest.since + SNAPSHOT_AGE_MAX })
    }

    fn keeps_too_much(&self, snapshot: &Snapshot) -> bool {
        let store = &self.shared.store;
        let replaced = store.replaced_bytes().wrapping_sub(snapshot.replaced);
        replaced > REPLACED_BYTES_MAX || store.pins_too_much()
    }

    /// Of a connection's transactions at most one is, for its next request.
    fn is_being_replayed(&self, snapshot: &Snapshot) -> bool {
        let Some(Some(connection)) = self.connections.get(snapshot.place) else { return false };
        connection.asker.id == snapshot.connection
            && connection.transactions.get(&snapshot.transaction).is_some_and(|open| {
                open.snapshots_from == Some(snapshot.since) && open.transaction.is_behind()
            })
    }

    fn give_up_snapshot(&mut self, snapshot: &Snapshot) {
        let Some(Some(connection)) = self.connections.get_mut(snapshot.place) else { return };
        if connection.asker.id != snapshot.connection {
            return;
        }
        if let Some(open) = connection.transactions.get_mut(&snapshot.transaction)
            && open.snapshots_from == Some(snapshot.since)
        {
            open.snapshots_from = None;
            // Its charge stays: its next request takes as much anew.
            open.transaction.give_up();
        }
    }
}

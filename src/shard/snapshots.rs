//! How long transactions keep their snapshots, which pin what others replace: for a second, and for
//! less while too many versions of a shard are pinned, or once too much was replaced. Of a thread's, the
//! oldest goes first, at the cost of freeing it; its transaction is run again when it is next used, and not
//! before.

use std::time::{Duration, Instant};

use super::thread::{Place, Thread};
use crate::store::REPLACED_BYTES_MAX;

/// A snapshot is given up when it is this old.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(1);
/// So many are given up in one pass; the rest in the next, so that requests come in between.
const GIVEN_UP_PER_PASS: usize = 4096;

/// The snapshots of one transaction.
pub struct Snapshot {
    /// When the first of them was taken.
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
        for _ in 0..GIVEN_UP_PER_PASS {
            if self.next_to_give_up().is_none_or(|due| due > self.now) {
                return;
            }
            let Some(oldest) = self.snapshots.pop_front() else { return };
            // Else a guest that replaces much would keep a long log from ever being run to its end.
            if oldest.since + SNAPSHOT_AGE_MAX > self.now && self.is_being_replayed(&oldest) {
                let replaced = self.shared.store.replaced_bytes();
                self.snapshots.push_back(Snapshot { replaced, ..oldest });
                continue;
            }
            self.give_up_snapshot(&oldest);
        }
    }

    /// When the oldest snapshot is to be given up. It may be gone by then, with its transaction.
    pub(super) fn next_to_give_up(&self) -> Option<Instant> {
        let oldest = self.snapshots.front()?;
        let store = &self.shared.store;
        let replaced = store.replaced_bytes().wrapping_sub(oldest.replaced);
        let early = replaced > REPLACED_BYTES_MAX || store.pins_too_much();
        Some(if early { self.now } else { oldest.since + SNAPSHOT_AGE_MAX })
    }

    /// Whether the log of its transaction is being run again on it, in pieces. Of a connection's transactions at
    /// most one is, for its next request.
    fn is_being_replayed(&self, snapshot: &Snapshot) -> bool {
        let Some(Some(connection)) = self.connections.get(snapshot.place) else { return false };
        connection.id == snapshot.connection
            && connection.transactions.get(&snapshot.transaction).is_some_and(|open| {
                open.snapshots_from == Some(snapshot.since) && open.transaction.is_behind()
            })
    }

    fn give_up_snapshot(&mut self, snapshot: &Snapshot) {
        let Some(Some(connection)) = self.connections.get_mut(snapshot.place) else { return };
        if connection.id != snapshot.connection {
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

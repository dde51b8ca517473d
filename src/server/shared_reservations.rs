//! Reservations shared by the workers: [`super::reservations`] behind a lock, in step with the store's epoch.

use std::time::Instant;

use super::mailbox::ReplyTo;
use super::reservations::{Counts, Reservations};
use crate::store::Store;
use crate::sync::{AtomicBool, Mutex, Ordering};

/// The reservations, shared by all threads.
#[derive(Default)]
pub struct SharedReservations {
    /// Whether any path is reserved: a copy for readers without the lock.
    any: AtomicBool,
    reservations: Mutex<Reservations>,
}

impl SharedReservations {
    /// Returns whether any path is reserved. Cost: one load; a write without a reservation in progress pays nothing
    /// else.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Returns the counters of reservations.
    pub fn counts(&self) -> Counts {
        self.reservations.lock().counts()
    }

    /// Runs `work` on the reservations, advanced to `now`. Also returns the reply addresses of the connections that may
    /// proceed.
    pub fn with<T>(
        &self,
        store: &Store,
        now: Instant,
        work: impl FnOnce(&mut Reservations) -> T,
    ) -> (T, Vec<ReplyTo>) {
        // Taken while no lock of the store is held; `begin_epoch` takes none.
        let mut reservations = self.reservations.lock();
        let before = reservations.counts();
        reservations.advance(now);
        let result = work(&mut reservations);
        reservations.advance(now);
        // The flag is set before the epoch begins: a writer that is admitted in the new epoch must find the
        // reservation.
        self.any.store(reservations.any_reserved(), Ordering::Release);
        let after = reservations.counts();
        // Writes admitted before these paths were reserved must be refused, so each new or wider reservation begins an
        // epoch.
        if (before.begun, before.widened) != (after.begun, after.widened) {
            store.begin_epoch();
        }
        (result, reservations.take_woken())
    }
}

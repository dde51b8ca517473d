//! The flag by which producers of a mailbox agree on which of them wakes its worker.

use crate::sync::{AtomicBool, Ordering};

/// A wake-up flag. Producers push, raise it, and later try to clear it; the thread that clears it wakes the worker. No
/// push is missed: a producer that finds the flag clear knows that another thread has cleared it after this push, and
/// that this thread wakes the worker. The worker clears the flag before it sleeps, so that messages that it has taken
/// already do not wake it.
#[derive(Default)]
pub struct Signal(AtomicBool);

impl Signal {
    /// Raises the flag after a push. Uses an exchange, not a store, to continue the release sequence: the thread that
    /// clears the flag sees the pushes of all producers that raised it, not only of the last.
    pub fn raise(&self) {
        self.0.swap(true, Ordering::AcqRel);
    }

    /// Clears the flag, and returns whether it was raised: then the caller must wake the worker. The load before the
    /// exchange spares callers that find it clear a write to a shared cache line.
    pub fn take(&self) -> bool {
        self.0.load(Ordering::Acquire) && self.0.swap(false, Ordering::AcqRel)
    }

    /// Returns whether the calling worker may sleep, given a check of its mailbox. A push before the flag is cleared is
    /// seen by that check; a later one wakes the worker.
    pub fn may_sleep(&self, is_empty: impl FnOnce() -> bool) -> bool {
        self.take();
        is_empty()
    }
}

//! Whether a thread has to be woken.

use crate::sync::{AtomicBool, Ordering};

/// Raised by those who push to a mailbox, taken by whoever wakes its thread then. As each raises it
/// after pushing, whoever takes it wakes the thread after every push whose pusher finds it taken.
/// The thread itself takes it before it sleeps, or it would be woken for what it took already.
#[derive(Default)]
pub struct Signal(AtomicBool);

impl Signal {
    /// Something was pushed. By exchange, not as a store: whoever takes it sees then what all have pushed
    /// who raised it, not only the last of them.
    pub fn raise(&self) {
        self.0.swap(true, Ordering::AcqRel);
    }

    /// Whether something was pushed since this was last taken: then the thread is to be woken. The
    /// first look spares those who find nothing a write to a line that others share.
    pub fn take(&self) -> bool {
        self.0.load(Ordering::Acquire) && self.0.swap(false, Ordering::AcqRel)
    }

    /// Whether the thread, which asks, may sleep until it is woken, given what looks into its mailbox.
    /// Whatever was pushed before the signal is taken is seen there, and whoever pushes later wakes.
    pub fn may_sleep(&self, is_empty: impl FnOnce() -> bool) -> bool {
        self.take();
        is_empty()
    }
}

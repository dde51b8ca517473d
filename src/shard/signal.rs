//! Whether a thread has to be woken.

use crate::sync::{AtomicBool, Ordering};

/// Raised by those who push to a mailbox, taken by whoever wakes its thread then. As each raises it
/// after pushing, whoever takes it wakes the thread after every push whose pusher finds it taken.
/// The thread itself takes it before it looks for the last time whether something is there.
#[derive(Default)]
pub struct Signal(AtomicBool);

impl Signal {
    /// Something was pushed.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether something was pushed since this was last taken: then the thread is to be woken. The
    /// first look spares those who find nothing a write to a line that others share.
    pub fn take(&self) -> bool {
        self.0.load(Ordering::Acquire) && self.0.swap(false, Ordering::AcqRel)
    }
}

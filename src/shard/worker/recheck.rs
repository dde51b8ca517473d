//! What follows an error of the host: everything is looked at once more at the next tick.
//!
//! An error may come after the kernel has given an event away, and it gives none twice. So a death, or a
//! guest's notification, may be lost with any error, and the only remedy is to look without being told:
//! each domain is asked for, each ring is looked at as if its guest had notified.

use std::collections::BTreeSet;
use std::io;
use std::time::Instant;

use super::timers::TICK;
use crate::log::Seldom;
use crate::shard::mailbox::Place;
use crate::shard::session::core::Core;
use crate::words::Domid;

/// What has to be looked at.
#[derive(Default)]
pub struct Suspects {
    /// The handle of event channels: it is told of news only once, so what it holds is read again.
    pub handle: bool,
    /// Rings, as if they were notified.
    pub rings: BTreeSet<Place>,
    /// Domains, as if they had changed.
    pub domains: BTreeSet<Domid>,
}

/// A worker's memory of errors of the host.
#[derive(Default)]
pub struct Recheck {
    /// Looked at from `due` on: what fails again waits for another tick.
    next: Suspects,
    due: Option<Instant>,
    /// Looked at in this pass and those that follow.
    now: Suspects,
    /// A host that is broken for good must not fill the log.
    failures: Seldom,
}

impl Suspects {
    fn is_empty(&self) -> bool {
        !self.handle && self.rings.is_empty() && self.domains.is_empty()
    }
}

impl Recheck {
    /// When there is something to look at, at the time `now`.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        if self.now.is_empty() { self.due } else { Some(now) }
    }

    /// What is to be looked at in this pass, if anything is.
    pub fn take_due(&mut self, now: Instant) -> Option<&mut Suspects> {
        if self.now.is_empty() {
            self.due.take_if(|due| *due <= now)?;
            self.now = std::mem::take(&mut self.next);
        }
        Some(&mut self.now)
    }

    /// Sees to it that what `note` adds is looked at, and logs the error unless one was lately.
    pub fn failed(
        &mut self,
        core: &Core,
        what: &str,
        error: &io::Error,
        note: impl FnOnce(&mut Suspects),
    ) {
        note(&mut self.next);
        self.due.get_or_insert(core.now + TICK);
        if let Some(failures) = self.failures.count() {
            let thread = core.number;
            tracing::error!(%error, what, thread, failures, "host failed, everything is looked at again");
        }
    }
}

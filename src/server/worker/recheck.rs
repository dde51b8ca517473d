//! Rechecks after errors of the host: everything that an error may have hidden is checked again at the next tick.
//!
//! The kernel may have consumed an event before it reports an error, and it delivers none twice. So any error may lose
//! a death or a guest's notification, and the only remedy is to check everything: each domain's state is queried, and
//! each ring is served as if its guest had notified.

use std::collections::BTreeSet;
use std::io;
use std::time::Instant;

use super::timers::TICK;
use crate::log::Seldom;
use crate::server::mailbox::Slot;
use crate::server::session::core::Core;
use crate::types::Domid;

/// The objects to recheck. Ordered sets, so that runs of the simulator can be repeated.
#[derive(Default)]
pub struct Suspects {
    /// The handle of event channels, which is polled edge-triggered: it is read again.
    pub handle: bool,
    /// Rings, to be served as if they were notified.
    pub rings: BTreeSet<Slot>,
    /// Domains, to be queried as if they had changed.
    pub domains: BTreeSet<Domid>,
}

/// The objects that errors of the host may have hidden.
#[derive(Default)]
pub struct Recheck {
    /// Rechecked from `due` on: an object whose recheck fails waits for another tick.
    next: Suspects,
    due: Option<Instant>,
    /// Rechecked in this pass and the next ones.
    now: Suspects,
    /// Limits the log lines of a host that is permanently broken.
    failures: Seldom,
}

impl Suspects {
    fn is_empty(&self) -> bool {
        !self.handle && self.rings.is_empty() && self.domains.is_empty()
    }
}

impl Recheck {
    /// Returns when the next recheck is due, at the time `now`.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        if self.now.is_empty() { self.due } else { Some(now) }
    }

    /// Returns the objects to recheck in this pass.
    pub fn take_due(&mut self, now: Instant) -> Option<&mut Suspects> {
        if self.now.is_empty() {
            self.due.take_if(|due| *due <= now)?;
            self.now = std::mem::take(&mut self.next);
        }
        Some(&mut self.now)
    }

    /// Rechecks the objects that `note` adds in the next pass.
    pub fn soon(&mut self, now: Instant, note: impl FnOnce(&mut Suspects)) {
        note(&mut self.next);
        self.due = Some(now);
    }

    /// Schedules a recheck of the objects that `note` adds, and logs the error, at a limited rate.
    pub fn failed(
        &mut self,
        core: &Core,
        what: &str,
        error: &io::Error,
        note: impl FnOnce(&mut Suspects),
    ) {
        note(&mut self.next);
        // The first error sets the time, so a host that fails in a row cannot postpone the recheck.
        self.due.get_or_insert(core.now + TICK);
        if let Some(failures) = self.failures.count() {
            let thread = core.number;
            tracing::error!(%error, what, thread, failures, "host call failed, will recheck");
        }
    }
}

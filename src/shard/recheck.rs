//! What follows an error of the host: everything is looked at once more at the next tick.
//!
//! An error may come after the kernel has given an event away, and it gives none twice. So a death, or a
//! guest's notification, may be lost with any error, and the only remedy is to look without being told:
//! each domain is asked for, each ring is looked at as if its guest had notified.

use std::collections::BTreeSet;
use std::io;
use std::time::Instant;

use super::mailbox::Message;
use super::thread::{Place, TICK, Thread};
use crate::log::Seldom;
use crate::words::Domid;

/// Rings, and domains, that are looked at in one pass: each costs about a system call, and requests of
/// others come in between.
const PER_PASS: usize = 256;

/// What has to be looked at.
#[derive(Default)]
struct Suspects {
    /// The handle of event channels: it is told of news only once, so what it holds is read again.
    handle: bool,
    rings: BTreeSet<Place>,
    domains: BTreeSet<Domid>,
}

/// A thread's memory of errors of the host.
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
}

impl Thread {
    /// Event channels were not read: one may have been taken, and any may be left unread.
    pub(super) fn handle_failed(&mut self, error: &io::Error) {
        self.recheck.next.rings.extend(self.ports.values());
        self.recheck.next.handle = true;
        self.host_failed("reading event channels", error);
    }

    /// The port of a ring stays masked, so that its guest cannot notify.
    pub(super) fn unmask_failed(&mut self, place: Place, error: &io::Error) {
        self.recheck.next.rings.insert(place);
        self.host_failed("unmasking an event channel", error);
    }

    /// The host did not name all domains that changed.
    pub(super) fn changed_failed(&mut self, error: &io::Error) {
        self.recheck.next.domains.extend(self.shared.store.registry().known());
        self.host_failed("reading which domains changed", error);
    }

    /// The host did not tell the state of a domain.
    pub(super) fn domain_failed(&mut self, domid: Domid, error: &io::Error) {
        self.recheck.next.domains.insert(domid);
        self.host_failed("asking for a domain's state", error);
    }

    /// Sees to it that what was just noted is looked at, and logs the error unless one was lately.
    fn host_failed(&mut self, what: &str, error: &io::Error) {
        let recheck = &mut self.recheck;
        recheck.due.get_or_insert(self.now + TICK);
        if let Some(failures) = recheck.failures.count() {
            let thread = self.number;
            tracing::error!(%error, what, thread, failures, "host failed, everything is looked at again");
        }
    }

    /// Looks at what is due.
    pub(super) fn recheck_host(&mut self) {
        if self.recheck.now.is_empty() {
            if self.recheck.due.is_none_or(|due| due > self.now) {
                return;
            }
            self.recheck.due = None;
            self.recheck.now = std::mem::take(&mut self.recheck.next);
        }
        if std::mem::take(&mut self.recheck.now.handle) {
            self.take_ports();
            // The port that tells of changes may have been taken and lost like any other.
            if let Some(port) = self.changes {
                self.changes_pending(port);
            }
        }
        for _ in 0..PER_PASS {
            let Some(place) = self.recheck.now.rings.pop_first() else { break };
            self.port_pending(place);
        }
        for _ in 0..PER_PASS {
            let Some(domid) = self.recheck.now.domains.pop_first() else { break };
            let home = self.home_thread(domid);
            self.shared.mailboxes.post(home, Message::DomainChanged(domid));
        }
    }
}

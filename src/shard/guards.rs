//! Fairness between the control domain's transactions and guests' writes (XSA-206).
//!
//! A guest that rewrites a node without end could make every transaction that reads it fail. After
//! [`CONFLICTS_BEFORE_GUARD`] conflicts in a row on one path, the control domain's next transaction
//! sets a guard on it when it first touches it: guests that would write it wait until the
//! transaction ends, at most [`GUARD_TIME_MAX`].

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::connection::{Connection, Parked};
use super::mailbox::{Asker, Mailboxes, Message};
use super::thread::{Place, Thread};
use crate::log;
use crate::sync::{AtomicU32, Mutex, Ordering};
use crate::words::{Domid, Path, PathBuf};

/// So many conflicts in a row are bad luck; more are a pattern.
pub const CONFLICTS_BEFORE_GUARD: u32 = 2;
/// A guest waits no longer than this, whatever the control domain does.
const GUARD_TIME_MAX: Duration = Duration::from_millis(50);
/// Guards at one time; further transactions go without. Every guest's write looks at each.
const GUARDS_MAX: usize = 16;

struct Guard {
    owner: Asker,
    path: PathBuf,
    until: Instant,
    /// Who waits: their threads and domains.
    waiting: Vec<(u16, Domid)>,
}

/// All guards.
#[derive(Default)]
pub struct Guards {
    count: AtomicU32,
    guards: Mutex<Vec<Guard>>,
}

impl Guards {
    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Whether there are any. Cost: a load, which is all that a write pays when there are none.
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Guards `path` for a connection, which has one guard at most. Answers whether it is guarded
    /// anew.
    pub fn set(&self, owner: Asker, path: PathBuf, now: Instant) -> bool {
        let mut guards = self.guards.lock();
        // Who waits for one that is over wakes by itself.
        guards.retain(|guard| guard.until > now);
        let sets = guards.len() < GUARDS_MAX && guards.iter().all(|guard| guard.owner != owner);
        if sets {
            guards.push(Guard { owner, path, until: now + GUARD_TIME_MAX, waiting: Vec::new() });
        }
        self.note_count(&guards);
        sets
    }

    fn note_count(&self, guards: &[Guard]) {
        self.count.store(u32::try_from(guards.len()).unwrap_or(u32::MAX), Ordering::Release);
    }

    /// Takes a connection's guard away and wakes who waits for it.
    pub fn lift(&self, owner: Asker, mailboxes: &Mailboxes) {
        if !self.any() {
            return;
        }
        let mut guards = self.guards.lock();
        let at = guards.iter().position(|guard| guard.owner == owner);
        let lifted = at.map(|at| guards.swap_remove(at));
        self.note_count(&guards);
        drop(guards);
        if let Some(guard) = &lifted {
            let (path, waiting) = (guard.path.as_path(), guard.waiting.len());
            tracing::trace!(target: log::WRL, %path, waiting, "a guard is lifted");
        }
        for (thread, domid) in lifted.into_iter().flat_map(|guard| guard.waiting) {
            mailboxes.send(thread, Message::Unblocked(domid));
        }
    }

    /// Until when a guest has to wait before it may write one of `paths`, if it has to.
    fn wait<'p>(
        &self,
        paths: impl IntoIterator<Item = Path<'p>>,
        thread: u16,
        domid: Domid,
        now: Instant,
    ) -> Option<Instant> {
        let mut guards = self.guards.lock();
        guards.retain(|guard| guard.until > now);
        self.note_count(&guards);
        for path in paths {
            let guarded = guards.iter_mut().find(|guard| {
                let guarded = guard.path.as_path();
                path.is_within(guarded) || guarded.is_within(path)
            });
            if let Some(guard) = guarded {
                if !guard.waiting.contains(&(thread, domid)) {
                    guard.waiting.push((thread, domid));
                }
                return Some(guard.until);
            }
        }
        None
    }
}

impl Thread {
    /// Parks a guest whose request would write what is guarded.
    pub(super) fn waits_for_guard<'p>(
        &mut self,
        place: Place,
        connection: &mut Connection,
        paths: impl IntoIterator<Item = Path<'p>>,
    ) -> bool {
        if !self.shared.guards.any() || !connection.is_guest() {
            return false;
        }
        let domid = connection.domid();
        let until = self.shared.guards.wait(paths, self.number, domid, self.now);
        let Some(until) = until else { return false };
        let patience = until.saturating_duration_since(self.now);
        tracing::trace!(target: log::WRL, domid = domid.0, ?patience, "waits for a guard");
        self.alarms.push(Reverse((until, place)));
        connection.parked = Some(Parked::Guard);
        true
    }

    /// Makes those ready whose wait is over.
    pub(super) fn ring_alarms(&mut self) {
        while let Some(&Reverse((until, place))) = self.alarms.peek()
            && until <= self.now
        {
            self.alarms.pop();
            self.make_ready(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_that_is_over_keeps_no_place_for_those_who_waited() {
        let (guards, now) = (Guards::default(), Instant::now());
        let path = || Path::ROOT.to_buf();
        let owner = |connection| Asker { thread: 0, connection, id: 1 };
        for connection in 0..GUARDS_MAX {
            assert!(guards.set(owner(connection), path(), now));
        }
        assert!(guards.wait([Path::ROOT], 0, Domid(5), now).is_some());
        assert!(!guards.set(owner(GUARDS_MAX), path(), now));
        let later = now + GUARD_TIME_MAX;
        assert!(guards.wait([Path::ROOT], 0, Domid(5), later).is_none());
        assert!(!guards.any());
        assert!(guards.set(owner(GUARDS_MAX), path(), later));
    }
}

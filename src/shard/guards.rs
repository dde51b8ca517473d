//! Fairness between the control domain's transactions and guests' writes (XSA-206).
//!
//! A guest that rewrites a node without end could make every transaction that reads it fail. After
//! [`CONFLICTS_BEFORE_GUARD`] conflicts in a row on one path, the control domain's next transaction
//! sets a guard on it when it first touches it: guests that would write it wait until the
//! transaction ends, at most [`GUARD_TIME_MAX`].

use std::time::{Duration, Instant};

use super::connection::{Connection, Parked};
use super::mailbox::{Asker, Mailboxes, Message};
use super::thread::Thread;
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

    /// Guards `path` for a connection, which has one guard at most.
    pub fn set(&self, owner: Asker, path: PathBuf, now: Instant) {
        let mut guards = self.guards.lock();
        guards.retain(|guard| guard.until > now || !guard.waiting.is_empty());
        if guards.len() < GUARDS_MAX && guards.iter().all(|guard| guard.owner != owner) {
            guards.push(Guard { owner, path, until: now + GUARD_TIME_MAX, waiting: Vec::new() });
        }
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
        self.count.store(u32::try_from(guards.len()).unwrap_or(u32::MAX), Ordering::Release);
        drop(guards);
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
        for path in paths {
            let guarded = guards.iter_mut().find(|guard| {
                let guarded = guard.path.as_path();
                guard.until > now && (path.is_within(guarded) || guarded.is_within(path))
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
        &self,
        connection: &mut Connection,
        paths: impl IntoIterator<Item = Path<'p>>,
    ) -> bool {
        if !self.shared.guards.any() || !connection.is_guest() {
            return false;
        }
        let until = self.shared.guards.wait(paths, self.number, connection.domid(), self.now);
        connection.parked = until.map(Parked::Guard);
        connection.parked.is_some()
    }
}

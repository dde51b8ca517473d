//! Fairness among transactions, and between them and plain writes (XSA-206).
//!
//! Whoever rewrites a node without end could make every transaction that reads it fail. After
//! [`CONFLICTS_BEFORE_GUARD`] conflicts in a row, the control domain's next transaction sets a
//! *guard* where they were when it first touches that: whoever would write there waits until the
//! transaction ends, at most [`GUARD_TIME_MAX`]. Guards that overlap are set one after the other, in
//! the order in which they were asked for, so everybody's turn comes. A conflict in spite of a guard
//! makes the next one reach a level further up, though never over all domains' homes.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::connection::{Connection, Parked};
use super::mailbox::{Asker, Mailboxes, Message};
use super::thread::{Place, Thread};
use crate::log;
use crate::sync::{AtomicU32, Mutex, Ordering};
use crate::words::{Path, PathBuf};

/// So many conflicts in a row are bad luck; more are a pattern.
const CONFLICTS_BEFORE_GUARD: u32 = 2;
/// Who writes waits no longer than this for one transaction, whatever that does.
const GUARD_TIME_MAX: Duration = Duration::from_millis(50);
/// Who would write waits no longer than this for all that come before; then it does.
const WRITER_PATIENCE: Duration = GUARD_TIME_MAX;
/// Who would guard waits so long for its turn; then it goes without. Some hundred turns.
const TURN_PATIENCE: Duration = Duration::from_secs(1);
/// Guards at one time; further transactions go without. Every write looks at each.
const GUARDS_MAX: usize = 16;
/// Who waits for one guard; more go on at once. Every one who waits is looked at.
const WAITING_MAX: usize = 256;

struct Guard {
    owner: Asker,
    path: PathBuf,
    until: Instant,
    /// Who waits, in the order of asking, and what they would guard themselves.
    waiting: Vec<(Asker, Option<PathBuf>)>,
}

impl Guard {
    fn overlaps(&self, path: Path<'_>) -> bool {
        path.is_within(self.path.as_path()) || self.path.as_path().is_within(path)
    }

    /// Until when `asker` waits; `None` if too many do.
    fn queue(&mut self, asker: Asker, path: Option<PathBuf>) -> Option<Instant> {
        if self.waiting.iter().all(|(waiting, _)| *waiting != asker) {
            if self.waiting.len() >= WAITING_MAX {
                return None;
            }
            self.waiting.push((asker, path));
        }
        Some(self.until)
    }
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

    /// Does `work` on the guards that are not over. Who waits for one that is wakes by itself.
    fn with<T>(&self, now: Instant, work: impl FnOnce(&mut Vec<Guard>) -> T) -> T {
        let mut guards = self.guards.lock();
        guards.retain(|guard| guard.until > now);
        let result = work(&mut guards);
        self.count.store(u32::try_from(guards.len()).unwrap_or(u32::MAX), Ordering::Release);
        result
    }

    /// Guards `path` for a connection, which has one guard at most. Answers until when to wait if
    /// it is not its turn. Cost: the guards, at most [`GUARDS_MAX`].
    fn set(&self, owner: Asker, path: &PathBuf, now: Instant) -> Option<Instant> {
        self.with(now, |guards| {
            if guards.iter().any(|guard| guard.owner == owner) {
                return None;
            }
            if let Some(guard) = guards.iter_mut().find(|guard| guard.overlaps(path.as_path())) {
                return guard.queue(owner, Some(path.clone()));
            }
            if guards.len() < GUARDS_MAX {
                let (path, until) = (path.clone(), now + GUARD_TIME_MAX);
                tracing::trace!(target: log::WRL, path = %path.as_path(), "a guard is set");
                guards.push(Guard { owner, path, until, waiting: Vec::new() });
            }
            None
        })
    }

    /// Takes a connection out: its guard goes to the first who waits for a turn, else all go on.
    /// Cost: the guards and who waits for them.
    pub fn lift(&self, owner: Asker, now: Instant, mailboxes: &Mailboxes) {
        if !self.any() {
            return;
        }
        let woken = self.with(now, |guards| {
            for guard in guards.iter_mut() {
                guard.waiting.retain(|(waiting, _)| *waiting != owner);
            }
            let at = guards.iter().position(|guard| guard.owner == owner)?;
            let mut lifted = guards.swap_remove(at);
            let (path, waiting) = (lifted.path.as_path(), lifted.waiting.len());
            tracing::trace!(target: log::WRL, %path, waiting, "a guard is lifted");
            let turn = lifted.waiting.iter().position(|(_, path)| path.is_some());
            let Some((next, Some(path))) = turn.map(|turn| lifted.waiting.remove(turn)) else {
                return Some(lifted.waiting);
            };
            let until = now + GUARD_TIME_MAX;
            guards.push(Guard { owner: next, path, until, waiting: lifted.waiting });
            Some(vec![(next, None)])
        });
        for (asker, _) in woken.into_iter().flatten() {
            mailboxes.send(asker.thread, Message::Unguarded(asker));
        }
    }

    /// Until when somebody has to wait before it may write one of `paths`, if it has to. Who has a
    /// guard waits for nobody's: two that waited for each other would gain nothing.
    fn wait<'p>(
        &self,
        paths: impl IntoIterator<Item = Path<'p>>,
        asker: Asker,
        now: Instant,
    ) -> Option<Instant> {
        self.with(now, |guards| {
            if guards.iter().any(|guard| guard.owner == asker) {
                return None;
            }
            let guarded = |path| guards.iter().position(|guard| guard.overlaps(path));
            let at = paths.into_iter().find_map(guarded)?;
            guards[at].queue(asker, None)
        })
    }
}

impl Thread {
    /// Parks who would write what is guarded.
    pub(super) fn waits_for_guard<'p>(
        &mut self,
        place: Place,
        connection: &mut Connection,
        paths: impl IntoIterator<Item = Path<'p>>,
    ) -> bool {
        if !self.shared.guards.any() || self.lost_patience(connection, WRITER_PATIENCE) {
            return false;
        }
        let asker = self.asker(place, connection);
        let until = self.shared.guards.wait(paths, asker, self.now);
        self.park_until(place, connection, until)
    }

    /// Sets a guard for a transaction that touches where its connection's transactions failed, or
    /// parks it until its turn comes.
    pub(super) fn waits_for_turn(
        &mut self,
        place: Place,
        connection: &mut Connection,
        id: u32,
        path: Path<'_>,
    ) -> bool {
        let (Some((conflicts, failed)), false) = (&connection.conflicts, connection.is_guest())
        else {
            return false;
        };
        let touches = path.is_within(failed.as_path()) || failed.as_path().is_within(path);
        let guarded = connection.transactions.get(&id).is_none_or(|open| open.guards);
        if *conflicts < CONFLICTS_BEFORE_GUARD || !touches || guarded {
            return false;
        }
        let failed = failed.clone();
        if !self.lost_patience(connection, TURN_PATIENCE) {
            let asker = self.asker(place, connection);
            let until = self.shared.guards.set(asker, &failed, self.now);
            if self.park_until(place, connection, until) {
                return true;
            }
        }
        if let Some(open) = connection.transactions.get_mut(&id) {
            open.guards = true;
        }
        false
    }

    /// Whether a request that comes again has waited for long enough.
    fn lost_patience(&self, connection: &Connection, patience: Duration) -> bool {
        let waits_since = connection.waits_since.filter(|_| connection.comes_again);
        waits_since.is_some_and(|since| self.now >= since + patience)
    }

    fn park_until(
        &mut self,
        place: Place,
        connection: &mut Connection,
        until: Option<Instant>,
    ) -> bool {
        let Some(until) = until else { return false };
        let patience = until.saturating_duration_since(self.now);
        let domid = connection.domid().0;
        tracing::trace!(target: log::WRL, domid, ?patience, "waits for a guard");
        if !connection.comes_again {
            connection.waits_since = Some(self.now);
        }
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
    use crate::sync::Arc;

    fn asker(connection: usize) -> Asker {
        Asker { thread: 0, connection, id: 1 }
    }

    fn path(text: &str) -> PathBuf {
        Path::parse(text.as_bytes()).unwrap().to_buf()
    }

    #[test]
    fn a_guard_that_is_over_keeps_no_place_for_those_who_waited() {
        let (guards, now) = (Guards::default(), Instant::now());
        for connection in 0..GUARDS_MAX {
            assert!(
                guards.set(asker(connection), &path(&format!("/a/{connection}")), now).is_none()
            );
        }
        assert!(guards.wait([Path::ROOT], asker(99), now).is_some());
        assert!(guards.set(asker(GUARDS_MAX), &path("/b"), now).is_none());
        assert!(guards.wait([path("/b").as_path()], asker(99), now).is_none(), "no place for /b");
        let later = now + GUARD_TIME_MAX;
        assert!(guards.wait([Path::ROOT], asker(99), later).is_none());
        assert!(!guards.any());
    }

    #[test]
    fn turns_come_in_order_and_holders_wait_for_nobody() {
        let (guards, now) = (Guards::default(), Instant::now());
        let mailboxes = Mailboxes(Arc::new([]));
        assert!(guards.set(asker(1), &path("/a/x"), now).is_none());
        assert!(guards.set(asker(2), &path("/a"), now).is_some());
        assert!(guards.wait([path("/a/x/y").as_path()], asker(3), now).is_some());
        assert!(guards.set(asker(4), &path("/a/x"), now).is_some());
        assert!(guards.set(asker(5), &path("/c"), now).is_none());
        assert!(guards.wait([path("/a/x").as_path()], asker(5), now).is_none());
        for (before, next) in [(1, 2), (2, 4)] {
            guards.lift(asker(before), now, &mailboxes);
            assert!(guards.guards.lock().iter().any(|guard| guard.owner == asker(next)));
            assert!(guards.wait([path("/a/x").as_path()], asker(3), now).is_some());
        }
        guards.lift(asker(4), now, &mailboxes);
        assert!(guards.wait([path("/a/x").as_path()], asker(3), now).is_none());
    }
}

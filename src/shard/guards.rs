//! Fairness to transactions that keep failing (XSA-206).
//!
//! Whoever rewrites a node without end could make every transaction that reads it fail. So after
//! [`CONFLICTS_BEFORE_TURN`] conflicts in a row a connection of the control domain asks for a *turn*
//! with its next TRANSACTION_START, which is answered when the turn has come ([`super::turns`]).
//! During its turn the paths on which it failed are *guarded*: nobody else's write or commit changes
//! anything at, above or below them. Who would waits, as a connection; no thread does. A conflict on
//! another path guards that too, and the turn goes on.
//!
//! The promise: a client with one transaction at a time that needs less than [`TURN_TIME_MAX`] from
//! the reply to START to END fails at most [`CONFLICTS_BEFORE_TURN`] times, and once more for each
//! further path that others change. It does not hang on timing: the store refuses, under the lock, a
//! change whose caller asked whether it may write before the turn began ([`Store::begin_epoch`]); the
//! transaction's snapshots are taken after. Not promised: anything about what all domains' homes are
//! below, and against the deaths of domains.

use std::cmp::Reverse;
use std::time::Instant;

use super::Shared;
use super::connection::{Connection, Parked};
use super::mailbox::{Asker, Message};
use super::thread::Thread;
#[cfg(doc)]
use super::turns::TURN_TIME_MAX;
use super::turns::{Answer, Counts, Turns};
use crate::log;
use crate::store::Store;
use crate::sync::{AtomicBool, Mutex, Ordering};
use crate::words::{Path, PathBuf};

/// So many conflicts in a row are bad luck; more are a pattern.
const CONFLICTS_BEFORE_TURN: u32 = 2;
/// Paths that one transaction guards; where more compete, what is above some of them is guarded.
/// Every write during a turn is compared with each.
const GUARDED_PATHS_MAX: usize = 8;

/// Turns, as the threads share them.
#[derive(Default)]
pub struct Guards {
    /// Something is guarded.
    any: AtomicBool,
    turns: Mutex<Turns>,
}

impl Guards {
    /// Whether anything is guarded. Cost: a load, which is all that a write pays when nothing is.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// What came of turns.
    pub fn counts(&self) -> Counts {
        self.turns.lock().counts()
    }

    /// Does `work` on the turns as they are at `now`; answers also who is to be told to go on.
    pub fn with<T>(
        &self,
        store: &Store,
        now: Instant,
        work: impl FnOnce(&mut Turns) -> T,
    ) -> (T, Vec<Asker>) {
        let mut turns = self.turns.lock();
        let before = turns.counts();
        turns.advance(now);
        let result = work(&mut turns);
        turns.advance(now);
        self.any.store(turns.guards(), Ordering::Release);
        let after = turns.counts();
        if (before.begun, before.widened) != (after.begun, after.widened) {
            store.begin_epoch();
        }
        (result, turns.take_woken())
    }
}

impl Shared {
    fn turns<T>(&self, now: Instant, work: impl FnOnce(&mut Turns) -> T) -> T {
        let (result, woken) = self.guards.with(&self.store, now, work);
        for asker in woken {
            self.mailboxes.post(asker.thread, Message::Unguarded(asker));
        }
        result
    }
}

/// What a connection remembers of transactions that failed.
#[derive(Default)]
pub struct Failing {
    /// Conflicts in a row.
    conflicts: u32,
    /// Where they were: at most [`GUARDED_PATHS_MAX`].
    paths: Vec<PathBuf>,
    /// It had a turn, which may be over.
    in_turn: bool,
}

impl Failing {
    /// Notes a conflict at `path`, which was guarded if `in_turn`.
    fn note(&mut self, path: Path<'_>, in_turn: bool) {
        self.conflicts = self.conflicts.saturating_add(1);
        let room = self.paths.len() < GUARDED_PATHS_MAX;
        let covers = |known: &&mut PathBuf| path.is_within(known.as_path());
        if let Some(known) = self.paths.iter_mut().find(covers) {
            // RM of what is not there is answered by whether its parent is: look further up.
            if in_turn && let Some(above) = known.as_path().parent().filter(is_narrow) {
                *known = above.to_buf();
            }
        } else if is_narrow(&path) && room {
            self.paths.push(path.to_buf());
        } else {
            let joined = |known: &PathBuf| Some(nearest_above(known.as_path(), path)?.to_buf());
            let above =
                self.paths.iter().enumerate().find_map(|(at, known)| Some((at, joined(known)?)));
            if let Some((at, above)) = above {
                self.paths[at] = above;
            }
        }
    }
}

/// Whether not all domains' homes are below: they are never guarded all at once.
fn is_narrow(path: &Path<'_>) -> bool {
    Path::parse(b"/local/domain").is_ok_and(|domains| !domains.is_within(*path))
}

/// The nearest path that both are within, unless all domains' homes are.
fn nearest_above<'p>(path: Path<'p>, other: Path<'_>) -> Option<Path<'p>> {
    let mut up = std::iter::successors(Some(path), |path| path.parent());
    up.find(|above| other.is_within(*above)).filter(is_narrow)
}

/// Whether a request may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// At once.
    Admitted,
    /// Later: its connection is parked, and has it again then.
    Parked,
}

impl Thread {
    /// Before TRANSACTION_START of a connection whose transactions failed: asks for a turn, and
    /// parks it until that comes.
    pub(super) fn await_turn(&mut self, connection: &mut Connection) -> Admission {
        let failing = &connection.failing;
        if failing.conflicts < CONFLICTS_BEFORE_TURN || failing.paths.is_empty() {
            return Admission::Admitted;
        }
        let (asker, now) = (connection.asker, self.now);
        match self.shared.turns(now, |turns| turns.ask(asker, &failing.paths, now)) {
            Answer::Yours => {
                for path in &failing.paths {
                    tracing::trace!(target: log::WRL, path = %path.as_path(), "a guard is set");
                }
                connection.failing.in_turn = true;
                Admission::Admitted
            }
            Answer::Wait(until) => self.park_until(connection, until),
            Answer::Without => Admission::Admitted,
        }
    }

    /// Parks who would write what is guarded.
    pub(super) fn await_guard<'p>(
        &mut self,
        connection: &mut Connection,
        paths: impl IntoIterator<Item = Path<'p>>,
    ) -> Admission {
        if !self.shared.guards.any() {
            return Admission::Admitted;
        }
        let asker = connection.asker;
        let until = self.shared.turns(self.now, |turns| turns.wait(asker, paths));
        until.map_or(Admission::Admitted, |until| self.park_until(connection, until))
    }

    fn park_until(&mut self, connection: &mut Connection, until: Instant) -> Admission {
        let patience = until.saturating_duration_since(self.now);
        let domid = connection.domid().0;
        tracing::trace!(target: log::WRL, domid, ?patience, "waits for a guard");
        if connection.alarm != Some(until) {
            connection.alarm = Some(until);
            self.alarms.push(Reverse((until, connection.asker.connection)));
        }
        connection.parked = Some(Parked::Guard);
        Admission::Parked
    }

    /// After a connection that was parked has been served.
    pub(super) fn came_through(&mut self, connection: &Connection) {
        let asker = connection.asker;
        self.shared.turns(self.now, |turns| turns.came_through(asker));
    }

    /// Remembers where a transaction failed, for the next.
    pub(super) fn note_failed(&self, connection: &mut Connection, path: Path<'_>) {
        if connection.is_guest() {
            return;
        }
        let asker = connection.asker;
        let failing = &mut connection.failing;
        if !failing.in_turn {
            return failing.note(path, false);
        }
        self.shared.turns(self.now, |turns| {
            failing.note(path, turns.is_of(asker));
            turns.widen(asker, &failing.paths);
        });
    }

    /// After a transaction that ended otherwise: the connection's turn is over.
    pub(super) fn forget_failed(&self, connection: &mut Connection) {
        let failing = std::mem::take(&mut connection.failing);
        if failing.in_turn {
            let (asker, now) = (connection.asker, self.now);
            self.shared.turns(now, |turns| turns.end(asker, now));
        }
    }

    /// At the end of a connection: nobody waits for it any more.
    pub(super) fn leave_turns(&self, connection: &mut Connection) {
        connection.failing = Failing::default();
        let (asker, now) = (connection.asker, self.now);
        self.shared.turns(now, |turns| turns.leave(asker, now));
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

    fn path(text: &str) -> Path<'_> {
        Path::parse(text.as_bytes()).unwrap()
    }

    fn noted(failing: &Failing) -> Vec<String> {
        failing.paths.iter().map(|path| path.as_path().to_string()).collect()
    }

    #[test]
    fn paths_are_noted_once_and_joined_when_they_are_many() {
        let mut failing = Failing::default();
        for text in ["/a/1", "/a/1", "/a/1/x", "/", "/local", "/local/domain"] {
            failing.note(path(text), false);
        }
        assert_eq!(noted(&failing), ["/a/1"]);
        failing.note(path("/a/1"), true);
        assert_eq!(noted(&failing), ["/a"], "its guard was not enough");
        failing.note(path("/a"), true);
        assert_eq!(noted(&failing), ["/a"], "but never all");
        for domid in 1..GUARDED_PATHS_MAX {
            failing.note(path(&format!("/local/domain/{domid}/x")), false);
        }
        failing.note(path("/local/domain/3/y"), false);
        failing.note(path("/elsewhere"), false);
        assert_eq!(failing.paths.len(), GUARDED_PATHS_MAX);
        assert_eq!(noted(&failing)[3], "/local/domain/3");
        assert_eq!(noted(&failing)[0], "/a");
    }
}

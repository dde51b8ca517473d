//! Fairness to transactions that keep failing (XSA-206).
//!
//! Whoever rewrites a node without end could make every transaction that reads it fail. So after
//! [`CONFLICTS_BEFORE_TURN`] conflicts in a row a connection of the control domain asks for a *turn*
//! with its next TRANSACTION_START, which is answered when the turn has come ([`turns`](crate::shard::turns)).
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

use std::time::Instant;

use super::core::Core;
use super::failing::Failing;
use super::{Parked, Session};
use crate::log;
use crate::shard::turns::Answer;
#[cfg(doc)]
use crate::shard::turns::TURN_TIME_MAX;
#[cfg(doc)]
use crate::store::Store;
use crate::words::Path;

/// So many conflicts in a row are bad luck; more are a pattern.
const CONFLICTS_BEFORE_TURN: u32 = 2;

/// Whether a request may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// At once.
    Admitted,
    /// Later: its connection is parked, and has it again then.
    Parked,
}

/// Before TRANSACTION_START of a connection whose transactions failed: asks for a turn, and
/// parks it until that comes.
pub fn await_turn(core: &Core, session: &mut Session) -> Admission {
    let failing = &session.failing;
    if failing.conflicts < CONFLICTS_BEFORE_TURN || failing.paths.is_empty() {
        return Admission::Admitted;
    }
    let (asker, now) = (session.asker, core.now);
    match core.shared.turns(now, |turns| turns.ask(asker, &failing.paths, now)) {
        Answer::Yours => {
            for path in &failing.paths {
                tracing::trace!(target: log::WRL, path = %path.as_path(), "a guard is set");
            }
            session.failing.in_turn = true;
            Admission::Admitted
        }
        Answer::Wait(until) => park_until(core, session, until),
        Answer::Without => Admission::Admitted,
    }
}

/// Parks who would write what is guarded.
pub fn await_guard<'p>(
    core: &Core,
    session: &mut Session,
    paths: impl IntoIterator<Item = Path<'p>>,
) -> Admission {
    if !core.shared.guards.any() {
        return Admission::Admitted;
    }
    let asker = session.asker;
    let until = core.shared.turns(core.now, |turns| turns.wait(asker, paths));
    until.map_or(Admission::Admitted, |until| park_until(core, session, until))
}

fn park_until(core: &Core, session: &mut Session, until: Instant) -> Admission {
    let patience = until.saturating_duration_since(core.now);
    let domid = session.domid().0;
    tracing::trace!(target: log::WRL, domid, ?patience, "waits for a guard");
    session.parked = Some(Parked::Guard(until));
    Admission::Parked
}

/// After a connection that was parked has been served.
pub fn came_through(core: &Core, session: &Session) {
    let asker = session.asker;
    core.shared.turns(core.now, |turns| turns.came_through(asker));
}

/// Remembers where a transaction failed, for the next.
pub fn note_failed(core: &Core, session: &mut Session, path: Path<'_>) {
    if session.is_guest() {
        return;
    }
    let asker = session.asker;
    let failing = &mut session.failing;
    if !failing.in_turn {
        return failing.note(path, false);
    }
    core.shared.turns(core.now, |turns| {
        failing.note(path, turns.is_of(asker));
        turns.widen(asker, &failing.paths);
    });
}

/// After a transaction that ended otherwise: the connection's turn is over.
pub fn forget_failed(core: &Core, session: &mut Session) {
    let failing = std::mem::take(&mut session.failing);
    if failing.in_turn {
        let (asker, now) = (session.asker, core.now);
        core.shared.turns(now, |turns| turns.end(asker, now));
    }
}

/// At the end of a connection: nobody waits for it any more.
pub fn leave_turns(core: &Core, session: &mut Session) {
    session.failing = Failing::default();
    let (asker, now) = (session.asker, core.now);
    core.shared.turns(now, |turns| turns.leave(asker, now));
}

//! Reservations: fairness to transactions that keep failing (XSA-206).
//!
//! A client that rewrites a node in a loop could make every transaction that reads it fail. So after
//! [`CONFLICTS_BEFORE_TURN`] consecutive conflicts, a connection of the control domain requests a *reservation* with
//! its next TRANSACTION_START, whose reply is delayed until the reservation begins ([`turns`](crate::shard::turns)).
//! While it lasts, the paths of the conflicts are *reserved*: no other client's write or commit changes anything at,
//! above or below them. The connections of such writers are parked; no thread waits. A conflict on another path adds
//! that path to the reservation.
//!
//! The guarantee: a client that has one transaction at a time, and needs less than [`TURN_TIME_MAX`] from the reply to
//! START to END, fails at most [`CONFLICTS_BEFORE_TURN`] times, and once more for each further path that others change.
//! It does not depend on timing: the store refuses, under the lock, a change whose caller was admitted before the
//! reservation began ([`Store::begin_epoch`]), and the transaction's snapshots are taken afterwards.
//!
//! Not guaranteed: anything about paths above all domains' partitions, and anything against the death of domains.

use std::time::Instant;

use super::core::Core;
use super::failing::Failing;
use super::{Parked, Session};
use crate::log;
use crate::shard::turns::Claim;
#[cfg(doc)]
use crate::shard::turns::TURN_TIME_MAX;
#[cfg(doc)]
use crate::store::Store;
use crate::words::Path;

/// One or two consecutive conflicts are common under load, and reservations cost other clients time.
const CONFLICTS_BEFORE_TURN: u32 = 2;

/// Whether a request may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Admitted,
    /// Its connection is parked, and retries it later.
    Parked,
}

/// Requests a reservation before TRANSACTION_START of a connection whose transactions failed, and parks the connection
/// until it begins.
pub fn await_turn(core: &Core, session: &mut Session) -> Admission {
    let failing = &session.failing;
    if failing.conflicts < CONFLICTS_BEFORE_TURN || failing.paths.is_empty() {
        return Admission::Admitted;
    }
    let (reply_to, now) = (session.reply_to, core.now);
    match core.shared.turns(now, |turns| turns.ask(reply_to, &failing.paths, now)) {
        Claim::Held => {
            for path in &failing.paths {
                tracing::trace!(target: log::WRL, path = %path.as_path(), "a guard is set");
            }
            session.failing.in_turn = true;
            Admission::Admitted
        }
        Claim::Wait(until) => park_until(core, session, until),
        Claim::Refused => Admission::Admitted,
    }
}

/// Parks a connection that would write a reserved path.
pub fn await_guard<'p>(
    core: &Core,
    session: &mut Session,
    paths: impl IntoIterator<Item = Path<'p>>,
) -> Admission {
    if !core.shared.guards.any() {
        return Admission::Admitted;
    }
    let reply_to = session.reply_to;
    let until = core.shared.turns(core.now, |turns| turns.wait(reply_to, paths));
    until.map_or(Admission::Admitted, |until| park_until(core, session, until))
}

fn park_until(core: &Core, session: &mut Session, until: Instant) -> Admission {
    let timeout = until.saturating_duration_since(core.now);
    let domid = session.domid().0;
    tracing::trace!(target: log::WRL, domid, ?timeout, "waits for a guard");
    session.parked = Some(Parked::Guard(until));
    Admission::Parked
}

/// Notes that a parked connection was served, so that the next reservation need not wait for it.
pub fn came_through(core: &Core, session: &Session) {
    let reply_to = session.reply_to;
    core.shared.turns(core.now, |turns| turns.came_through(reply_to));
}

/// Notes the path of a conflict for the next reservation, and adds it to the present one.
pub fn note_failed(core: &Core, session: &mut Session, path: Path<'_>) {
    if session.is_guest() {
        return;
    }
    let reply_to = session.reply_to;
    let failing = &mut session.failing;
    if !failing.in_turn {
        return failing.note(path, false);
    }
    core.shared.turns(core.now, |turns| {
        failing.note(path, turns.is_of(reply_to));
        turns.widen(reply_to, &failing.paths);
    });
}

/// Ends the connection's reservation after a transaction that ended without a conflict.
pub fn forget_failed(core: &Core, session: &mut Session) {
    let failing = std::mem::take(&mut session.failing);
    if failing.in_turn {
        let (reply_to, now) = (session.reply_to, core.now);
        core.shared.turns(now, |turns| turns.end(reply_to, now));
    }
}

/// Withdraws a connection that ends from its reservation, and from the queues.
pub fn leave_turns(core: &Core, session: &mut Session) {
    session.failing = Failing::default();
    let (reply_to, now) = (session.reply_to, core.now);
    core.shared.turns(now, |turns| turns.leave(reply_to, now));
}

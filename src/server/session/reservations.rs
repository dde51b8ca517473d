//! Reservations: fairness to transactions that keep failing (XSA-206).
//!
//! A client that rewrites a node in a loop could make every transaction that reads it fail. So after
//! [`CONFLICTS_BEFORE_RESERVATION`] consecutive conflicts, a connection of the control domain requests a *reservation*
//! with its next TRANSACTION_START, whose reply is delayed until the reservation begins
//! ([`reservations`](crate::server::reservations)). While it lasts, the paths of the conflicts are *reserved*: no other
//! client's write or commit changes anything at, above or below them. The connections of such writers are parked; no
//! thread waits. A conflict on another path adds that path to the reservation. C xenstored limits the rate of all
//! guests' writes instead; here uncontended clients pay one load.
//!
//! An END of the control domain that has lost too many races to other commits, without a conflict, requests one for the
//! partitions concerned, and the replay in it loses no race. That reservation ends with END.
//!
//! The guarantee: a client that has one transaction at a time, and needs less than [`RESERVATION_TIME_MAX`] from the
//! reply to START to END, fails at most [`CONFLICTS_BEFORE_RESERVATION`] times, and once more for each further path
//! that others change. The guarantee does not depend on timing: the store refuses, under the lock, a change whose
//! caller was admitted before the reservation began ([`Store::begin_epoch`]), and the transaction's snapshots are taken
//! afterwards.
//!
//! There is no guarantee for paths above all domains' partitions, and none against the death of domains.

use std::time::Instant;

use super::core::Core;
use super::failing::Failing;
use super::{Parked, Session};
use crate::log;
use crate::server::mailbox::ReplyTo;
use crate::server::reservations::Claim;
#[cfg(doc)]
use crate::server::reservations::RESERVATION_TIME_MAX;
#[cfg(doc)]
use crate::store::Store;
use crate::types::{Path, PathBuf};

/// One or two consecutive conflicts are common under load, and reservations cost other clients time.
const CONFLICTS_BEFORE_RESERVATION: u32 = 2;

/// Whether a request may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Admitted,
    /// The request's connection is parked, and retries the request later.
    Parked,
}

/// Requests a reservation before TRANSACTION_START of a connection whose transactions failed, and parks the connection
/// until it begins.
pub fn await_reservation(core: &Core, session: &mut Session) -> Admission {
    let failing = &session.failing;
    // Conflicts of guests are not counted (`note_failed`), so they never wait here.
    if failing.conflicts < CONFLICTS_BEFORE_RESERVATION || failing.paths.is_empty() {
        return Admission::Admitted;
    }
    let (reply_to, now) = (session.reply_to, core.now);
    match core
        .shared
        .with_reservations(now, |reservations| reservations.ask(reply_to, &failing.paths, now))
    {
        Claim::Held => {
            for path in &failing.paths {
                tracing::trace!(target: log::WRL, path = %path.as_path(), "path reserved");
            }
            session.failing.in_reservation = true;
            Admission::Admitted
        }
        Claim::Wait(until) => park_until(core, session, until),
        Claim::Refused => Admission::Admitted,
    }
}

/// Requests a reservation of the partitions in which an END lost its races, beside what the connection has reserved, and
/// parks the connection until it begins. Without a reservation, as when too many wait for one, END may lose more races.
pub fn await_partitions(core: &Core, session: &mut Session, partitions: &[PathBuf]) -> Admission {
    let (reply_to, now) = (session.reply_to, core.now);
    let failing = &mut session.failing;
    let reserved = if failing.in_reservation { &failing.paths[..] } else { &[] };
    let paths = [reserved, partitions].concat();
    let claim = core.shared.with_reservations(now, |reservations| {
        let claim = reservations.ask(reply_to, &paths, now);
        reservations.widen(reply_to, &paths);
        claim
    });
    match claim {
        Claim::Held => {
            failing.end_in_reservation = !failing.in_reservation;
            Admission::Admitted
        }
        Claim::Wait(until) => park_until(core, session, until),
        Claim::Refused => Admission::Admitted,
    }
}

/// Parks a connection that would write a reserved path.
pub fn await_reserved_path<'p>(
    core: &Core,
    session: &mut Session,
    paths: impl IntoIterator<Item = Path<'p>>,
) -> Admission {
    // A reservation that begins after this load begins an epoch, in which the store refuses this write.
    if !core.shared.reservations.any() {
        return Admission::Admitted;
    }
    let reply_to = session.reply_to;
    let until =
        core.shared.with_reservations(core.now, |reservations| reservations.wait(reply_to, paths));
    until.map_or(Admission::Admitted, |until| park_until(core, session, until))
}

fn park_until(core: &Core, session: &mut Session, until: Instant) -> Admission {
    let timeout = until.saturating_duration_since(core.now);
    let domid = session.domid().0;
    tracing::trace!(target: log::WRL, domid, ?timeout, "waiting for a reservation");
    // No thread waits: the request stays in the input, and is served again.
    session.parked = Some(Parked::Reserved(until));
    Admission::Parked
}

/// Records that a parked connection was served, so that the next reservation need not wait for it.
pub fn came_through(core: &Core, session: &Session) {
    let reply_to = session.reply_to;
    core.shared.with_reservations(core.now, |reservations| reservations.came_through(reply_to));
}

/// Records the path of a conflict for the next reservation, and adds the path to the present one.
pub fn note_failed(core: &Core, session: &mut Session, path: Path<'_>) {
    if session.is_guest() {
        // Reservations stop other writers, which a guest must not be able to cause.
        return;
    }
    let reply_to = session.reply_to;
    let failing = &mut session.failing;
    if !failing.in_reservation {
        failing.note(path, false);
        if std::mem::take(&mut failing.end_in_reservation) {
            end_reservation(core, reply_to);
        }
        return;
    }
    core.shared.with_reservations(core.now, |reservations| {
        // Whether it has expired is known only under the lock.
        failing.note(path, reservations.is_of(reply_to));
        reservations.widen(reply_to, &failing.paths);
    });
}

/// Ends the connection's reservation after a transaction that ended without a conflict.
pub fn forget_failed(core: &Core, session: &mut Session) {
    let failing = std::mem::take(&mut session.failing);
    if failing.in_reservation || failing.end_in_reservation {
        end_reservation(core, session.reply_to);
    }
}

fn end_reservation(core: &Core, reply_to: ReplyTo) {
    let now = core.now;
    core.shared.with_reservations(now, |reservations| reservations.end(reply_to, now));
}

/// Withdraws a connection that ends from its reservation, and from the queues.
pub fn leave_reservations(core: &Core, session: &mut Session) {
    session.failing = Failing::default();
    let (reply_to, now) = (session.reply_to, core.now);
    core.shared.with_reservations(now, |reservations| reservations.leave(reply_to, now));
}

//! Effects of time on connections: events that guests do not take expire, and stalled clients are logged.

use std::time::{Duration, Instant};

use super::clients::Clients;
use super::connection::Connection;
use super::stalls::Stall;
use super::timers::Timers;
use crate::domain::Notice;
use crate::server::session::Session;
use crate::server::session::core::Core;

/// Makes the connections ready whose timers have expired.
pub fn fire_timers(timers: &mut Timers, clients: &mut Clients, now: Instant) {
    while let Some(slot) = timers.take_due(now) {
        clients.make_ready(slot);
    }
}

/// Serves the connections that wait for time to pass, once per [`TICK`](super::timers::TICK).
pub fn tick(core: &Core, timers: &mut Timers, clients: &mut Clients) {
    for slot in timers.take_tick(core.now) {
        match clients.get_mut(slot) {
            Some(connection) => {
                expire_events(core, &mut connection.session);
                note_stall(core, connection);
            }
            None => timers.end_ticks(slot),
        }
        clients.make_ready(slot);
    }
}

/// Drops the events that a guest has not taken within the timeout, unless it is quiesced and cannot take them.
fn expire_events(core: &Core, session: &mut Session) {
    let timeout = core.shared.watch_event_timeout;
    if !session.is_guest() || timeout == Duration::ZERO || session.is_quiesced() {
        return;
    }
    let Some(deadline) = core.now.checked_sub(timeout) else { return };
    if session.output.oldest_event().is_some_and(|queued| queued < deadline) {
        let dropped = session.output.drop_events_before(deadline);
        session.recharge_output();
        // A guest can cause this at will, so the lines are limited.
        if let Some(count) = session.domain.notice(Notice::EventsDropped) {
            let domid = session.domid().0;
            tracing::warn!(domid, dropped, count, "events timed out");
        }
    }
}

/// Logs, once, a client that has taken nothing of its output during the timeout.
fn note_stall(core: &Core, connection: &mut Connection) {
    let (session, timeout) = (&connection.session, core.shared.watch_event_timeout);
    if session.is_guest() || timeout == Duration::ZERO || session.output.is_empty() {
        return;
    }
    let position = session.output.position();
    if Stall::note(&mut connection.stall, position, core.now, timeout) {
        connection.warn_of_unread("client stalled, output unread");
    }
}

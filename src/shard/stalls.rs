//! Clients of the control domain that stopped reading: named in the log.
//!
//! A guest's events are dropped after the timeout `watch-event`. Those of the control domain's clients never are, as
//! toolstacks rely on them: they wait until the client reads or is closed at its limit, and an operator has to find
//! the process.

use std::time::{Duration, Instant};

use super::connection::Connection;
use super::thread::Thread;
use super::trace;

/// A client that does not take what waits for it.
pub struct Stall {
    /// Where its output stood; it reads if that is elsewhere now.
    position: u64,
    since: Instant,
    named: bool,
}

impl Thread {
    /// Names a client in the log, once, that has taken nothing during the timeout.
    pub(super) fn note_stall(&self, connection: &mut Connection) {
        let (timeout, position) = (self.shared.watch_event_timeout, connection.output.position());
        if connection.is_guest() || timeout == Duration::ZERO || connection.output.is_empty() {
            return;
        }
        match &mut connection.stall {
            Some(stall) if stall.position == position => {
                if stall.named || self.now.duration_since(stall.since) < timeout {
                    return;
                }
                stall.named = true;
            }
            stall => {
                *stall = Some(Stall { position, since: self.now, named: false });
                return;
            }
        }
        self.warn_of_unread(connection, "a client does not read what waits for it");
    }

    /// Says so in the log if a connection ends because its client does not read, or ends otherwise after the
    /// client was named and read nothing since.
    pub(super) fn note_end_of_stall(&self, connection: &Connection) {
        let position = connection.output.position();
        let stalled = |stall: &Stall| stall.named && stall.position == position;
        if connection.is_over_its_limit() {
            self.warn_of_unread(connection, "closed a client that does not read its events");
        } else if connection.stall.as_ref().is_some_and(stalled) {
            self.warn_of_unread(connection, "a client that did not read is gone");
        }
    }

    /// Logs what waits for a client, and which process that is.
    fn warn_of_unread(&self, connection: &Connection, what: &str) {
        tracing::warn!(
            connection = %trace::name(&connection.asker),
            domid = connection.domid().0,
            pid = connection.transport.pid(),
            unsent = connection.output.len(),
            events = connection.output.pending_events(),
            watches = connection.watches.len(),
            "{what}"
        );
    }
}

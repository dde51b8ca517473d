//! The warning that clients cannot be accepted.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::Seldom;

/// Interval of the warning while clients cannot be accepted. Accepting is retried several times a second; this is rare
/// enough not to fill the disk and frequent enough to be near the end of the log.
const REMINDER: Duration = Duration::from_secs(60);

/// The rate-limited warning of one socket.
pub struct Unaccepted {
    socket: &'static str,
    warned: Seldom,
}

impl Unaccepted {
    /// Makes the warning of a socket, which log lines name as `socket`.
    pub fn of(socket: &'static str) -> Unaccepted {
        Unaccepted { socket, warned: Seldom::every(REMINDER) }
    }

    /// Logs that accepting failed and how to fix it, unless that was logged recently.
    pub fn warn(&self, error: &io::Error) {
        if self.warned.count().is_none() {
            return;
        }
        let (socket, limit) = (self.socket, getrlimit(Resource::Nofile).current);
        if Errno::from_io_error(error) == Some(Errno::MFILE) {
            tracing::warn!(
                socket,
                limit,
                "cannot accept clients: all file descriptors are in use; raise the limit of open files \
                 (LimitNOFILE= of the unit, ulimit -n) or end clients with too many connections"
            );
        } else {
            tracing::warn!(socket, %error, "cannot accept clients");
        }
    }
}

//! The line that says that clients cannot be accepted.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::Seldom;

/// While clients cannot be accepted, which is tried several times a second, the log says so this often: seldom
/// enough not to fill the disk, often enough for an operator who looks at its end.
const REMINDER: Duration = Duration::from_secs(60);

/// Whether the log has said that clients of a socket cannot be accepted.
pub struct Unaccepted {
    socket: &'static str,
    warned: Seldom,
}

impl Unaccepted {
    /// Of a socket, as the log names it.
    pub fn of(socket: &'static str) -> Unaccepted {
        Unaccepted { socket, warned: Seldom::every(REMINDER) }
    }

    /// Logs that accepting failed and what helps, unless the log said so a moment ago.
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

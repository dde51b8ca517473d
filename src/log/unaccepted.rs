//! The line that says that clients cannot be accepted.

use std::io;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// While clients cannot be accepted, which is tried several times a second, the log says so this often: seldom
/// enough not to fill the disk, often enough for an operator who looks at its end.
const REMINDER: Duration = Duration::from_secs(60);

/// Whether the log has said that clients of a socket cannot be accepted.
pub struct Unaccepted {
    socket: &'static str,
    warned: Mutex<Option<Instant>>,
}

impl Unaccepted {
    /// Of a socket, as the log names it.
    pub fn of(socket: &'static str) -> Unaccepted {
        Unaccepted { socket, warned: Mutex::new(None) }
    }

    /// Logs that accepting failed and what helps, unless the log said so a moment ago.
    pub fn warn(&self, error: &io::Error) {
        let mut warned = self.warned.lock();
        if warned.is_some_and(|warned| warned.elapsed() < REMINDER) {
            return;
        }
        *warned = Some(Instant::now());
        drop(warned);
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

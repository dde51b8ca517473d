//! The way of a move from one daemon to another.

use std::io::{self, PipeReader, PipeWriter};
use std::sync::Arc;
use std::thread;

use super::daemon::Daemon;
use super::lock::Lock;
use super::pace::Pace;

/// The daemons of a move, and the maximum number of transfers of a domain that changes during its export.
pub struct Route {
    pub source: Daemon,
    pub destination: Daemon,
    pub tries: u32,
    /// Whether both daemons write digests, so that the destination refuses a stream without one.
    pub has_digests: bool,
    /// The limit of the streams' bytes per second.
    pub pace: Option<Arc<Pace>>,
}

impl Route {
    /// Makes the route between two daemons.
    pub fn new(source: Daemon, destination: Daemon, tries: u32, pace: Option<Arc<Pace>>) -> Route {
        let has_digests = source.has_digests() && destination.has_digests();
        Route { source, destination, tries, has_digests, pace }
    }

    /// Makes a pipe from the source to the destination, at the pace of the route. Its thread ends with either end.
    ///
    /// # Errors
    /// Those of making pipes or the thread.
    pub fn pipe(&self) -> io::Result<(PipeReader, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        let Some(pace) = self.pace.clone() else { return Ok((reader, writer)) };
        let (paced, out) = io::pipe()?;
        // The daemons report the end of a stream that is cut off.
        thread::Builder::new().name("pace".into()).spawn(move || drop(pace.copy(reader, out)))?;
        Ok((paced, writer))
    }

    /// Opens the lock of moves between the two daemons.
    pub fn lock(&self) -> Lock {
        Lock::of([self.source.migration(), self.destination.migration()])
    }
}

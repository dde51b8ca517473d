//! The serving process's end of the pipe to its keeper.

use std::env;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{retry_on_intr, write};
use rustix::process::Pid;
use tracing::error;

use super::super::error::DaemonError;
use super::super::stop::Stop;
use crate::host::inherited::{self, Kind};

/// Marks the serving process. The value is the descriptor of its link and the keeper's process id.
pub(super) const MARK: &str = "XENSTORED_KEEPER";

/// The serving process's end of the pipe to its keeper. Clones share it.
#[derive(Clone)]
pub(in crate::daemon) struct Link {
    pipe: Arc<OwnedFd>,
    pid: Pid,
}

impl Link {
    /// Returns the link of this process, `None` if no keeper started it.
    ///
    /// # Errors
    /// [`DaemonError::Usage`] if the environment names a keeper, and the link was not inherited.
    pub(in crate::daemon) fn detect() -> Result<Option<Link>, DaemonError> {
        let Some(mark) = env::var_os(MARK) else { return Ok(None) };
        let link = mark.to_str().and_then(|mark| {
            let (descriptor, pid) = mark.split_once(' ')?;
            let pipe = inherited::take(descriptor.parse().ok()?, Kind::Pipe).ok()?;
            Some(Link { pipe: Arc::new(pipe), pid: Pid::from_raw(pid.parse().ok()?)? })
        });
        let refusal = || {
            DaemonError::Usage(format!(
                "{MARK} is set, but no keeper started this process; unset it"
            ))
        };
        link.map(Some).ok_or_else(refusal)
    }

    /// Returns the keeper's process id.
    pub(in crate::daemon) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Reports that the process `pid` serves: this one or its successor.
    ///
    /// # Errors
    /// `BrokenPipe` if the keeper has ended.
    pub(in crate::daemon) fn report_serving(&self, pid: u32) -> io::Result<()> {
        write(&self.pipe, format!("serving {pid}\n").as_bytes())?;
        Ok(())
    }

    /// Requests the stop, from a new thread, if the keeper ends: no process would forward signals any more, and a start
    /// script would start a second daemon.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub(in crate::daemon) fn stop_without_keeper(&self, stop: Stop) -> io::Result<()> {
        let (pipe, pid) = (Arc::clone(&self.pipe), self.pid());
        let watch = move || {
            // The write end reports an error, without being asked for it, once no process has the read end.
            let mut fds = [PollFd::new(&pipe, PollFlags::empty())];
            let _ = retry_on_intr(|| poll(&mut fds, None));
            error!(pid, "the keeper has ended, stopping");
            stop.abandon();
        };
        thread::Builder::new().name("keeper".into()).spawn(watch).map(drop)
    }
}

impl AsRawFd for Link {
    fn as_raw_fd(&self) -> RawFd {
        self.pipe.as_raw_fd()
    }
}

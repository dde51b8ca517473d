//! The keeper: the process whose id service managers, pid files and start scripts know. It starts the serving process as
//! its child and waits for it, so that the serving process can be replaced while the known process stays.
//!
//! The keeper has one thread, reads nothing from clients or guests, and allocates nothing while it waits. It forwards
//! signals, notifies the service manager, and ends with the exit code of the serving process. The serving process has
//! the write end of a pipe, its link: it writes a line to it once it serves, and stops when the keeper has ended.

mod link;

use std::env;
use std::ffi::OsString;
use std::io::{self, PipeReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionbio, read};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, wait,
};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use tracing::{error, warn};

use super::error::DaemonError;
use super::settings::Settings;
use super::{FLUSH_TIME_MAX, activation, background};
use crate::host::inherited;
use crate::log::{self, Destination};

pub(super) use link::Link;

use link::MARK;

/// Added to the name of the serving process, as `ps` shows it.
const ROLE: &str = ": serving";

/// Maximum length of a line from the serving process. The longest valid one has 18 bytes.
const REPORT_MAX: usize = 64;

/// Runs the keeper until the serving process ends, and returns that one's exit code.
///
/// # Errors
/// The serving process cannot be started, or was ended by a signal.
pub(super) fn keep(settings: &Settings, second: bool) -> Result<u8, DaemonError> {
    if second {
        background::detach()?;
    }
    let started = serving().and_then(|command| Keeper::start(settings, second, command));
    let mut keeper = started.map_err(|error| DaemonError::Other {
        what: "cannot start the serving process".into(),
        error,
    })?;
    let end = keeper.run();
    if end.is_err() || keeper.has_log {
        if let Err(failure) = &end
            && (second || settings.log.destination != Destination::Stderr)
        {
            keeper.start_log();
            error!("{failure}");
        }
        log::flush(FLUSH_TIME_MAX);
    }
    end
}

struct Keeper<'a> {
    settings: &'a Settings,
    /// Whether this is the second process of a background start.
    second: bool,
    signals: SignalDelivery<UnixStream, SignalOnly>,
    serving: Pid,
    /// `None` once no process has the other end.
    link: Option<PipeReader>,
    line: Line,
    is_ready: bool,
    has_log: bool,
}

impl Keeper<'_> {
    /// Starts the serving process by `command`.
    fn start(settings: &Settings, second: bool, command: Command) -> io::Result<Keeper<'_>> {
        let (awake, waker) = UnixStream::pair()?;
        let handled = [SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1];
        // Before there is a process to forward signals to: none is lost.
        let signals = SignalDelivery::with_pipe(awake, waker, SignalOnly, handled)?;
        // A successor of the serving process is not this process's child until its parent ends.
        set_child_subreaper(Some(getpid()))?;
        let (link, end) = io::pipe()?;
        ioctl_fionbio(&link, true)?;
        let serving = spawn(command, end.into())?;
        Ok(Keeper {
            settings,
            second,
            signals,
            serving,
            link: Some(link),
            line: Line::default(),
            is_ready: false,
            has_log: false,
        })
    }

    fn run(&mut self) -> Result<u8, DaemonError> {
        loop {
            self.wait();
            for signal in self.signals.pending() {
                forward(self.serving, signal);
            }
            if let Some(end) = self.reap() {
                return end;
            }
            self.read_link();
        }
    }

    /// Waits for a signal or a line.
    fn wait(&self) {
        let signals = PollFd::new(self.signals.get_read(), PollFlags::IN);
        // An interruption is a signal, for which the caller looks in any case.
        let _ = match &self.link {
            Some(link) => poll(&mut [signals, PollFd::new(link, PollFlags::IN)], None),
            None => poll(&mut [signals], None),
        };
    }

    /// Removes children that have ended; returns the exit code if the serving process is among them. The others are
    /// former serving processes and processes that the serving one had started.
    fn reap(&mut self) -> Option<Result<u8, DaemonError>> {
        loop {
            let (pid, status) = match wait(WaitOptions::NOHANG) {
                Ok(Some(ended)) => ended,
                Ok(None) => return None,
                Err(Errno::INTR) => continue,
                Err(error) => {
                    let what = "cannot wait for the serving process".into();
                    return Some(Err(DaemonError::Other { what, error: error.into() }));
                }
            };
            // A process that hands over reports its successor before it ends.
            self.read_link();
            if pid == self.serving {
                return Some(code_of(status));
            }
        }
    }

    /// Takes what the serving process has written.
    fn read_link(&mut self) {
        let mut bytes = [0; REPORT_MAX];
        while let Some(link) = &self.link {
            match read(link, &mut bytes) {
                Ok(0) => self.link = None,
                Ok(count) => {
                    for &byte in &bytes[..count] {
                        if let Some(pid) = self.line.push(byte) {
                            self.serving = pid;
                            self.ready();
                        }
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Reports the first time that a process serves.
    fn ready(&mut self) {
        if std::mem::replace(&mut self.is_ready, true) {
            return;
        }
        let (settings, second) = (self.settings, self.second);
        super::report_ready(settings, second, |what, error| {
            self.start_log();
            warn!(%error, "{what}");
        });
    }

    /// Starts the log of this process, which is not needed as long as all goes well.
    fn start_log(&mut self) {
        if !std::mem::replace(&mut self.has_log, true) {
            // Without a log the rest goes on.
            let _ = log::init(&self.settings.log);
        }
    }
}

/// Returns the command of the serving process: this program with the same arguments.
fn serving() -> io::Result<Command> {
    let mut arguments = env::args_os();
    let mut name = arguments.next().unwrap_or_else(|| OsString::from("xenstored"));
    name.push(ROLE);
    // The program's real path: with /proc/self/exe, ps and pgrep would show `exe`.
    let mut command = Command::new(env::current_exe()?);
    command.arg0(name).args(arguments);
    activation::pass_on(&mut command);
    Ok(command)
}

/// Starts the serving process with its link.
fn spawn(mut command: Command, link: OwnedFd) -> io::Result<Pid> {
    command.env(MARK, format!("{} {}", link.as_raw_fd(), std::process::id()));
    // The service manager takes notifications from this process alone.
    command.env_remove("NOTIFY_SOCKET");
    inherited::set_inheritable(&[link.as_raw_fd()], true)?;
    let child = command.spawn()?;
    // Dropping `link` closes this process's copy, so the pipe ends with the serving process.
    Pid::from_raw(child.id().cast_signed()).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn forward(serving: Pid, signal: i32) {
    if signal == SIGCHLD {
        return;
    }
    if let Some(signal) = Signal::from_named_raw(signal) {
        // A process that has ended needs no signal. Its id is not reused before it is waited for.
        let _ = kill_process(serving, signal);
    }
}

/// Converts the end of the serving process to this one's.
fn code_of(status: WaitStatus) -> Result<u8, DaemonError> {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ok(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, Some(signal)) => Err(DaemonError::Killed { signal }),
        (None, None) => Ok(1), // Stopped or continued, which was not asked for.
    }
}

/// A line of the serving process, as far as it has come.
struct Line {
    bytes: [u8; REPORT_MAX],
    len: usize,
}

impl Default for Line {
    fn default() -> Line {
        Line { bytes: [0; REPORT_MAX], len: 0 }
    }
}

impl Line {
    /// Adds a byte. Returns the process that serves if the byte completes the line that says so. Other lines are
    /// ignored: later versions may write more.
    fn push(&mut self, byte: u8) -> Option<Pid> {
        if byte != b'\n' {
            // A line that is too long is none that this version knows.
            if let Some(free) = self.bytes.get_mut(self.len) {
                *free = byte;
            }
            self.len = self.len.saturating_add(1);
            return None;
        }
        let len = std::mem::take(&mut self.len);
        let text = str::from_utf8(self.bytes.get(..len)?).ok()?;
        Pid::from_raw(text.strip_prefix("serving ")?.parse().ok()?)
    }
}

#[cfg(test)]
mod tests;

//! Daemonization.
//!
//! Forking a process that has threads keeps only one of them, but all of their locks, so Rust makes fork unsafe. The
//! daemon re-executes itself instead. The first process reads a line from a pipe, which is the second one's standard
//! output. The first process returns once the line arrives (a daemon serves: this one or another) or the pipe is closed
//! (the start failed: the error message is already on the shared standard error, and the first process passes on the
//! exit code).

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{getppid, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::activation;
use super::error::DaemonError;

/// Marks the second process. The value is the process id of the first, its parent.
const MARK: &str = "XENSTORED_STARTED_BY";

/// Returns whether this is the second process.
pub(super) fn is_second() -> bool {
    // The variable alone does not suffice: it is inherited by every process that the daemon starts.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    parent.is_some() && std::env::var(MARK).ok() == parent
}

/// Starts, in the first process, the second one with the same command line, waits until it serves or fails, and returns
/// the exit code. With `print_pid` (the option `-P`) the first process prints the daemon's process id.
pub(super) fn start_second(print_pid: bool) -> Result<u8, DaemonError> {
    let failed =
        |error| DaemonError::Other { what: "cannot start in the background".into(), error };
    // A pipe, as the exit of the second process says nothing: it lives on as the daemon.
    let (ready, write_end) = io::pipe().map_err(failed)?;
    let mut arguments = std::env::args_os();
    // The program's real path: with /proc/self/exe, ps and pgrep would show `exe`.
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg0(arguments.next().unwrap_or_else(|| "xenstored".into())).args(arguments);
    // Standard error stays shared, so that the errors of a failed start appear on the terminal.
    command.env(MARK, std::process::id().to_string()).stdin(Stdio::null()).stdout(write_end);
    activation::pass_on(&mut command);
    let mut second = command.spawn().map_err(failed)?;
    drop(command); // Closes our copy of the write end, so the read below ends if the second process does.

    let mut pid = String::new();
    BufReader::new(ready).read_line(&mut pid).map_err(failed)?;
    // Only a whole line counts, since the second process may die while it writes.
    if pid.ends_with('\n') {
        if print_pid {
            print!("{pid}");
        }
        return Ok(0);
    }
    let status = second.wait().map_err(failed)?;
    match status.code().map(u8::try_from) {
        // Code 0 without a line is a failure, too: no daemon serves.
        Some(Ok(code)) if code != 0 => Ok(code),
        _ => Err(failed(io::Error::other(format!(
            "the daemon exited before it was ready ({status})"
        )))),
    }
}

/// Detaches the second process before anything else: leaves the session, so that no ^C or hangup of a terminal reaches
/// the daemon, and the directory, so that no mount stays busy.
pub(super) fn detach() -> Result<(), DaemonError> {
    let failed =
        |error| DaemonError::Other { what: "cannot detach into the background".into(), error };
    setsid().map_err(|e| failed(e.into()))?;
    std::env::set_current_dir("/").map_err(failed)
}

/// Reports from the second process that the daemon with process id `pid` serves (possibly another daemon): makes the
/// first process return, and detaches from the terminal.
pub(super) fn report_ready(pid: u32) -> io::Result<()> {
    let mut pipe = io::stdout();
    writeln!(pipe, "{pid}")?;
    pipe.flush()?;
    leave_terminal()
}

/// Closes the standard streams: until the daemon serves, standard error is where a failed start reports why.
pub(super) fn leave_terminal() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

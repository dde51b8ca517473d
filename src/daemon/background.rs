//! Puts the daemon in the background.
//!
//! A process that forks after it has threads keeps one of them and all of their locks, and Rust
//! calls fork unsafe for that. So the daemon starts itself anew instead: the first process waits
//! for a line on a pipe, which is the second one's standard output, and returns when it came (a
//! daemon serves, this one or another) or cannot come any more (the start failed: its message is already on the common
//! standard error, its exit code is passed on).

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{getppid, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::activation;
use super::failure::Failure;

/// Tells the second process that it is the second one: the id of the first, its parent.
const MARK: &str = "XENSTORED_STARTED_BY";

/// Whether this process is the second one.
pub(super) fn is_second() -> bool {
    let parent = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    parent.is_some() && std::env::var(MARK).ok() == parent
}

/// In the first process: starts the second one with the same command line, waits until it serves
/// or has failed, and returns the exit code. With `print_pid`, the command line's option, it prints the daemon's process id.
pub(super) fn start_second(print_pid: bool) -> Result<u8, Failure> {
    let failed = |error| Failure::Other { what: "cannot start in the background".into(), error };
    let (ready, write_end) = io::pipe().map_err(failed)?;
    let mut arguments = std::env::args_os();
    // By its real name and not /proc/self/exe, which ps and pgrep would show.
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg0(arguments.next().unwrap_or_else(|| "xenstored".into())).args(arguments);
    command.env(MARK, std::process::id().to_string()).stdin(Stdio::null()).stdout(write_end);
    activation::pass_on(&mut command);
    let mut second = command.spawn().map_err(failed)?;
    drop(command); // With its copy of the pipe's write end.

    let mut pid = String::new();
    BufReader::new(ready).read_line(&mut pid).map_err(failed)?;
    if pid.ends_with('\n') {
        if print_pid {
            print!("{pid}");
        }
        return Ok(0);
    }
    let status = second.wait().map_err(failed)?;
    match status.code().map(u8::try_from) {
        Some(Ok(code)) if code != 0 => Ok(code),
        _ => Err(failed(io::Error::other(format!("it ended before it served ({status})")))),
    }
}

/// In the second process, first of all: leaves the session, so that no terminal's ^C or hangup
/// reaches the daemon, and the directory, so that no mount is kept busy.
pub(super) fn detach() -> Result<(), Failure> {
    let failed = |error| Failure::Other { what: "cannot go in the background".into(), error };
    setsid().map_err(|e| failed(e.into()))?;
    std::env::set_current_dir("/").map_err(failed)
}

/// In the second process, once `pid` serves, which may be another daemon's: lets the first one return,
/// and gives up the terminal.
pub(super) fn report_ready(pid: u32) -> io::Result<()> {
    let mut pipe = io::stdout();
    writeln!(pipe, "{pid}")?;
    pipe.flush()?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

//! The start of a host's process.

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Starts `program sim host` for the socket `path`, with the lifetime of a host that a daemon starts, and waits until it
/// serves.
///
/// # Errors
/// Those of starting a process; `Other` if the process ended, for a reason that it has written to the standard error.
pub fn start(path: &Path, program: &Path) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.args(["sim", "host", "--until-unused", "--sim-socket"]).arg(path);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    // These are meant for the daemon.
    for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "XENSTORED_KEEPER"] {
        command.env_remove(name);
    }
    let mut child = command.spawn()?;
    let mut ready = String::new();
    let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    BufReader::new(output).read_line(&mut ready)?;
    if ready.ends_with('\n') {
        return Ok(child);
    }
    let status = child.wait()?;
    Err(io::Error::other(format!("the simulated host could not be started ({status})")))
}

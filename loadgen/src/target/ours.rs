//! This project's daemon, which is part of this program: `loadgen daemon` takes the arguments of `xenstored` and runs
//! it. So the measured daemon is the one built along with the load generator.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Options, POLL, Running};

/// Starts this program as the daemon, or the binary named by `XENSTORED` in the environment.
///
/// # Errors
/// Those of [`Running::spawn`].
pub fn start(options: &Options) -> io::Result<Running> {
    let dir = Running::directory()?;
    let mut command = match std::env::var_os("XENSTORED") {
        Some(binary) => Command::new(binary),
        None => {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("daemon");
            command
        }
    };
    command.env_remove("XENSTORED_PATH").env("XENSTORED_RUNDIR", dir.path());
    command.args(["--host", "sim", "--no-fork"]);
    // The child is the process that serves, whose time and memory are measured. Older binaries have no keeper.
    let other = std::env::var_os("XENSTORED");
    let knows = |binary: std::ffi::OsString| {
        said(&binary, "--help").is_some_and(|help| help.contains(NO_KEEPER))
    };
    if !options.keeper && other.is_none_or(knows) {
        command.arg(NO_KEEPER);
    }
    if let Some(shards) = options.shards {
        command.arg("--shards").arg(shards.to_string());
    }
    command.args(&options.arguments);
    Running::spawn(command, dir, true)
}

const NO_KEEPER: &str = "--no-keeper";

/// Timeout of `--version` and `--help`: a program that ignores it and serves never ends.
const SAYS_BY: Duration = Duration::from_secs(2);

/// Returns the daemon's version, and the path of a binary named by `XENSTORED`.
pub fn version() -> String {
    let Some(binary) = std::env::var_os("XENSTORED") else {
        return format!("xenstored {}", env!("CARGO_PKG_VERSION"));
    };
    let said = said(&binary, "--version").unwrap_or_else(|| "of unknown version".to_owned());
    format!("{said}, {}", Path::new(&binary).display())
}

/// Returns the output of a binary with this option.
fn said(binary: &OsStr, option: &str) -> Option<String> {
    let dir = Running::directory().ok()?;
    let mut child = Command::new(binary)
        .arg(option)
        .env("XENSTORED_RUNDIR", dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let asked = Instant::now();
    let ended = loop {
        match child.try_wait() {
            Ok(None) if asked.elapsed() < SAYS_BY => std::thread::sleep(POLL),
            Ok(Some(status)) => break status.success(),
            _ => break false,
        }
    };
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
        return None;
    }
    let output = child.wait_with_output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

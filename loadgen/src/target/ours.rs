//! This project's daemon, which is part of this program: `loadgen daemon` takes the arguments of
//! `xenstored` and is it. So what is measured is what was built along with the load generator.

use std::io;
use std::path::Path;
use std::process::Command;

use super::{Options, Running};

/// Starts this program as the daemon, or the binary that `XENSTORED` in the environment names.
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
    if let Some(shards) = options.shards {
        command.arg("--shards").arg(shards.to_string());
    }
    command.args(&options.arguments);
    Running::spawn(command, dir, true)
}

/// What the daemon says of its version, and the binary if `XENSTORED` names another.
pub fn version() -> String {
    let Some(binary) = std::env::var_os("XENSTORED") else {
        return format!("xenstored {}", env!("CARGO_PKG_VERSION"));
    };
    let output = Command::new(&binary).arg("--version").output();
    let said = output.ok().filter(|output| output.status.success());
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let said = said.unwrap_or_else(|| "of unknown version".to_owned());
    format!("{said}, {}", Path::new(&binary).display())
}

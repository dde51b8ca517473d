//! The commands `log`, `logfile` and `print`, and reports to files.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{CommandResult, ack, text};
use crate::log;
use crate::types::Errno;

/// Runs `log`: lists the switches, or turns all traces or one switch on or off.
pub fn log(arguments: &[&[u8]]) -> CommandResult {
    match arguments {
        [] => Ok(text(&switches())),
        [b"on"] => {
            log::set_enabled(true);
            ack()
        }
        [b"off"] => {
            log::set_enabled(false);
            ack()
        }
        [change] => {
            let change = std::str::from_utf8(change).map_err(|_| Errno::EINVAL)?;
            log::set_switch(change).map_err(|_| Errno::EINVAL)?;
            ack()
        }
        _ => Err(Errno::EINVAL),
    }
}

fn switches() -> String {
    let mut text = String::from("Log switch settings:\n");
    for (name, on) in log::switches() {
        text.push_str(&format!("{name:<8}: {}\n", if on { "on" } else { "off" }));
    }
    text
}

/// Runs `print`: writes a line to the log, to mark an operator's action there.
pub fn print(string: &[u8]) -> CommandResult {
    tracing::info!("control: {}", String::from_utf8_lossy(string));
    ack()
}

/// Runs `logfile`: sends the log to a file and enables traces, as in C xenstored.
pub fn logfile(file: &Path) -> CommandResult {
    match log::set_file(file) {
        Ok(()) => ack(),
        Err(error) => {
            // The reply has only an errno, so the cause goes to the log.
            tracing::warn!(%error, file = %file.display(), "cannot log to the file");
            Err(errno(&error))
        }
    }
}

/// Appends a text to a file, which is created with mode 0600 if it does not exist.
pub fn append(file: &Path, text: &str) -> CommandResult {
    match log::open(file).and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => ack(),
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "cannot write the report");
            Err(errno(&error))
        }
    }
}

/// Returns the path that an argument names. A relative one is in the daemon's run-time directory, because the working
/// directory of a background daemon is `/`.
pub fn file(argument: &[u8]) -> PathBuf {
    run_directory(std::env::var_os("XENSTORED_RUNDIR")).join(OsStr::from_bytes(argument))
}

/// An empty variable counts as unset, as for the socket.
fn run_directory(variable: Option<OsString>) -> PathBuf {
    let set = variable.filter(|value| !value.is_empty());
    set.unwrap_or_else(|| "/var/run/xenstored".into()).into()
}

/// Maps an I/O error to the closest errno of the wire protocol.
fn errno(error: &std::io::Error) -> Errno {
    match error.kind() {
        std::io::ErrorKind::NotFound => Errno::ENOENT,
        std::io::ErrorKind::PermissionDenied => Errno::EACCES,
        std::io::ErrorKind::IsADirectory => Errno::EISDIR,
        std::io::ErrorKind::ReadOnlyFilesystem => Errno::EROFS,
        std::io::ErrorKind::StorageFull => Errno::ENOSPC,
        std::io::ErrorKind::InvalidInput => Errno::EINVAL,
        // `log::set_file` timed out and changed nothing, so the client may retry. xs_wire.h has no ETIMEDOUT.
        std::io::ErrorKind::TimedOut => Errno::EAGAIN,
        _ => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_run_directory_means_the_default() {
        for (variable, expected) in
            [(None, "/var/run/xenstored"), (Some(""), "/var/run/xenstored"), (Some("/r"), "/r")]
        {
            assert_eq!(run_directory(variable.map(OsString::from)), Path::new(expected));
        }
    }
}

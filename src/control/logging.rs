//! The commands about the log.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Answer, ack, text};
use crate::log;
use crate::words::Errno;

/// `log`: without an argument the switches, else all traces or one switch on or off.
pub fn log(arguments: &[&[u8]]) -> Answer {
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

/// `print`: a line in the log, for those who mark there what they do.
pub fn print(string: &[u8]) -> Answer {
    tracing::info!("control: {}", String::from_utf8_lossy(string));
    ack()
}

/// `logfile`: the log goes there from now on, with traces, as in C.
pub fn logfile(file: &Path) -> Answer {
    match log::set_file(file) {
        Ok(()) => ack(),
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "cannot log there");
            Err(errno(&error))
        }
    }
}

/// Appends a text to a file, which is made if need be and is nobody else's to read.
pub fn append(file: &Path, text: &str) -> Answer {
    match log::open(file).and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => ack(),
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "cannot write a report there");
            Err(errno(&error))
        }
    }
}

/// The file that an argument names. A relative name is one in the directory of the daemon's run-time
/// files: its working directory is `/` in the background.
pub fn file(argument: &[u8]) -> PathBuf {
    run_directory(std::env::var_os("XENSTORED_RUNDIR")).join(OsStr::from_bytes(argument))
}

/// As for the socket, an empty variable counts as none.
fn run_directory(variable: Option<OsString>) -> PathBuf {
    let set = variable.filter(|value| !value.is_empty());
    set.unwrap_or_else(|| "/var/run/xenstored".into()).into()
}

/// The nearest of the names that the wire knows.
fn errno(error: &std::io::Error) -> Errno {
    match error.kind() {
        std::io::ErrorKind::NotFound => Errno::ENOENT,
        std::io::ErrorKind::PermissionDenied => Errno::EACCES,
        std::io::ErrorKind::IsADirectory => Errno::EISDIR,
        std::io::ErrorKind::ReadOnlyFilesystem => Errno::EROFS,
        std::io::ErrorKind::StorageFull => Errno::ENOSPC,
        std::io::ErrorKind::InvalidInput => Errno::EINVAL,
        std::io::ErrorKind::TimedOut => Errno::EAGAIN,
        _ => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_run_directory_counts_as_none() {
        for (variable, expected) in
            [(None, "/var/run/xenstored"), (Some(""), "/var/run/xenstored"), (Some("/r"), "/r")]
        {
            assert_eq!(run_directory(variable.map(OsString::from)), Path::new(expected));
        }
    }
}

//! The commands about the log.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
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

/// `logfile`: the log goes there from now on.
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
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(file);
    match opened.and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => ack(),
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "cannot write a report there");
            Err(errno(&error))
        }
    }
}

/// The file that an argument names; a relative one lies where C looks for it, in the directory of
/// the daemon's run-time files.
pub fn file(argument: &[u8]) -> PathBuf {
    let directory = std::env::var_os("XENSTORED_RUNDIR").unwrap_or("/var/run/xenstored".into());
    Path::new(&directory).join(OsStr::from_bytes(argument))
}

/// The nearest of the names that the wire knows.
fn errno(error: &std::io::Error) -> Errno {
    match error.kind() {
        std::io::ErrorKind::NotFound => Errno::ENOENT,
        std::io::ErrorKind::PermissionDenied => Errno::EACCES,
        std::io::ErrorKind::IsADirectory => Errno::EISDIR,
        std::io::ErrorKind::ReadOnlyFilesystem => Errno::EROFS,
        std::io::ErrorKind::StorageFull => Errno::ENOSPC,
        _ => Errno::EIO,
    }
}

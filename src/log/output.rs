//! Destinations of the log, and writing a formatted line to each.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::stdio::stderr;
use tracing::Level;

use super::Destination;

/// The socket of syslog and the journal.
const SYSLOG: &str = "/dev/log";
/// Syslog's facility `daemon`, shifted as RFC 3164 requires.
const FACILITY: u8 = 3 << 3;
/// The space that a pipe has at least if poll(2) reports it as writable: Linux's `PIPE_BUF`.
const PIPE_BUF: usize = 4096;

pub(super) enum Output {
    Stderr,
    File { path: PathBuf, file: File },
    Syslog(UnixDatagram),
}

impl Output {
    /// Opens a destination.
    ///
    /// # Errors
    /// As [`open`] and socket(2).
    pub(super) fn open(destination: &Destination) -> io::Result<Output> {
        Ok(match destination {
            Destination::Stderr => Output::Stderr,
            Destination::File(path) => Output::File { path: path.clone(), file: open(path)? },
            Destination::Syslog => {
                let socket = UnixDatagram::unbound()?;
                // A stuck syslog would block the log's thread, and with it every change of the destination.
                socket.set_nonblocking(true)?;
                Output::Syslog(socket)
            }
        })
    }

    /// Reopens a file's path after a rotation. Does nothing for other destinations.
    ///
    /// # Errors
    /// As [`open`]; then the old file stays open.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Output::File { path, file } = self {
            *file = open(path)?;
        }
        Ok(())
    }

    /// Writes one line, which starts with its time. Blocks while a terminal, pipe or file does; a full syslog socket is
    /// an error instead.
    ///
    /// # Errors
    /// As write(2) and send(2).
    pub(super) fn write(&mut self, level: Level, line: &[u8]) -> io::Result<()> {
        // A syslog message has no newline; the others get one in `ended`.
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        match self {
            Output::Stderr => write_stderr(&ended(line)),
            Output::File { file, .. } => file.write_all(&ended(line)),
            Output::Syslog(socket) => {
                // Syslog adds its own time.
                let text = line.iter().position(|&byte| byte == b' ').map_or(0, |at| at + 1);
                let head =
                    format!("<{}>xenstored[{}]: ", FACILITY | severity(level), std::process::id());
                let message = [head.as_bytes(), &without_controls(&line[text..])].concat();
                // Addressed by path each time, because the syslog daemon may have been restarted.
                socket.send_to(&message, SYSLOG).map(drop)
            }
        }
    }
}

/// Opens a file for appending and creates it with mode 0600 if needed. Never waits for another process.
///
/// # Errors
/// `InvalidInput` for a FIFO, a socket or a block device; otherwise as open(2).
pub fn open(path: &Path) -> io::Result<File> {
    // NONBLOCK: opening a FIFO would wait for a reader. NOCTTY: a daemon that left its session would get the terminal
    // as its own.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).custom_flags(flags.bits().cast_signed());
    let refused = || {
        let what = "neither a regular file nor a character device; name a file";
        io::Error::new(io::ErrorKind::InvalidInput, what)
    };
    let file = match options.open(path) {
        // open(2): a FIFO without a reader, or a socket.
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
            return Err(refused());
        }
        opened => opened?,
    };
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_char_device() { Ok(file) } else { Err(refused()) }
}

/// Bypasses std's lock of standard error, which a blocked write would hold against all other threads.
fn write_stderr(mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match rustix::io::write(stderr(), line) {
            Ok(written) => line = &line[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes a line to standard error if that does not block; otherwise drops it.
pub(super) fn try_stderr(line: &[u8]) {
    let stderr = stderr();
    let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if matches!(poll(&mut ready, Some(&now)), Ok(1..)) {
        let line = ended(line);
        let _ = rustix::io::write(stderr, &line[..line.len().min(PIPE_BUF)]);
    }
}

/// Escapes control characters and appends a newline.
fn ended(line: &[u8]) -> Vec<u8> {
    let mut line = without_controls(line).into_owned();
    line.push(b'\n');
    line
}

/// Returns RFC 3164's severity of a level.
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Escapes control characters, including C1, because guests influence much of what is logged. Almost all lines have
/// none and are not copied.
fn without_controls(line: &[u8]) -> Cow<'_, [u8]> {
    // `tracing` formats lines as UTF-8, so this only borrows.
    let text = String::from_utf8_lossy(line);
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(line);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c.is_control() {
            let _ = write!(clean, "\\x{:02x}", u32::from(c));
        } else {
            clean.push(c);
        }
    }
    Cow::Owned(clean.into_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    #[test]
    fn non_text_bytes_are_escaped() {
        assert_eq!(&*without_controls(b"plain"), b"plain");
        assert_eq!(&*without_controls(b"a\nb\x1b"), b"a\\x0ab\\x1b");
        assert_eq!(&*without_controls("caf\u{e9}\u{9b}".as_bytes()), "caf\u{e9}\\x9b".as_bytes());
    }

    #[test]
    fn fifo_or_socket_as_log_file_is_refused_at_once() {
        let place = tempfile::tempdir().unwrap();
        let [fifo, socket] = ["fifo", "socket"].map(|name| place.path().join(name));
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let _listener = UnixListener::bind(&socket).unwrap();
        let refused =
            |path| assert_eq!(open(path).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        refused(&fifo);
        refused(&socket);
        // With a reader, open(2) would succeed.
        let _reader = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(&fifo)
            .unwrap();
        refused(&fifo);
        open(Path::new("/dev/null")).unwrap();
        open(&place.path().join("file")).unwrap();
    }
}

//! Writes finished lines: to standard error, to a file, or to syslog.
//!
//! A line that cannot be written is dropped: neither a full disk nor a stuck syslog may stop the
//! store.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::{Destination, SWITCHES};

/// Where syslog and the journal listen.
const SYSLOG: &str = "/dev/log";
/// The facility `daemon` of syslog, shifted as RFC 3164 wants it.
const FACILITY: u8 = 3 << 3;
/// How long a dying thread waits for the log: another thread may be writing, or this very one.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The log's end.
pub(super) struct Sink(Mutex<Output>);

enum Output {
    Stderr,
    File { path: PathBuf, file: File },
    Syslog(UnixDatagram),
}

impl Sink {
    /// A sink to standard error.
    pub(super) const fn new() -> Sink {
        Sink(Mutex::new(Output::Stderr))
    }

    pub(super) fn set(&self, destination: &Destination) -> io::Result<()> {
        let output = match destination {
            Destination::Stderr => Output::Stderr,
            Destination::File(path) => Output::File { path: path.clone(), file: open(path)? },
            Destination::Syslog => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                Output::Syslog(socket)
            }
        };
        *self.0.lock() = output;
        Ok(())
    }

    pub(super) fn reopen(&self) -> io::Result<()> {
        let mut output = self.0.lock();
        if let Output::File { path, file } = &mut *output {
            *file = open(path)?;
        }
        Ok(())
    }

    /// Writes a line of a thread that panics. It may hold the log's lock itself; then the line goes
    /// to standard error.
    pub(super) fn write_last(&self, text: &str) {
        match self.0.try_lock_for(LAST_WORDS) {
            Some(mut output) => {
                let mut line = String::new();
                if !matches!(*output, Output::Syslog(_)) {
                    let _ = write_time(&mut Writer::new(&mut line));
                }
                line.push_str(text);
                write_line(&mut output, Level::ERROR, line.as_bytes());
            }
            None => write_line(&mut Output::Stderr, Level::ERROR, text.as_bytes()),
        }
    }

    fn stamps(&self) -> bool {
        !matches!(*self.0.lock(), Output::Syslog(_))
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn write_line(output: &mut Output, level: Level, line: &[u8]) {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut line = without_controls(line).into_owned();
    line.push(b'\n');
    let _ = match output {
        Output::Stderr => io::stderr().write_all(&line),
        Output::File { file, .. } => file.write_all(&line),
        Output::Syslog(socket) => {
            let head =
                format!("<{}>xenstored[{}]: ", FACILITY | severity(level), std::process::id());
            line.pop();
            // By name each time: the far end may have been started anew.
            socket.send_to(&[head.as_bytes(), &line].concat(), SYSLOG).map(|_| ())
        }
    };
}

/// RFC 3164's severity of a level.
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// A line with its control characters written out, those of C1 included, as guests choose much of
/// what is logged. Almost all lines have none.
fn without_controls(line: &[u8]) -> Cow<'_, [u8]> {
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

/// The form of a line: time (but for syslog, which has its own), level or switch, text, fields.
pub(super) struct Format(pub(super) &'static Sink);

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.0.stamps() {
            write_time(&mut writer)?;
        }
        let about = event.metadata();
        match about.target() {
            switch if SWITCHES.contains(&switch) => writer.write_str(switch)?,
            _ => writer.write_str(level_name(*about.level()))?,
        }
        writer.write_char(' ')?;
        context.format_fields(writer.by_ref(), event)?;
        writer.write_char('\n')
    }
}

fn write_time(writer: &mut Writer<'_>) -> fmt::Result {
    SystemTime.format_time(writer)?;
    writer.write_char(' ')
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// One line on its way out.
pub(super) struct Line<'a> {
    output: MutexGuard<'a, Output>,
    level: Level,
}

impl io::Write for Line<'_> {
    /// Takes the whole line, as the formatting layer hands it over in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        write_line(&mut self.output, self.level, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for &'static Sink {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { output: self.0.lock(), level: Level::INFO }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Line<'a> {
        Line { output: self.0.lock(), level: *about.level() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_opened_anew_after_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rotated) = (dir.path().join("log"), dir.path().join("log.1"));
        let sink = Sink::new();
        sink.set(&Destination::File(path.clone())).unwrap();
        let write = |text: &str| write_line(&mut sink.0.lock(), Level::INFO, text.as_bytes());
        write("one\n");
        std::fs::rename(&path, &rotated).unwrap();
        write("two");
        sink.reopen().unwrap();
        write("three");
        assert_eq!(std::fs::read_to_string(rotated).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "three\n");
    }

    #[test]
    fn bytes_that_are_no_text_are_kept_readable() {
        assert_eq!(&*without_controls(b"plain"), b"plain");
        assert_eq!(&*without_controls(b"a\nb\x1b"), b"a\\x0ab\\x1b");
        assert_eq!(&*without_controls("caf\u{e9}\u{9b}".as_bytes()), "caf\u{e9}\\x9b".as_bytes());
    }
}

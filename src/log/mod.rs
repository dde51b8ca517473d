//! The log: destinations, levels and trace switches, and the activity of each thread.
//!
//! All code logs with the macros of `tracing`. Lines with a level (`error!` to `debug!`) are written if the level is
//! enabled. *Traces* are events whose target is the name of a switch, such as `trace!(target: log::IO, ...)`. Traces
//! are written while their switch is on; while it is off, each costs one atomic load.
//!
//! Lines are queued and written by the log's own thread, so a slow destination cannot block the others. Guests
//! influence much of what is logged, so the writer escapes control characters.

mod context;
mod format;
mod output;
mod seldom;
mod sink;
mod unaccepted;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

// The lock is the real one even with the feature `shuttle`: logging is not a scheduling point.
use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::{Layer, fmt as line, reload};

pub use context::{Context, abort_on_panic, clear_context, set_context};
pub use output::open;
pub use seldom::Seldom;
pub use unaccepted::Unaccepted;

/// Trace switch: creation and removal of connections, watches, transactions and domains (C xenstored's `obj`).
pub const OBJ: &str = "obj";
/// Trace switch: every request, reply and event (C xenstored's `io`).
pub const IO: &str = "io";
/// Trace switch: guests that are throttled, and why (C xenstored's `wrl`).
pub const WRL: &str = "wrl";
/// Trace switch: changes of domains' accounts (C xenstored's `acc`).
pub const ACC: &str = "acc";
/// Trace switch of C xenstored's database (`tdb`). Accepted without effect, as there is no database.
pub const TDB: &str = "tdb";
/// Trace switch: why transactions fail with `EAGAIN`.
pub const CONFLICT: &str = "conflict";

/// All switches: C xenstored's switches in its order, then this daemon's own.
const SWITCHES: [&str; 6] = [OBJ, IO, WRL, ACC, TDB, CONFLICT];
/// The switches that C xenstored turns on with a trace file.
const TRACED_TO_A_FILE: [bool; SWITCHES.len()] = [true, true, false, false, false, false];

/// A destination of log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard error.
    Stderr,
    /// A file, opened for appending and created with mode 0600, because the log reveals guests' activity.
    File(PathBuf),
    /// The socket `/dev/log` of syslog or the journal.
    Syslog,
}

/// The initial configuration of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The destination of lines.
    pub destination: Destination,
    /// The least severe level that is written.
    pub level: LevelFilter,
    /// Changes of the switches, such as `+conflict`, applied in order; all switches start off.
    pub switches: Vec<SwitchChange>,
}

/// A change of one switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchChange {
    index: usize,
    on: bool,
}

impl SwitchChange {
    /// Returns the switches that C xenstored's trace file (`-T`) turns on.
    pub fn of_a_trace_file() -> impl Iterator<Item = SwitchChange> {
        let on = TRACED_TO_A_FILE.into_iter().enumerate().filter(|(_, on)| *on);
        on.map(|(index, on)| SwitchChange { index, on })
    }

    /// Parses `+<switch>` or `-<switch>`.
    ///
    /// # Errors
    /// [`UnknownSwitch`] for anything else.
    pub fn parse(text: &str) -> Result<SwitchChange, UnknownSwitch> {
        let (on, name) = match text.split_at_checked(1) {
            Some(("+", name)) => (true, name),
            Some(("-", name)) => (false, name),
            _ => return Err(UnknownSwitch),
        };
        let index = SWITCHES.iter().position(|&switch| switch == name).ok_or(UnknownSwitch)?;
        Ok(SwitchChange { index, on })
    }
}

/// Returns the names of the switches that are on after `changes`, separated by commas; `None` if all are off.
pub fn switched_on(changes: &[SwitchChange]) -> Option<String> {
    let mut on = [false; SWITCHES.len()];
    changes.iter().for_each(|change| on[change.index] = change.on);
    let on = SWITCHES.into_iter().zip(on).filter(|(_, on)| *on);
    let names: Vec<_> = on.map(|(name, _)| name).collect();
    (!names.is_empty()).then(|| names.join(","))
}

/// The error of parsing a switch: not `+` or `-` followed by the name of a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownSwitch;

impl fmt::Display for UnknownSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected + or - and one of {}", SWITCHES.join(", "))
    }
}

impl std::error::Error for UnknownSwitch {}

/// The filter of lines.
struct Choice {
    level: LevelFilter,
    switches: [bool; SWITCHES.len()],
    /// Whether traces are enabled at all (`xsctl control log on` and `off`).
    tracing: bool,
}

impl Choice {
    fn filter(&self) -> Targets {
        let names = SWITCHES.into_iter().zip(self.switches);
        // Any other target is a module, whose lines have a level.
        Targets::new().with_default(self.level).with_targets(names.map(|(name, on)| {
            (name, if on && self.tracing { LevelFilter::TRACE } else { LevelFilter::OFF })
        }))
    }
}

static CHOICE: Mutex<Choice> = Mutex::new(Choice {
    level: LevelFilter::INFO,
    switches: [false; SWITCHES.len()],
    tracing: true,
});
static SINK: sink::Sink = sink::Sink::new();
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Starts the log. Must be called once, before the first line.
///
/// # Errors
/// The file cannot be opened, or the system refuses a thread.
pub fn init(settings: &Settings) -> io::Result<()> {
    // Before the subscriber, so that the first line finds the writer. It may block, so no lock is held.
    SINK.set(&settings.destination)?;
    let mut choice = CHOICE.lock();
    choice.level = settings.level;
    for change in &settings.switches {
        choice.switches[change.index] = change.on;
    }
    let (filter, handle) = reload::Layer::new(choice.filter());
    let subscriber = subscriber(&SINK, filter);
    if FILTER.set(handle).is_ok() {
        tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    }
    Ok(())
}

fn subscriber<F>(sink: &'static sink::Sink, filter: F) -> impl tracing::Subscriber + Send + Sync
where
    F: tracing_subscriber::layer::Filter<Registry> + Send + Sync + 'static,
{
    let lines = line::layer().with_ansi(false).event_format(format::Format).with_writer(sink);
    tracing_subscriber::registry().with(lines.with_filter(filter))
}

/// Reopens the log file after a rotation: lines logged before this call go to the old file, later ones to the new one.
/// Returns immediately; a log line reports the result.
pub fn reopen() {
    SINK.reopen();
}

/// Waits until all lines logged so far are written, for at most `time_max`.
pub fn flush(time_max: Duration) {
    SINK.flush(time_max);
}

/// Sends further lines to a file and enables traces (`xsctl control logfile`). If no switch is on, turns `obj` and `io`
/// on, as C xenstored does.
///
/// # Errors
/// The file cannot be opened, or the current destination is stuck; then nothing changes.
pub fn set_file(path: &Path) -> io::Result<()> {
    // Before the lock: it waits until the lines before are written.
    SINK.set(&Destination::File(path.to_path_buf()))?;
    let mut choice = CHOICE.lock();
    if !choice.switches.contains(&true) {
        choice.switches = TRACED_TO_A_FILE;
    }
    choice.tracing = true;
    apply(&choice);
    Ok(())
}

/// Enables or disables the traces of all switches that are on. Does not affect lines with a level: an error is always
/// logged.
pub fn set_enabled(enabled: bool) {
    let mut choice = CHOICE.lock();
    choice.tracing = enabled;
    apply(&choice);
}

/// Returns the name of each switch and whether it is on.
pub fn switches() -> [(&'static str, bool); SWITCHES.len()] {
    let on = CHOICE.lock().switches;
    std::array::from_fn(|index| (SWITCHES[index], on[index]))
}

/// Turns a switch on or off: `+io`, `-io`.
///
/// # Errors
/// [`UnknownSwitch`] for anything else.
pub fn set_switch(change: &str) -> Result<(), UnknownSwitch> {
    let change = SwitchChange::parse(change)?;
    let mut choice = CHOICE.lock();
    choice.switches[change.index] = change.on;
    apply(&choice);
    Ok(())
}

fn apply(choice: &Choice) {
    if let Some(handle) = FILTER.get() {
        // Fails only if the subscriber is gone, and the global one lives forever.
        let _ = handle.reload(choice.filter());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(switches: [bool; SWITCHES.len()], tracing: bool) -> Choice {
        Choice { level: LevelFilter::INFO, switches, tracing }
    }

    /// Runs `log` with its own log and returns the text written to it.
    fn written(choice: &Choice, log: impl FnOnce()) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let sink: &'static sink::Sink = Box::leak(Box::new(sink::Sink::new()));
        sink.set(&Destination::File(file.path().to_path_buf())).unwrap();
        tracing::subscriber::with_default(subscriber(sink, choice.filter()), log);
        sink.flush(Duration::from_secs(30));
        std::fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn guest_cannot_write_control_characters_or_lines() {
        let evil = "/a\x1b[2J\nERROR forged\u{9b}31m\x07\r\t";
        let text = written(&choice(TRACED_TO_A_FILE, true), || {
            tracing::warn!(path = %evil, token = ?evil, name = evil, "bad {evil}");
            tracing::trace!(target: IO, "in {evil}");
        });
        assert_eq!(text.lines().count(), 2, "{text:?}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(text.contains("\\x1b[2J") && text.contains("ERROR forged"), "{text:?}");
    }

    #[test]
    fn trace_is_written_only_while_its_switch_and_tracing_are_on() {
        let log = || {
            tracing::trace!(target: IO, "request");
            tracing::trace!(target: CONFLICT, "conflict");
            tracing::debug!("detail");
            tracing::error!("failure");
        };
        for (switches, tracing, expected) in [
            (TRACED_TO_A_FILE, true, &["io request", "error failure"][..]),
            (TRACED_TO_A_FILE, false, &["error failure"]),
            (
                [false, false, false, false, false, true],
                true,
                &["conflict conflict", "error failure"],
            ),
        ] {
            let text = written(&choice(switches, tracing), log);
            let lines: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
            assert_eq!(lines, expected);
        }
    }

    #[test]
    fn trace_switches_have_the_syntax_of_c_xenstored() {
        for text in ["+obj", "-io", "+wrl", "+acc", "-tdb", "+conflict"] {
            assert!(SwitchChange::parse(text).is_ok(), "{text}");
        }
        for text in ["", "+", "io", "*io", "+IO", "+io ", "é"] {
            assert_eq!(SwitchChange::parse(text), Err(UnknownSwitch), "{text}");
        }
    }
}

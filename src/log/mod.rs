//! The log: where its lines go, which of them are written, and what a thread is doing.
//!
//! Everybody logs with `tracing`'s macros. Lines of a level (`error!` to `debug!`) are written if
//! the level is on. *Traces* are events whose target is the name of a switch, such as
//! `trace!(target: log::IO, ...)`: they are written while their switch is on, and cost one atomic
//! load while it is off.
//!
//! A line is queued, and written by a thread of the log's own: no destination can block the others.
//! Guests choose much of what is logged: the writer lets no control character out.

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

// The real lock also under the feature `shuttle`: a log line is no step of a schedule.
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

/// Switch: connections, watches, transactions and domains that come and go (C's `obj`).
pub const OBJ: &str = "obj";
/// Switch: every request, reply and event (C's `io`).
pub const IO: &str = "io";
/// Switch: guests that are held back, and why (C's `wrl`).
pub const WRL: &str = "wrl";
/// Switch: changes of domains' accounts (C's `acc`).
pub const ACC: &str = "acc";
/// Switch: C's `tdb`, for its database. It is taken, and nothing is traced: there is no database.
pub const TDB: &str = "tdb";
/// Switch: why transactions fail with `EAGAIN`.
pub const CONFLICT: &str = "conflict";

/// All switches: C's in C's order, then ours.
const SWITCHES: [&str; 6] = [OBJ, IO, WRL, ACC, TDB, CONFLICT];
/// What C traces once it has a trace file.
const TRACED_TO_A_FILE: [bool; SWITCHES.len()] = [true, true, false, false, false, false];

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard error.
    Stderr,
    /// A file, appended to; created with mode 0600, as it tells what guests do.
    File(PathBuf),
    /// The socket `/dev/log` of syslog or the journal.
    Syslog,
}

/// What the log starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where lines go.
    pub destination: Destination,
    /// The least important level that is written.
    pub level: LevelFilter,
    /// Changes to the switches, such as `+conflict`, in order; all are off before.
    pub switches: Vec<SwitchChange>,
}

/// One switch to be turned on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchChange {
    index: usize,
    on: bool,
}

impl SwitchChange {
    /// What C's trace file (`-T`) turns on by itself.
    pub fn of_a_trace_file() -> impl Iterator<Item = SwitchChange> {
        let on = TRACED_TO_A_FILE.into_iter().enumerate().filter(|(_, on)| *on);
        on.map(|(index, on)| SwitchChange { index, on })
    }

    /// Reads `+<switch>` or `-<switch>`.
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

/// The names of the switches that are on after `changes`, with commas between them; `None` if none is.
pub fn switched_on(changes: &[SwitchChange]) -> Option<String> {
    let mut on = [false; SWITCHES.len()];
    changes.iter().for_each(|change| on[change.index] = change.on);
    let on = SWITCHES.into_iter().zip(on).filter(|(_, on)| *on);
    let names: Vec<_> = on.map(|(name, _)| name).collect();
    (!names.is_empty()).then(|| names.join(","))
}

/// Not `+` or `-` and the name of a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownSwitch;

impl fmt::Display for UnknownSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected + or - and one of {}", SWITCHES.join(", "))
    }
}

impl std::error::Error for UnknownSwitch {}

/// What decides whether a line is written.
struct Choice {
    level: LevelFilter,
    switches: [bool; SWITCHES.len()],
    /// Whether traces are written at all (`xsctl control log on` and `off`).
    tracing: bool,
}

impl Choice {
    fn filter(&self) -> Targets {
        let names = SWITCHES.into_iter().zip(self.switches);
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

/// Starts the log. To be called once, before the first line.
///
/// # Errors
/// The file cannot be opened, or the system refuses a thread.
pub fn init(settings: &Settings) -> io::Result<()> {
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

/// Has the file opened again, after a rotation: lines before this go to the old one, later ones to
/// the new one. Returns at once; a line says whether it succeeded.
pub fn reopen() {
    SINK.reopen();
}

/// Waits until all lines so far are written, but no longer than a time.
pub fn flush(time_max: Duration) {
    SINK.flush(time_max);
}

/// Sends lines to a file from now on and turns traces on (`xsctl control logfile`). If no
/// switch is on, `obj` and `io` are turned on, as in C.
///
/// # Errors
/// The file cannot be opened, or the present destination is stuck; then nothing changes.
pub fn set_file(path: &Path) -> io::Result<()> {
    SINK.set(&Destination::File(path.to_path_buf()))?;
    let mut choice = CHOICE.lock();
    if !choice.switches.contains(&true) {
        choice.switches = TRACED_TO_A_FILE;
    }
    choice.tracing = true;
    apply(&choice);
    Ok(())
}

/// Turns the traces of all switches that are on, on or off, which the flag is as a switch's is. Lines of levels are
/// not concerned: an error is always logged.
pub fn set_enabled(enabled: bool) {
    let mut choice = CHOICE.lock();
    choice.tracing = enabled;
    apply(&choice);
}

/// The names of the switches and whether each is on.
pub fn switches() -> [(&'static str, bool); SWITCHES.len()] {
    let on = CHOICE.lock().switches;
    std::array::from_fn(|index| (SWITCHES[index], on[index]))
}

/// Turns a switch on or off: `+io`, `-io`.
///
/// # Errors
/// [`UnknownSwitch`].
pub fn set_switch(change: &str) -> Result<(), UnknownSwitch> {
    let change = SwitchChange::parse(change)?;
    let mut choice = CHOICE.lock();
    choice.switches[change.index] = change.on;
    apply(&choice);
    Ok(())
}

fn apply(choice: &Choice) {
    if let Some(handle) = FILTER.get() {
        // It fails only when the subscriber is gone, and the global one never is.
        let _ = handle.reload(choice.filter());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(switches: [bool; SWITCHES.len()], tracing: bool) -> Choice {
        Choice { level: LevelFilter::INFO, switches, tracing }
    }

    /// Runs `log` with a log of its own and answers what was written.
    fn written(choice: &Choice, log: impl FnOnce()) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let sink: &'static sink::Sink = Box::leak(Box::new(sink::Sink::new()));
        sink.set(&Destination::File(file.path().to_path_buf())).unwrap();
        tracing::subscriber::with_default(subscriber(sink, choice.filter()), log);
        sink.flush(Duration::from_secs(30));
        std::fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn a_guest_cannot_write_control_characters_or_lines() {
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
    fn a_trace_is_written_only_while_its_switch_and_traces_are_on() {
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
    fn switches_are_read_as_c_writes_them() {
        for text in ["+obj", "-io", "+wrl", "+acc", "-tdb", "+conflict"] {
            assert!(SwitchChange::parse(text).is_ok(), "{text}");
        }
        for text in ["", "+", "io", "*io", "+IO", "+io ", "é"] {
            assert_eq!(SwitchChange::parse(text), Err(UnknownSwitch), "{text}");
        }
    }
}

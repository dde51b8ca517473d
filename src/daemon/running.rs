//! Detection of an xenstored that already serves the socket, for a second start.
//!
//! Init scripts start the daemon again at each package update and expect success if it runs. The lock on
//! `<socket>.lock` shows that an instance of this daemon runs; the file's contents identify its process, version and
//! options; a request over the socket shows that this daemon serves it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::error::DaemonError;
use super::instance::{self, Instance};
use super::settings::{HostKind, Settings};
use crate::domain::Quota;
use crate::log::{self, Destination};
use crate::protocol::{HEADER_BYTES, Operation, request};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Timeout for the other daemon to serve: it may have just been started, too.
const STARTING: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);
/// Timeout of the other daemon's reply.
const REPLYING: Duration = Duration::from_secs(2);
/// A node that every version of this daemon has, and no other xenstored.
const OWN_NODE: &[u8] = b"/tool/xenstored/operations/QUIESCE\0";
/// Maximum size of a lock file in bytes, enough for long paths; the daemon never writes a larger one.
const LOCK_FILE_MAX: u64 = 64 * 1024;

/// The contents of a lock file, about the daemon that holds the lock.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Running {
    /// The daemon's process id.
    pub pid: u32,
    /// The daemon's version; `None` for versions that did not write it yet.
    version: Option<String>,
    options: BTreeMap<String, String>,
}

/// The result of a start in the background.
pub(super) enum Claim {
    /// This process is the daemon.
    Ours(Instance),
    /// Another daemon already serves.
    Served(Running),
}

/// Claims the resources that only one daemon can hold, or finds the daemon that serves the same socket and pid file.
///
/// # Errors
/// As [`Instance::claim`].
pub(super) fn claim_or_find(
    settings: &Settings,
    handed_over: Option<&UnixListener>,
    pid: u32,
) -> Result<Claim, DaemonError> {
    // Waits, since a daemon that was started a moment ago has the lock before it serves.
    let deadline = Instant::now() + STARTING;
    loop {
        match Instance::claim(settings, handed_over, pid) {
            Err(failure @ DaemonError::Running { .. }) => {
                if let Some(running) = Running::find(settings) {
                    return Ok(Claim::Served(running));
                }
                if Instant::now() > deadline {
                    return Err(failure);
                }
                std::thread::sleep(PAUSE);
            }
            claimed => return claimed.map(Claim::Ours),
        }
    }
}

/// Returns the text of a lock file: process id, version, options.
pub(super) fn lock_text(settings: &Settings, pid: u32) -> String {
    let mut text = format!("{pid}\nversion {VERSION}\n");
    for (name, value) in options(settings) {
        text.push_str(&format!("option {name}={value}\n"));
    }
    text
}

/// Returns the process id in a lock file or pid file.
pub(super) fn pid_in(path: &Path) -> Option<u32> {
    pid_of(&read(path)?)
}

fn pid_of(text: &str) -> Option<u32> {
    text.lines().next()?.trim().parse().ok()
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LOCK_FILE_MAX).read_to_end(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

impl Running {
    /// Returns the daemon that serves the socket of `settings` and holds the pid file that they name, if any.
    fn find(settings: &Settings) -> Option<Running> {
        let running = Running::parse(&read(&instance::lock_path(&settings.socket))?)?;
        // Without this pid file the running daemon is not the one that an init script asks for, so the start fails.
        let has_pid_file = |path| pid_in(path) == Some(running.pid);
        let named = settings.pid_file.as_deref();
        (named.is_none_or(has_pid_file) && serves(&settings.socket)).then_some(running)
    }

    /// Parses a lock file. Skips unknown lines, because other versions may write additional ones.
    fn parse(text: &str) -> Option<Running> {
        let mut running = Running { pid: pid_of(text)?, ..Running::default() };
        // Values are shown on a terminal, and the file may be damaged or another version's.
        for line in text.lines().skip(1).filter(|line| !line.contains(char::is_control)) {
            match line.split_once(' ') {
                Some(("version", version)) => running.version = Some(version.to_owned()),
                Some(("option", option)) => {
                    let pair = option.split_once('=');
                    running.options.extend(pair.map(|(name, value)| (name.into(), value.into())));
                }
                _ => {}
            }
        }
        Some(running)
    }

    /// Returns the message for a start that leaves this daemon in place, including options that differ.
    pub(super) fn sentence(&self, settings: &Settings) -> String {
        let (pid, socket) = (self.pid, settings.socket.display());
        let Some(version) = &self.version else {
            return format!(
                "process {pid}, of an unknown older version, already serves {socket}; options are \
                 not compared"
            );
        };
        let this = if version == VERSION {
            ""
        } else {
            concat!(" (this is ", env!("CARGO_PKG_VERSION"), ")")
        };
        let mut text = format!("process {pid}, version {version}{this}, already serves {socket}");
        for (at, (name, value)) in self.differing(settings).iter().enumerate() {
            text.push_str(if at == 0 { "; it keeps its own options: " } else { ", " });
            text.push_str(&format!("{name} {}, not {value}", self.options[name]));
        }
        text
    }

    /// Returns the options of `settings` that have another value in the running daemon. Options that only one of the
    /// versions knows are skipped.
    fn differing(&self, settings: &Settings) -> Vec<(String, String)> {
        let other = |(name, value): &(String, String)| {
            self.options.get(name).is_some_and(|running| running != value)
        };
        options(settings).into_iter().filter(other).collect()
    }
}

/// Returns the options that affect a running daemon, with their values. Control characters are escaped: values are
/// shown on a terminal, and each option is one line of the lock file.
fn options(settings: &Settings) -> Vec<(String, String)> {
    let path = |path: &Path| path.to_string_lossy().escape_debug().to_string();
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".into());
    let host = match settings.host {
        HostKind::Xen => "xen",
        HostKind::Sim => "sim",
    };
    let log = match &settings.log.destination {
        Destination::File(file) => Some(path(file)),
        Destination::Stderr | Destination::Syslog => None,
    };
    let timeout = settings.watch_event_timeout.unwrap_or_default();
    // The options are named as an operator gives them, since a second start prints those that differ.
    let mut options: Vec<_> = [
        ("--host", host.into()),
        ("--shards", settings.shards.to_string()),
        ("--pid-file", or_none(settings.pid_file.as_deref().map(path))),
        ("--trace-file", or_none(log)),
        ("--trace-control", or_none(log::switched_on(&settings.log.switches))),
        ("log.level", settings.log.level.to_string()),
        ("--quota-soft memory", settings.soft_memory.to_string()),
        ("--timeout watch-event", timeout.as_secs().to_string()),
        ("--priv-domid", or_none(settings.priv_domid.map(|domid| domid.to_string()))),
    ]
    .map(|(name, value): (&str, String)| (name.to_owned(), value))
    .into();
    if settings.host == HostKind::Sim {
        options.push(("--sim-socket".into(), path(&settings.sim_socket)));
    }
    options.extend(Quota::all().map(|quota| {
        let limit = settings.limits.iter().find(|(other, _)| *other == quota);
        // `limits` has only values that differ from the defaults.
        let value = limit.map_or(quota.default_value(), |(_, value)| *value);
        (format!("--quota {}", quota.name()), value.to_string())
    }));
    options
}

/// Returns whether an instance of this daemon replies at `socket`. The lock alone does not prove that it serves: it may
/// be starting, or stuck.
fn serves(socket: &Path) -> bool {
    instance::try_connect(socket).is_ok_and(|stream| has_own_node(stream.into()).unwrap_or(false))
}

fn has_own_node(mut stream: UnixStream) -> std::io::Result<bool> {
    // Non-blocking only for connect(2); the timeouts bound all further calls.
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(REPLYING))?;
    stream.set_write_timeout(Some(REPLYING))?;
    let asked = request(Operation::Read, 1, OWN_NODE);
    stream.write_all(&asked)?;
    let mut reply = [0; HEADER_BYTES];
    stream.read_exact(&mut reply)?;
    // An error reply, such as another xenstored's ENOENT, has another type.
    Ok(reply[..4] == asked[..4])
}

#[cfg(test)]
mod tests {
    use super::super::config_layer::ConfigLayer;
    use super::super::config_layer::tests::bare;
    use super::*;

    fn settings(given: ConfigLayer) -> Settings {
        given.resolve(&bare()).unwrap()
    }

    #[test]
    fn lock_file_round_trips() {
        let written = settings(ConfigLayer {
            shards: Some(3),
            pid_file: Some("/a\n=\u{1b}".into()),
            limits: vec![(Quota::Nodes, 7)],
            ..ConfigLayer::default()
        });
        let running = Running::parse(&lock_text(&written, 123)).unwrap();
        assert_eq!(running.pid, 123);
        assert_eq!(running.version.as_deref(), Some(VERSION));
        assert!(running.differing(&written).is_empty());
        assert_eq!(running.options.len(), options(&written).len());
        let sentence = running.sentence(&settings(ConfigLayer::default()));
        assert!(sentence.contains("--shards 3, not 4"), "{sentence}");
        assert!(sentence.contains("--quota nodes 7, not 1000"), "{sentence}");
        assert!(sentence.contains(r"--pid-file /a\n=\u{1b}, not none"), "{sentence}");
    }

    #[test]
    fn foreign_lock_files_are_parsed_as_far_as_possible() {
        let now = settings(ConfigLayer::default());
        let older = Running::parse("123\n").unwrap();
        assert!(older.sentence(&now).contains("process 123, of an unknown older version"));
        let newer = Running::parse("123\nversion 9.9\nsocket 5\noption --new=1\noption\n").unwrap();
        let sentence = newer.sentence(&now);
        assert!(sentence.starts_with("process 123, version 9.9 (this is "), "{sentence}");
        let serves = format!("already serves {}", now.socket.display());
        assert!(sentence.ends_with(&serves), "{sentence}");
        let hostile = Running::parse("5\nversion \x1b[2J\noption --shards=\x07\n").unwrap();
        assert_eq!(hostile, Running { pid: 5, ..Running::default() });
        for text in ["", "\n123\n", "-1\n", "xenstored\n", "99999999999\n"] {
            assert_eq!(Running::parse(text), None, "{text:?}");
        }
    }
}

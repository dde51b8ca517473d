//! `xsctl move`, executed while the guests work.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Deserialize;

use crate::client::{Stage, histogram, record};
use crate::trouble::{ClientError, Result};
use crate::wrong;

/// Polling interval for the tool's end.
const SLICE: Duration = Duration::from_millis(2);
/// Timeout, longer than any move takes, even one by one.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The way in which the domains are moved.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// One command for all domains, with default options.
    InBulk,
    /// One command per domain.
    OneByOne,
    /// One command that is told the next domain when the last one has moved.
    LineByLine,
}

/// Returns the destination of a move in the form of `--to`: a socket of this machine, or `xsctl receive` behind a
/// connection on which each byte takes `delay`.
pub fn destination(socket: &Path, delay: Option<Duration>) -> Result<OsString> {
    let Some(delay) = delay else { return Ok(socket.into()) };
    let cannot = |error| ClientError::io("this program's path is unknown", error);
    let command = xsctl().map_err(cannot)?;
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words = words.map(OsStr::to_string_lossy);
    let receive =
        quoted(words.chain(["receive".into(), "--socket".into(), socket.to_string_lossy()]))?;
    let own = std::env::current_exe().map_err(cannot)?;
    let delayed = ["delay".into(), delay.as_millis().to_string().into(), receive.into()];
    let delayed = quoted([own.to_string_lossy()].into_iter().chain(delayed))?;
    Ok(format!("exec:{delayed}").into())
}

/// Returns a command of the shell.
fn quoted<'w>(words: impl Iterator<Item = Cow<'w, str>>) -> Result<String> {
    let words: Vec<_> = words.collect();
    shlex::try_join(words.iter().map(|word| &**word))
        .map_err(|error| ClientError::Wrong(format!("no command of the shell: {error}")))
}

/// A line of the tool's output: on a domain, or the summary.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    done: bool,
    error: Option<String>,
    pause_ms: Option<f64>,
    #[serde(default)]
    tries: u64,
    #[serde(default)]
    nodes: u64,
    summary: Option<Summary>,
}

#[derive(Deserialize)]
struct Summary {
    seconds: f64,
}

/// The accumulated output of the tool.
pub struct Moved {
    /// Time from the tool's first connection to its last reply.
    pub period: Option<Range<Instant>>,
    /// From each batch's EXPORT_DOMAINS to each domain's UNQUIESCE, in nanoseconds.
    pub pauses: Histogram<u64>,
    pub domains: usize,
    pub nodes: u64,
    /// Number of repeated transfers of domains.
    pub again: u64,
}

/// Returns a command of this project's `xsctl`, which is part of this program like the daemon, or of the binary named
/// by `XSCTL` in the environment.
fn xsctl() -> io::Result<Command> {
    if let Some(binary) = std::env::var_os("XSCTL") {
        return Ok(Command::new(binary));
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("xsctl");
    Ok(command)
}

/// Moves domains 1 to `last`, while the stage continues to run.
pub fn move_all(
    stage: &Stage,
    (from, to): (&Path, &OsStr),
    last: usize,
    manner: Manner,
) -> Result<Moved> {
    let sets = match manner {
        Manner::InBulk => vec![listed(last)],
        Manner::OneByOne => (1..=last).map(|domid| domid.to_string()).collect(),
        Manner::LineByLine => vec!["-".into()],
    };
    let (from, to) = (from.to_owned(), to.to_owned());
    let tool = std::thread::spawn(move || {
        let pauses = histogram();
        let mut moved = Moved { period: None, pauses, domains: 0, nodes: 0, again: 0 };
        sets.iter().try_for_each(|set| moved.run(&from, &to, set, last))?;
        Ok(moved)
    });
    let begun = Instant::now();
    while !tool.is_finished() {
        stage.run_for(SLICE)?;
        if begun.elapsed() > TIMEOUT {
            // The tool ends with the daemons.
            wrong!("timed out: xsctl has not finished after {TIMEOUT:?}");
        }
    }
    tool.join().map_err(|_| ClientError::Wrong("no thread runs xsctl".into()))?
}

/// Returns domains 1 to `last` in the tool's syntax.
fn listed(last: usize) -> String {
    if last == 1 { "1".into() } else { format!("1-{last}") }
}

/// A child process that is killed on drop.
struct Tool(Child);

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Moved {
    /// Runs the tool once more, and adds its output. If it takes its domains from its input, they are 1 to `last`.
    fn run(&mut self, from: &Path, to: &OsStr, domids: &str, last: usize) -> Result<()> {
        let cannot = |error| ClientError::io("cannot run xsctl", error);
        let mut command = xsctl().map_err(cannot)?;
        command.arg("move").arg("--json").arg("--socket").arg(from).arg("--to").arg(to);
        command.arg("--domains").arg(domids).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut tool = Tool(command.spawn().map_err(cannot)?);
        let (Some(mut stdin), Some(stdout)) = (tool.0.stdin.take(), tool.0.stdout.take()) else {
            wrong!("xsctl without a pipe")
        };
        let mut lines = BufReader::new(stdout).lines();
        if domids == "-" {
            for domid in 1..=last {
                writeln!(stdin, "{domid}").map_err(cannot)?;
                let Some(line) = lines.next() else { wrong!("xsctl ended at domain {domid}") };
                self.line(&line.map_err(cannot)?)?;
            }
        }
        drop(stdin);
        for line in lines {
            self.line(&line.map_err(cannot)?)?;
        }
        let status = tool.0.wait().map_err(cannot)?;
        if !status.success() {
            wrong!("xsctl ended with {status}");
        }
        Ok(())
    }

    fn line(&mut self, text: &str) -> Result<()> {
        let Ok(line) = serde_json::from_str::<Line>(text) else {
            wrong!("xsctl says {text:?}");
        };
        if let Some(summary) = line.summary {
            // The summary is printed when all is done.
            let now = Instant::now();
            let took = Duration::try_from_secs_f64(summary.seconds).ok();
            let Some(begun) = took.and_then(|took| now.checked_sub(took)) else {
                wrong!("xsctl says {text:?}");
            };
            self.period = Some(self.period.as_ref().map_or(begun, |first| first.start)..now);
            return Ok(());
        }
        let (true, Some(pause)) = (line.done, line.pause_ms) else {
            wrong!("xsctl: {}: {text}", line.error.unwrap_or_default());
        };
        record(&mut self.pauses, Duration::from_secs_f64(pause / 1e3));
        self.domains += 1;
        self.nodes += line.nodes;
        self.again += line.tries.saturating_sub(1);
        Ok(())
    }
}

/// Returns the size in bytes of the streams of domains 1 to `last`. The domains are quiesced for this and stay
/// quiesced.
pub fn bytes(socket: &Path, last: usize, directory: &Path) -> Result<u64> {
    let cannot = |error| ClientError::io("cannot read an export", error);
    let mut command = xsctl().map_err(cannot)?;
    command.args(["export", "--quiet", "--socket"]).arg(socket);
    command.arg("--domains").arg(listed(last)).arg("-o").arg(directory);
    let status = command.status().map_err(cannot)?;
    if !status.success() {
        wrong!("xsctl export ended with {status}");
    }
    let mut sum = 0;
    let mut todo: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        for entry in std::fs::read_dir(path).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let metadata = entry.metadata().map_err(cannot)?;
            if metadata.is_dir() {
                todo.push(entry.path());
            } else if entry.file_name().to_string_lossy().ends_with(".xenstore") {
                sum += metadata.len();
            }
        }
    }
    Ok(sum)
}

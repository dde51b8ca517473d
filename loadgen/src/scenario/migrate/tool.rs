//! `xsctl move`, while the guests work.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Deserialize;

use crate::client::{Stage, histogram};
use crate::trouble::{Result, Trouble};
use crate::wrong;

/// How often it is looked whether it is done.
const SLICE: Duration = Duration::from_millis(2);
/// Longer than any move takes, one by one too.
const PATIENCE: Duration = Duration::from_secs(300);

/// How the domains are moved.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Domains in a batch.
    pub batch: usize,
    /// Batches at the same time.
    pub jobs: usize,
}

/// What it says of a domain, or at the end.
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

/// What it said in all.
pub struct Moved {
    /// From its first connection to its last answer.
    pub seconds: f64,
    /// From each batch's EXPORT_DOMAINS to each domain's UNQUIESCE: nanoseconds.
    pub pauses: Histogram<u64>,
    pub domains: usize,
    pub nodes: u64,
    /// Domains that were carried again, each time counted.
    pub again: u64,
}

/// A command of this project's `xsctl`, which is part of this program as the daemon is; or of the
/// binary that `XSCTL` in the environment names.
fn xsctl() -> io::Result<Command> {
    if let Some(binary) = std::env::var_os("XSCTL") {
        return Ok(Command::new(binary));
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("xsctl");
    Ok(command)
}

/// Moves domains 1 to `last`, while the stage goes on.
pub fn move_all(
    stage: &Stage,
    (from, to): (&Path, &Path),
    last: usize,
    manner: Manner,
) -> Result<Moved> {
    let cannot = |error| Trouble::io("cannot run xsctl", error);
    let mut command = xsctl().map_err(cannot)?;
    command.arg("move").arg("--json").arg("--socket").arg(from).arg("--to").arg(to);
    for (name, value) in [("--batch", manner.batch), ("--jobs", manner.jobs)] {
        command.arg(name).arg(value.to_string());
    }
    command.arg("--domains").arg(listed(last));
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(cannot)?;
    let mut tool = Tool(child);
    let Some(stdout) = tool.0.stdout.take() else { wrong!("xsctl without a pipe") };
    let lines = std::thread::spawn(move || -> io::Result<Vec<String>> {
        BufReader::new(stdout).lines().collect()
    });
    let begun = Instant::now();
    let status = loop {
        stage.run_for(SLICE)?;
        if let Some(status) = tool.0.try_wait().map_err(cannot)? {
            break status;
        }
        if begun.elapsed() > PATIENCE {
            wrong!("xsctl is not done after {PATIENCE:?}");
        }
    };
    let lines = lines.join().map_err(|_| Trouble::Wrong("no lines of xsctl".into()))?;
    let moved = read(&lines.map_err(cannot)?)?;
    if !status.success() {
        wrong!("xsctl ended with {status}");
    }
    Ok(moved)
}

/// Domains 1 to `last`, as the tool takes them.
fn listed(last: usize) -> String {
    if last == 1 { "1".into() } else { format!("1-{last}") }
}

/// Ended with this program, whatever happens.
struct Tool(Child);

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read(lines: &[String]) -> Result<Moved> {
    let mut moved = Moved { seconds: 0.0, pauses: histogram(), domains: 0, nodes: 0, again: 0 };
    for text in lines {
        let Ok(line) = serde_json::from_str::<Line>(text) else {
            wrong!("xsctl says {text:?}");
        };
        if let Some(summary) = line.summary {
            moved.seconds = summary.seconds;
            continue;
        }
        let (true, Some(pause)) = (line.done, line.pause_ms) else {
            wrong!("xsctl: {}: {text}", line.error.unwrap_or_default());
        };
        let pause = u64::try_from(Duration::from_secs_f64(pause / 1e3).as_nanos());
        moved.pauses.saturating_record(pause.unwrap_or(u64::MAX));
        moved.domains += 1;
        moved.nodes += line.nodes;
        moved.again += line.tries.saturating_sub(1);
    }
    Ok(moved)
}

/// Bytes of the streams of domains 1 to `last`, which are quiesced for it and stay so.
pub fn bytes(socket: &Path, last: usize, directory: &Path) -> Result<u64> {
    let cannot = |error| Trouble::io("cannot look at an export", error);
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

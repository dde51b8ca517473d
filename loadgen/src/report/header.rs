//! The environment of a run: machine, date, versions.

use std::process::Command;

use jiff::Timestamp;

use crate::target::Target;

/// The environment of a run.
#[derive(Clone, Debug)]
pub struct Header {
    /// The command line.
    pub command: String,
    /// Start of the run, in UTC.
    pub date: String,
    /// Processor, number of cores, kernel.
    pub machine: String,
    /// The commit from which the load generator, and our daemon with it, is built.
    pub commit: String,
    /// The targets with their known versions.
    pub versions: Vec<(String, String)>,
    /// Number of scenarios in the run.
    pub scenarios: usize,
}

impl Header {
    /// Reads the environment of this machine and these targets.
    pub fn look(scenarios: usize, targets: &[Target]) -> Header {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = text("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.map_or("unknown processor", |rest| rest.trim_matches([' ', '\t', ':']));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let kernel = text("/proc/sys/kernel/osrelease");
        let words: Vec<String> = std::env::args().skip(1).collect();
        Header {
            command: format!("loadgen {}", words.join(" ")),
            date: written(Timestamp::now()),
            machine: format!("{model}, {cores} cores, Linux {}", kernel.trim()),
            commit: commit(),
            versions: targets.iter().map(|target| (target.to_string(), target.version())).collect(),
            scenarios,
        }
    }

    /// Formats the commit and the versions as lines of text.
    pub fn builds(&self) -> String {
        let target = |(target, version): &(String, String)| format!("{target}: {version}\n");
        let targets: String = self.versions.iter().map(target).collect();
        format!("commit {}\n{targets}", self.commit)
    }
}

/// Returns the commit of this program's sources, marked if they have changed since. The commit is determined at run
/// time, because `cargo run` builds the current sources; a program copied elsewhere cannot determine its commit.
fn commit() -> String {
    let said = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--abbrev=12"])
        .args(["--dirty= with changes", "--exclude=*"])
        .output();
    let said = said.ok().filter(|output| output.status.success());
    let text = said.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|| "unknown: the sources are not here".to_owned())
}

/// Formats a time to the minute, in UTC.
fn written(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_to_the_minute_in_utc() {
        let time = Timestamp::from_second(20_779 * 86_400 + 3 * 3600 + 7 * 60 + 59).unwrap();
        assert_eq!(written(time), "2026-11-22 03:07 UTC");
    }
}

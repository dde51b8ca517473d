//! Where, when and of what it was measured.

use std::process::Command;

use crate::target::Target;

/// Where and when it was measured.
#[derive(Clone, Debug)]
pub struct Header {
    /// The command line.
    pub command: String,
    /// When the run began, in UTC.
    pub date: String,
    /// Processor, number of cores, kernel.
    pub machine: String,
    /// The commit of the sources that the load generator, and our daemon with it, is built from.
    pub commit: String,
    /// The targets, each with what is known of its version.
    pub versions: Vec<(String, String)>,
    /// How many scenarios were to be run.
    pub scenarios: usize,
}

impl Header {
    /// Looks at this machine and these targets, before so many scenarios.
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
            date: date(),
            machine: format!("{model}, {cores} cores, Linux {}", kernel.trim()),
            commit: commit(),
            versions: targets.iter().map(|target| (target.to_string(), target.version())).collect(),
            scenarios,
        }
    }

    /// Commit and versions as lines of text.
    pub fn builds(&self) -> String {
        let target = |(target, version): &(String, String)| format!("{target}: {version}\n");
        let targets: String = self.versions.iter().map(target).collect();
        format!("commit {}\n{targets}", self.commit)
    }
}

/// The commit of this program's sources, marked if they were changed since. Asked at the run, for
/// `cargo run` builds what is there; a program that was carried elsewhere does not know it.
fn commit() -> String {
    let said = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--abbrev=12"])
        .args(["--dirty= with changes", "--exclude=*"])
        .output();
    let said = said.ok().filter(|output| output.status.success());
    let text = said.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|| "not known: the sources are not here".to_owned())
}

/// Today's date and the time, in UTC.
fn date() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = now.map_or(0, |now| now.as_secs());
    let (year, month, day) = civil(seconds / 86400);
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// The date so many days after 1 January 1970.
fn civil(mut days: u64) -> (u64, usize, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    for (month, length) in
        [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31].into_iter().enumerate()
    {
        if days < length {
            return (year, month + 1, days + 1);
        }
        days -= length;
    }
    (year, 12, 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11016), (2000, 2, 29));
        assert_eq!(civil(20779), (2026, 11, 22));
        assert_eq!(civil(20818), (2026, 12, 31));
    }
}

//! The real daemon under callgrind, with its instruction count.

use std::fs;
use std::process::Command;

use super::daemon::{Client, Daemon};

/// A daemon whose instructions are counted.
pub struct Counted {
    daemon: Daemon,
}

impl Counted {
    /// Starts the daemon under callgrind.
    pub fn start(options: &[&str]) -> Counted {
        let profiler = ["valgrind", "--quiet", "--tool=callgrind", "--callgrind-out-file=counted"];
        Counted { daemon: Daemon::start_under(&profiler, options) }
    }

    /// Connects to the daemon's client socket.
    pub fn client(&self) -> Client {
        self.daemon.client()
    }

    /// Resets the count to zero.
    pub fn reset(&self) {
        self.tell("--zero");
    }

    /// Returns the instructions of all threads since the last reset.
    pub fn instructions(&self) -> u64 {
        self.tell("--dump");
        // The first dump is counted.1; older ones were removed when they were read.
        let dumps = fs::read_dir(self.daemon.place())
            .expect("the daemon's directory is readable")
            .flatten();
        let paths = dumps.map(|entry| entry.path());
        let mut sum = None;
        for path in paths.filter(|path| path.file_stem().is_some_and(|stem| stem == "counted")) {
            let text = fs::read_to_string(&path).expect("a dump");
            let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
            sum = total.and_then(|total| total.trim().parse().ok()).or(sum);
            fs::remove_file(path).expect("a dump can be removed");
        }
        sum.expect("callgrind writes its totals")
    }

    fn tell(&self, what: &str) {
        let mut control = Command::new("callgrind_control");
        let said = control.arg(what).arg(self.daemon.pid().to_string()).output();
        let said = said.expect("callgrind_control, of Debian's package valgrind");
        assert!(said.status.success(), "callgrind_control: {said:?}");
    }
}

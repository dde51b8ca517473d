//! Instructions of single lock holds, counted by valgrind, which other load on the machine cannot change.
//!
//! The process re-executes itself under callgrind. Two valgrind client requests at each end of a hold make valgrind log
//! that end and the thread's count, without executing an instruction of the program in between. The parent process
//! reads the log.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use xenstored::host::valgrind;
use xenstored::sync::holds::Edge;

/// In the environment of the process that is counted: which scenarios.
const COUNTED: &str = "XENSTORED_COUNTED";

static BEGUN: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// How many holds this thread is within. What is printed of one is taken off those, by a state of the counters
    /// before and after.
    static OUTER: Cell<u32> = const { Cell::new(0) };
}

/// In the process under valgrind: what the names of the scenarios to be counted contain.
pub fn counted() -> Option<String> {
    std::env::var(COUNTED).ok()
}

/// From now on holds are counted, as those of `scenario`; none may be held.
pub fn begin(scenario: &str) {
    let line = CString::new(format!("scenario {scenario}\n")).expect("no name has a NUL");
    valgrind::print(&line);
    valgrind::start_counting();
    BEGUN.store(true, Ordering::Release);
}

/// Stops counting; until the next start the program runs at the speed of valgrind without a tool.
pub fn end() {
    BEGUN.store(false, Ordering::Release);
    valgrind::stop_counting();
}

/// Reports the start or end of a hold to valgrind; an argument for [`xenstored::sync::holds::watch`].
pub fn tell(edge: Edge) {
    if !BEGUN.load(Ordering::Acquire) {
        return;
    }
    match edge {
        Edge::Begins(at) => {
            let outer = OUTER.replace(OUTER.get() + 1);
            if outer > 0 {
                valgrind::print_counts();
            }
            let mut line = String::with_capacity(80);
            let _ = write!(line, "hold of {}:{}\n\0", at.file(), at.line());
            let line = CStr::from_bytes_with_nul(line.as_bytes());
            valgrind::print(line.expect("no file's name has a NUL"));
            valgrind::print_counts();
        }
        Edge::Ends => {
            valgrind::print_counts();
            valgrind::print(c"released\n");
            OUTER.set(OUTER.get() - 1);
            if OUTER.get() > 0 {
                valgrind::print_counts();
            }
        }
    }
}

/// All holds of a scenario.
#[derive(Default)]
pub struct Counted {
    pub scenario: String,
    pub holds: u64,
    /// The instructions of the longest hold, and where its lock was taken.
    pub most: u64,
    pub at: String,
}

/// Runs this program again under callgrind; returns the holds of each scenario whose name contains `part`, or why
/// there are none.
pub fn count(part: &str) -> Result<Vec<Counted>, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut valgrind = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--instr-atstart=no",
            "--log-fd=1",
        ])
        .arg(program)
        .env(COUNTED, part)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("valgrind: {error}"))?;
    let log = BufReader::new(valgrind.stdout.take().expect("stdout is piped"));
    let mut reader = Reader::default();
    for line in log.split(b'\n') {
        let line = line.map_err(|error| error.to_string())?;
        reader.line(&String::from_utf8_lossy(&line));
    }
    let ended = valgrind.wait().map_err(|error| error.to_string())?;
    if ended.success() { Ok(reader.counted) } else { Err(format!("valgrind: {ended}")) }
}

/// A lock that a thread holds.
struct Held {
    at: String,
    /// The thread's counter when it took it, and what was printed of the holds within since.
    since: u64,
}

/// Reads the log: "scenario NAME" once for each; "hold of FILE:LINE" and the state of the counters, the state and
/// "released"; of a hold within others the state before and after both.
#[derive(Default)]
struct Reader {
    counted: Vec<Counted>,
    /// Taken, and the state not yet read.
    taken: Option<String>,
    /// The thread of which a hold's begin or end was printed, and what it had counted before.
    printed: Option<(String, u64)>,
    thread: String,
    /// The counter of that thread.
    now: u64,
    /// By thread: the locks that it holds.
    held: HashMap<String, Vec<Held>>,
}

impl Reader {
    fn line(&mut self, line: &str) {
        // Printed lines are prefixed with the process id.
        let text =
            line.trim_start_matches(|c: char| c == '=' || c == '*' || c.is_ascii_digit()).trim();
        if let Some(scenario) = text.strip_prefix("scenario ") {
            self.counted.push(Counted { scenario: scenario.to_owned(), ..Counted::default() });
        } else if let Some(at) = text.strip_prefix("hold of ") {
            self.taken = Some(at.to_owned());
            self.printed = Some((self.thread.clone(), self.now));
        } else if text == "released" {
            self.released();
            self.printed = Some((self.thread.clone(), self.now));
        } else if let Some(thread) = text.strip_prefix("current-tid: ") {
            self.thread = thread.to_owned();
        } else if let Some(count) = text.strip_prefix(&format!("events-{}: ", self.thread)) {
            self.counts(count.parse().unwrap_or(0));
        }
    }

    fn counts(&mut self, now: u64) {
        self.now = now;
        let held = self.held.entry(self.thread.clone()).or_default();
        if let Some((_, before)) = self.printed.take_if(|(thread, _)| *thread == self.thread) {
            held.iter_mut().for_each(|outer| outer.since += now - before);
        }
        if let Some(at) = self.taken.take() {
            held.push(Held { at, since: now });
        }
    }

    fn released(&mut self) {
        let held = self.held.get_mut(&self.thread).and_then(Vec::pop);
        let Held { at, since } = held.expect("an unlock follows a lock");
        let instructions = self.now - since;
        let counted = self.counted.last_mut().expect("a scenario has begun");
        counted.holds += 1;
        if instructions > counted.most {
            (counted.most, counted.at) = (instructions, at);
        }
    }
}

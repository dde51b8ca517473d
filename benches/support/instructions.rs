//! Instructions of single holds, by valgrind: what no other guest of the machine can change.
//!
//! The process is started anew under callgrind. Two client requests at each end of a hold make
//! valgrind write that end and the thread's count into its log, without an instruction of the
//! program's in between; the process that started it reads the log.

use std::arch::asm;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use xenstored::sync::holds::Edge;

/// In the environment of the process that is counted.
const COUNTED: &str = "XENSTORED_COUNTED";
/// valgrind.h and callgrind.h, version 3.15 and later.
const START_INSTRUMENTATION: u64 = 0x4354_0004;
const STOP_INSTRUMENTATION: u64 = 0x4354_0005;
const PRINT: u64 = 0x1403;
const MONITOR_COMMAND: u64 = 0x1202;

static BEGUN: AtomicBool = AtomicBool::new(false);

/// Whether this is the process under valgrind.
pub fn is_counted() -> bool {
    std::env::var_os(COUNTED).is_some()
}

/// From now on holds are counted; none may be held.
pub fn begin() {
    request(START_INSTRUMENTATION, b"\0");
    BEGUN.store(true, Ordering::Release);
}

/// Until now; what is done between runs at the speed of a plain valgrind.
pub fn end() {
    BEGUN.store(false, Ordering::Release);
    request(STOP_INSTRUMENTATION, b"\0");
}

/// Tells valgrind of a hold's begin or end; to be given to [`xenstored::sync::holds::watch`].
pub fn tell(edge: Edge) {
    if !BEGUN.load(Ordering::Acquire) {
        return;
    }
    match edge {
        Edge::Begins(at) => {
            // Holds within holds pay for this line; it makes them look longer, never shorter.
            let mut line = String::with_capacity(80);
            let _ = write!(line, "hold of {}:{}\n\0", at.file(), at.line());
            request(PRINT, line.as_bytes());
            request(MONITOR_COMMAND, b"status internal\0");
        }
        Edge::Ends => {
            request(MONITOR_COMMAND, b"status internal\0");
            request(PRINT, b"released\n\0");
        }
    }
}

/// A client request with a string that ends with NUL and has no `%`.
fn request(number: u64, text: &[u8]) {
    assert_eq!(text.last(), Some(&0));
    // PRINT wants a va_list behind its format, which it does not look at without a `%`.
    let no_arguments = [0u64; 3];
    let arguments =
        [number, text.as_ptr().addr() as u64, no_arguments.as_ptr().addr() as u64, 0, 0, 0];
    // SAFETY: four rotations by 128 bits in all and an exchange of a register with itself change
    // nothing but flags; valgrind knows the sequence, reads `arguments` and the strings that they
    // point at, which live until here, and puts its answer into rdx.
    unsafe {
        asm!(
            "rol rdi, 3", "rol rdi, 13", "rol rdi, 61", "rol rdi, 51", "xchg rbx, rbx",
            in("rax") arguments.as_ptr(), inout("rdx") 0u64 => _, inout("rdi") 0u64 => _,
        );
    }
}

/// All holds of a run.
#[derive(Default)]
pub struct Counted {
    pub holds: u64,
    /// The instructions of the longest, and where its lock was taken.
    pub most: u64,
    pub at: String,
}

/// Runs this program again under callgrind; answers its holds, or why there are none.
pub fn count() -> Result<Counted, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut valgrind = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--instr-atstart=no",
            "--log-fd=1",
        ])
        .arg(program)
        .env(COUNTED, "1")
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("valgrind: {error}"))?;
    let log = BufReader::new(valgrind.stdout.take().expect("it is piped"));
    let mut reader = Reader::default();
    for line in log.split(b'\n') {
        let line = line.map_err(|error| error.to_string())?;
        reader.line(&String::from_utf8_lossy(&line));
    }
    let ended = valgrind.wait().map_err(|error| error.to_string())?;
    if ended.success() { Ok(reader.counted) } else { Err(format!("valgrind: {ended}")) }
}

/// Reads the log: "hold of FILE:LINE" or nothing, the state of the counters, "released" or nothing.
#[derive(Default)]
struct Reader {
    counted: Counted,
    /// Taken, and the state not yet read.
    taken: Option<String>,
    thread: String,
    /// The counter of that thread.
    now: u64,
    /// By thread: the locks that it holds, and its counter when it took them.
    held: HashMap<String, Vec<(String, u64)>>,
}

impl Reader {
    fn line(&mut self, line: &str) {
        // Printed lines come with the number of the process in front.
        let text =
            line.trim_start_matches(|c: char| c == '=' || c == '*' || c.is_ascii_digit()).trim();
        if let Some(at) = text.strip_prefix("hold of ") {
            self.taken = Some(at.to_owned());
        } else if let Some(thread) = text.strip_prefix("current-tid: ") {
            self.thread = thread.to_owned();
        } else if let Some(count) = text.strip_prefix(&format!("events-{}: ", self.thread)) {
            self.now = count.parse().unwrap_or(0);
            if let Some(at) = self.taken.take() {
                self.held.entry(self.thread.clone()).or_default().push((at, self.now));
            }
        } else if text == "released" {
            let (at, since) =
                self.held.get_mut(&self.thread).and_then(Vec::pop).expect("a lock that was taken");
            let instructions = self.now - since;
            self.counted.holds += 1;
            if instructions > self.counted.most {
                (self.counted.most, self.counted.at) = (instructions, at);
            }
        }
    }
}

//! A running daemon for one test.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use xenstored::host::sim::SimClient;

use super::HANG;

/// Returns the program under test: this project's daemon, or the one in `XENSTORED_TEST_DAEMON`, which must take the
/// same options.
fn program() -> OsString {
    let other = std::env::var_os("XENSTORED_TEST_DAEMON");
    other.unwrap_or_else(|| env!("CARGO_BIN_EXE_xenstored").into())
}

/// The options of every daemon.
const HOST: [&str; 3] = ["--host", "sim", "-N"];

/// Returns the options of every daemon. Without a keeper the child is the process that serves, which tests kill and
/// measure.
fn options() -> Vec<&'static str> {
    let alone = updates_every().is_none().then_some("--no-keeper");
    HOST.into_iter().chain(alone).collect()
}

/// Returns after how many rows of a table the daemon is replaced by another process, `None` for never: the number in
/// `XENSTORED_TEST_UPDATES`.
pub fn updates_every() -> Option<usize> {
    let number = std::env::var("XENSTORED_TEST_UPDATES").ok()?;
    Some(number.parse().expect("a number of rows"))
}

/// A running daemon, killed on drop, and its host. The test fails if the daemon ended by itself.
pub struct Daemon {
    child: Child,
    dir: TempDir,
    stopped: bool,
}

impl Daemon {
    /// Starts the daemon on the simulated host and waits until its sockets accept connections.
    pub fn start(shards: u16) -> Daemon {
        Daemon::start_with(&["--shards", &shards.to_string()])
    }

    /// Starts the daemon with further options.
    pub fn start_with(options: &[&str]) -> Daemon {
        let mut command = Command::new(program());
        command.args(self::options()).args(options);
        Daemon::spawn(command)
    }

    /// Starts the daemon with a keeper, so that it can be updated.
    pub fn start_with_keeper(shards: u16) -> Daemon {
        Daemon::start_program_with_keeper(Path::new(&program()), shards)
    }

    /// Starts the daemon from another path.
    pub fn start_program_with_keeper(program: &Path, shards: u16) -> Daemon {
        let mut command = Command::new(program);
        command.args(HOST).args(["--shards", &shards.to_string()]);
        Daemon::spawn(command)
    }

    /// Starts the daemon with a limit of `files` open files.
    pub fn start_limited(files: u32) -> Daemon {
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {files}; exec \"$0\" \"$@\" --shards 2");
        command.arg("-c").arg(&script).arg(program()).args(options());
        Daemon::spawn(command)
    }

    /// Starts the daemon with stacks of `bytes` for all threads except the first (std::thread, "Stack size").
    pub fn start_on_small_stacks(shards: u16, bytes: usize) -> Daemon {
        let mut command = Command::new(program());
        command.args(options()).args(["--shards", &shards.to_string()]);
        command.env("RUST_MIN_STACK", bytes.to_string());
        Daemon::spawn(command)
    }

    fn spawn(mut command: Command) -> Daemon {
        let dir = TempDir::new().unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let child = command
            .env("XENSTORED_RUNDIR", dir.path())
            .env_remove("XENSTORED_PATH")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut daemon = Daemon { child, dir, stopped: false };
        daemon.wait_until_it_accepts();
        daemon
    }

    fn wait_until_it_accepts(&mut self) {
        let started = Instant::now();
        // The socket of the simulated host may appear after the store's.
        while ["socket", "sim"].iter().any(|name| UnixStream::connect(self.path(name)).is_err()) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "exited before it served: {ended:?}\n{}", self.log());
            assert!(started.elapsed() < HANG, "timed out waiting for the socket\n{}", self.log());
            std::thread::yield_now();
        }
    }

    pub fn connect(&self) -> UnixStream {
        let socket = UnixStream::connect(self.path("socket")).unwrap();
        socket.set_read_timeout(Some(HANG)).unwrap();
        socket.set_write_timeout(Some(HANG)).unwrap();
        socket
    }

    /// Returns the path of a file in the daemon's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Waits until a file in the daemon's directory contains `text`; needed because a separate thread writes the log.
    pub fn await_text(&self, file: &str, text: &str) {
        let started = Instant::now();
        while !fs::read_to_string(self.path(file)).is_ok_and(|written| written.contains(text)) {
            assert!(started.elapsed() < HANG, "{text:?} is not in {file}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn log(&self) -> String {
        let bytes = fs::read(self.path("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Kills the daemon, like a crash.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.stopped = true;
    }

    /// Sends SIGTERM and waits for a successful exit.
    pub fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        self.stopped = true;
    }

    /// Returns the CPU time of the daemon's running threads (proc(5), schedstat).
    pub fn cpu_time(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let of_task = |task: io::Result<fs::DirEntry>| {
            let line =
                fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
            line.split_whitespace().next().map_or(0, |nanos| nanos.parse().unwrap())
        };
        Duration::from_nanos(tasks.map(of_task).sum())
    }

    /// Returns how often the daemon's running threads went to sleep (proc(5), status). An unchanged count means that
    /// nothing woke the daemon meanwhile.
    pub fn times_asleep(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let of_task = |task: io::Result<fs::DirEntry>| -> u64 {
            let status =
                fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
            let mut lines = status.lines();
            let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            count.map_or(0, |count| count.trim().parse().unwrap())
        };
        tasks.map(of_task).sum()
    }

    /// Returns the number of open descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Returns the resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib * 1024
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ended = self.child.try_wait().unwrap().filter(|_| !self.stopped);
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = SimClient::connect(self.path("sim")).and_then(|mut host| host.stop());
        let log = self.log();
        if std::thread::panicking() {
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!("--- the daemon's log, its end:");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
            eprintln!("--- {ended:?}");
        } else {
            assert!(ended.is_none(), "the daemon exited: {ended:?}\n{log}");
            assert!(!log.contains("panicked"), "a thread panicked\n{log}");
        }
    }
}

//! The targets of load: this project's daemon, Debian's two of Xen 4.17, an echo server.
//!
//! ```text
//!   Target --- start(options) ---> Running
//!    ours      this project's daemon               socket   for toolstacks
//!    c         xenstored of xen-utils-4.17         sim      the simulated host, with rings
//!    ocaml     oxenstored of xen-utils-4.17        pid      for its CPU time
//!    echo      replies to anything, parses nothing
//!    socket:P  any daemon, already running
//! ```
//!
//! All but the last run in their own directory and end with their [`Running`], so any number of them can run side by
//! side.

pub mod cpu;
pub mod echo;
pub mod ours;
pub mod peers;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use xenstored::host::sim::SimClient;

pub use cpu::Cpu;

/// Timeout of a target's start and end, far above the actual duration.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum delay from the close of a process's connections until it can be waited for: a core dump may be written in
/// between.
const REAPED: Duration = Duration::from_secs(5);

/// Interval at which the start or the end of a target is polled.
const POLL: Duration = Duration::from_millis(2);

/// A server under load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// This project's daemon.
    Ours,
    /// Xen's C daemon, Debian's package.
    C,
    /// Xen's OCaml daemon, Debian's package.
    OCaml,
    /// The echo server, which does not interpret requests: its cost is the minimum on this machine.
    Echo,
    /// Any daemon that listens at a socket.
    Socket(PathBuf),
}

/// Start options of a target. A target ignores those that do not apply to it.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Number of threads of our daemon or of the echo server; the server's own default if `None`.
    pub shards: Option<u16>,
    /// Whether our daemon has a keeper, so that it can be updated.
    pub keeper: bool,
    /// Additional arguments of the daemon, in its own syntax.
    pub arguments: Vec<String>,
    /// Additional lines of oxenstored's configuration file; other daemons ignore them.
    pub config: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Ours => f.write_str("ours"),
            Target::C => f.write_str("c"),
            Target::OCaml => f.write_str("ocaml"),
            Target::Echo => f.write_str("echo"),
            Target::Socket(path) => write!(f, "socket:{}", path.display()),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        match text {
            "ours" => Ok(Target::Ours),
            "c" => Ok(Target::C),
            "ocaml" => Ok(Target::OCaml),
            "echo" => Ok(Target::Echo),
            _ => match text.strip_prefix("socket:") {
                Some(path) if !path.is_empty() => Ok(Target::Socket(path.into())),
                _ => Err(format!(
                    "unknown target {text}; expected ours, c, ocaml, echo or socket:PATH"
                )),
            },
        }
    }
}

impl Target {
    /// Starts the target in its own directory.
    ///
    /// # Errors
    /// Those of [`Running::spawn`].
    pub fn start(&self, options: &Options) -> io::Result<Running> {
        match self {
            Target::Ours => ours::start(options),
            Target::C | Target::OCaml => peers::start(self, options),
            Target::Echo => echo::start(options),
            Target::Socket(path) => Ok(Running::attached(path.clone())),
        }
    }
}

impl Target {
    /// Returns the target's build, as far as it is known: a package and its version, or the program's own output.
    pub fn version(&self) -> String {
        match self {
            Target::Ours => ours::version(),
            Target::C | Target::OCaml => peers::version(self),
            Target::Echo => concat!("part of loadgen ", env!("CARGO_PKG_VERSION")).to_owned(),
            Target::Socket(_) => "unknown: only its socket is known".to_owned(),
        }
    }
}

/// A running target. A target that was started here ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// The socket of the target's simulated host; `None` if it has no rings.
    pub sim: Option<PathBuf>,
    /// The target's pid; `None` if it is not known.
    pub pid: Option<u32>,
    child: Option<Child>,
    /// The process of the simulated host, if it was started for the target.
    host: Option<Child>,
    dir: Option<TempDir>,
    /// Time that the target may take to end on request.
    grace: Duration,
}

impl Running {
    /// Creates a directory for a target, which is removed with it. The directory's name is short: socket paths are
    /// limited to 108 bytes.
    pub fn directory() -> io::Result<TempDir> {
        tempfile::Builder::new().prefix("load").tempdir()
    }

    /// Attaches to a running daemon, whose process is not known.
    pub fn attached(socket: PathBuf) -> Running {
        Running { socket, sim: None, pid: None, child: None, host: None, dir: None, grace: TIMEOUT }
    }

    /// Runs `command` in the background and waits until it accepts connections at the socket `socket` in `dir`, and at
    /// `sim` if it has rings. The output of `command` goes to the file `log` in `dir`.
    ///
    /// # Errors
    /// Those of starting it; `TimedOut` or `Other`, with the end of its log, if it does not serve.
    pub fn spawn(mut command: Command, dir: TempDir, rings: bool) -> io::Result<Running> {
        let log = File::create(dir.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn()?;
        let mut running = Running {
            socket: dir.path().join("socket"),
            sim: rings.then(|| dir.path().join("sim")),
            pid: Some(child.id()),
            child: Some(child),
            host: None,
            dir: Some(dir),
            grace: TIMEOUT,
        };
        running.wait_until_it_accepts()?;
        Ok(running)
    }

    /// Adds the process of the simulated host, which ends with the target.
    pub fn on_host(self, host: Child) -> Running {
        let mut hosted = self;
        hosted.host = Some(host);
        hosted
    }

    /// Skips the time to end gracefully: oxenstored would wait for its last domain.
    pub fn without_grace(self) -> Running {
        let mut hurried = self;
        hurried.grace = Duration::ZERO;
        hurried
    }

    fn wait_until_it_accepts(&mut self) -> io::Result<()> {
        let started = Instant::now();
        let sockets: Vec<PathBuf> =
            [Some(self.socket.clone()), self.sim.clone()].into_iter().flatten().collect();
        while !sockets.iter().all(|path| UnixStream::connect(path).is_ok()) {
            if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().transpose()) {
                return Err(io::Error::other(format!("it ended: {}\n{}", status?, self.log())));
            }
            if started.elapsed() > TIMEOUT {
                return Err(io::Error::new(io::ErrorKind::TimedOut, self.log()));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Returns the CPU time that the target has used so far.
    ///
    /// # Errors
    /// `Unsupported` if its process is not known, `NotFound` if it has ended.
    pub fn cpu(&self) -> io::Result<Cpu> {
        Cpu::of(self.pid.ok_or(io::ErrorKind::Unsupported)?)
    }

    /// Returns whether the target's process is running; true if the process is not known.
    pub fn is_alive(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => true,
        }
    }

    /// Returns the exit status of the target's process, if this process started it and it has ended. A process whose
    /// connections have just closed gets a moment to become waitable.
    pub fn ending(&mut self) -> Option<ExitStatus> {
        let (child, asked) = (self.child.as_mut()?, Instant::now());
        loop {
            match child.try_wait() {
                Ok(None) if asked.elapsed() < REAPED => thread::sleep(POLL),
                status => return status.ok().flatten(),
            }
        }
    }

    /// Returns the target's directory; `None` if this process did not start the target.
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_ref().map(TempDir::path)
    }

    /// Returns the target's output so far.
    pub fn log(&self) -> String {
        let bytes = self.dir().and_then(|dir| std::fs::read(dir.join("log")).ok());
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }
}

impl Drop for Running {
    /// Terminates the target with SIGTERM, on which a profiler that wraps it writes its file, and kills it if it does
    /// not end.
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let asked = Instant::now();
        while matches!(child.try_wait(), Ok(None)) && asked.elapsed() < self.grace {
            thread::sleep(POLL);
        }
        let _ = child.kill();
        let _ = child.wait();
        // Other daemons than ours leave the host, as do those that were killed.
        if let Some(sim) = &self.sim {
            let _ = SimClient::connect(sim).and_then(|mut host| host.stop());
        }
        if let Some(host) = &mut self.host {
            let _ = host.kill();
            let _ = host.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_parses_from_its_displayed_form() {
        for text in ["ours", "c", "ocaml", "echo", "socket:/run/xenstored/socket"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in ["", "C", "socket:", "socket", "o"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}

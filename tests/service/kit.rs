//! A daemon of the real binary in a directory of its own, and assertions about how it ends.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The timeout of every wait, long enough for a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// A directory with a configuration and all files that a daemon creates there.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Returns a command for a daemon here, on the simulated host and with `options`.
    pub fn daemon(&self, options: &str) -> Command {
        let mut command = bare();
        command.env("XENSTORED_RUNDIR", self.0.path()).args(["--host", "sim"]);
        command.args(options.replace("@", &self.path("").to_string_lossy()).split_whitespace());
        command
    }

    /// Starts a daemon here in the foreground, and waits until it serves.
    pub fn serve(&self, options: &str) -> Serving {
        self.serve_with(options, Stdio::piped())
    }

    /// Starts a daemon like [`Place::serve`], with the given standard error.
    pub fn serve_with(&self, options: &str, stderr: Stdio) -> Serving {
        let notified = self.path("notify");
        let _ = fs::remove_file(&notified);
        let socket = UnixDatagram::bind(&notified).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut command = self.daemon(options);
        let child = command.env("NOTIFY_SOCKET", &notified).stderr(stderr).spawn().unwrap();
        let serving = Serving(child);
        let mut message = [0; 256];
        let len = socket.recv(&mut message).expect("the daemon reports that it is ready");
        assert!(message[..len].starts_with(b"READY=1\n"));
        serving
    }
}

/// Returns a command for the binary without the settings in this process's environment.
pub fn bare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xenstored"));
    for name in [
        "XENSTORED_PATH",
        "XENSTORED_RUNDIR",
        "XDG_RUNTIME_DIR",
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "XENSTORED_KEEPER",
    ] {
        command.env_remove(name);
    }
    command
}

/// A serving daemon; killed if a test fails.
pub struct Serving(pub Child);

impl Serving {
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    pub fn end(mut self, signal: Signal) -> (ExitStatus, String) {
        kill_process(self.pid(), signal).unwrap();
        let mut text = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (self.0.wait().unwrap(), text)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Calls `look` every 5 ms until it finds something.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match look() {
            Some(found) => return found,
            None if Instant::now() > deadline => panic!("timed out after {TIMEOUT:?}: {what}"),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Returns whether a daemon replies at `socket`, to GET_DOMAIN_PATH of the control domain.
pub fn serves(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let words = [10u32, 1, 0, 2].map(u32::to_le_bytes).concat();
    let mut reply = [0; 16];
    let replied = stream
        .set_read_timeout(Some(TIMEOUT))
        .and_then(|()| stream.write_all(&[&words[..], b"0\0"].concat()))
        .and_then(|()| stream.read_exact(&mut reply));
    replied.is_ok() && reply[..8] == words[..8]
}

#[track_caller]
pub fn assert_fails(output: &Output, code: i32, sentence: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let mut lines = text.lines().filter(|line| line.starts_with("xenstored: "));
    assert!(lines.any(|line| line.contains(sentence)), "{sentence:?} is not in {text:?}");
}

/// A daemon in the background, by its pid file; killed if a test fails.
pub struct Background(pub Pid);

impl Background {
    pub fn find(pid_file: &Path) -> Background {
        let text =
            fs::read_to_string(pid_file).expect("the pid file exists once the command returns");
        Background(Pid::from_raw(text.trim().parse().unwrap()).unwrap())
    }

    pub fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0.as_raw_nonzero()))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if fs::read_link(self.proc("exe")).is_ok_and(|exe| exe.ends_with("xenstored")) {
            let _ = kill_process(self.0, Signal::KILL);
        }
    }
}

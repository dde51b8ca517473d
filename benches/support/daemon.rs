//! The real daemon as a child process, and a client of its socket.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use xenstored::host::sim::{SimClient, SimGuest};
use xenstored::protocol::{Input, append_request};
use xenstored::types::Domid;

/// Timeout of the daemon's start.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A daemon on a simulated host, in its own directory; killed on drop.
pub struct Daemon {
    place: TempDir,
    child: Child,
}

impl Daemon {
    /// Starts a daemon and waits until its sockets exist.
    pub fn start(options: &[&str]) -> Daemon {
        Daemon::start_under(&[], options)
    }

    /// Like [`Daemon::start`], under a profiler whose command line is given. The working directory is the daemon's
    /// directory.
    pub fn start_under(profiler: &[&str], options: &[&str]) -> Daemon {
        let place = tempfile::tempdir().expect("a temporary directory");
        let mut line = profiler.iter().copied().chain([env!("CARGO_BIN_EXE_xenstored")]);
        let mut command = Command::new(line.next().expect("a program to run"));
        command.args(line).current_dir(place.path());
        command.env_remove("XENSTORED_PATH").env("XENSTORED_RUNDIR", place.path());
        // Without a keeper: the profiler counts what the process does that serves.
        command.args(["--host", "sim", "-N", "--no-keeper"]);
        let child = command.args(options).spawn().expect("a daemon");
        let daemon = Daemon { place, child };
        let deadline = Instant::now() + TIMEOUT;
        while UnixStream::connect(daemon.place.path().join("socket")).is_err() {
            assert!(Instant::now() < deadline, "timed out waiting for the socket");
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon
    }

    /// Connects to the client socket.
    pub fn client(&self) -> Client {
        let stream = UnixStream::connect(self.place.path().join("socket")).expect("a connection");
        Client { stream, input: Input::default(), output: Vec::new(), asked: 0 }
    }

    /// Returns the daemon's directory.
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// Returns the process id of the child, which is the profiler's if there is one.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connects to the socket of the simulated host.
    pub fn host(&self) -> SimClient {
        SimClient::connect(self.place.path().join("sim")).expect("a simulated host")
    }

    /// Returns the resident set size in bytes (`VmRSS` of proc(5)).
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .expect("/proc is readable");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let host = SimClient::connect(self.place.path().join("sim"));
        let _ = host.and_then(|mut host| host.stop());
    }
}

/// Requests sent before their replies are read: many, but fewer than fill the socket buffers in either direction.
const PIPELINED: usize = 100;

/// A connection to the client socket. Requests are buffered and sent [`PIPELINED`] at a time.
pub struct Client {
    stream: UnixStream,
    input: Input,
    output: Vec<u8>,
    asked: usize,
}

impl Client {
    /// Queues a request. Its reply is read later and must not be an error.
    pub fn ask(&mut self, kind: u32, payload: &[u8]) {
        append_request(&mut self.output, kind, 0, 0, payload);
        self.asked += 1;
        if self.asked == PIPELINED {
            self.flush().expect("replies");
        }
    }

    /// Sends the queued requests; their replies are read later.
    pub fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    /// Sends the queued requests and waits for all replies. Skips events.
    pub fn flush(&mut self) -> io::Result<()> {
        self.send()?;
        while self.asked > 0 {
            let mut bytes = [0; 65536];
            let len = self.stream.read(&mut bytes)?;
            assert!(len > 0, "the daemon closed the connection");
            self.input.buffer().extend_from_slice(&bytes[..len]);
            while let Some(message) = self.input.take()? {
                assert_eq!(message.outcome().map_err(String::from_utf8_lossy).err(), None);
                self.asked -= usize::from(!message.is_event());
            }
        }
        Ok(())
    }

    /// Creates a domain on `host`, creates its partition root and introduces it, as a toolstack does.
    pub fn build_domain(&mut self, host: &mut SimClient, domid: Domid) -> SimGuest {
        let guest = host.create(Some(domid)).expect("a domain");
        let home = format!("/local/domain/{domid}");
        self.ask(INTRODUCE, format!("{domid}\x001\x00{}\x00", guest.port).as_bytes());
        self.ask(MKDIR, format!("{home}\0").as_bytes());
        self.ask(SET_PERMS, format!("{home}\0n{domid}\0").as_bytes());
        guest
    }
}

/// READ of xs_wire.h.
pub const READ: u32 = 2;
/// WATCH of xs_wire.h.
pub const WATCH: u32 = 4;
/// INTRODUCE of xs_wire.h.
pub const INTRODUCE: u32 = 8;
/// WRITE of xs_wire.h.
pub const WRITE: u32 = 11;
/// MKDIR of xs_wire.h.
pub const MKDIR: u32 = 12;
/// SET_PERMS of xs_wire.h.
pub const SET_PERMS: u32 = 14;

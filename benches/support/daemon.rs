//! The real daemon as a process of its own, and a client of its socket.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use xenstored::host::sim::{SimClient, SimGuest};
use xenstored::protocol::{Frame, HEADER_BYTES, frame};
use xenstored::words::Domid;

/// How long the daemon may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);
/// ERROR of xs_wire.h.
const ERROR: u32 = 16;
/// WATCH_EVENT of xs_wire.h.
const WATCH_EVENT: u32 = 15;

/// A daemon on a simulated host, in a directory of its own; killed when dropped.
pub struct Daemon {
    place: TempDir,
    child: Child,
}

impl Daemon {
    /// Starts one and waits until its sockets are there.
    pub fn start(options: &[&str]) -> Daemon {
        Daemon::start_under(&[], options)
    }

    /// The same, with a profiler's command line in front; it works in the daemon's directory.
    pub fn start_under(profiler: &[&str], options: &[&str]) -> Daemon {
        let place = tempfile::tempdir().expect("a temporary directory");
        let mut line = profiler.iter().copied().chain([env!("CARGO_BIN_EXE_xenstored")]);
        let mut command = Command::new(line.next().expect("the daemon at least"));
        command.args(line).current_dir(place.path());
        command.env_remove("XENSTORED_PATH").env("XENSTORED_RUNDIR", place.path());
        let child = command.args(["--host", "sim", "-N"]).args(options).spawn().expect("a daemon");
        let daemon = Daemon { place, child };
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(daemon.place.path().join("socket")).is_err() {
            assert!(Instant::now() < deadline, "the daemon does not serve");
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon
    }

    /// Connects to its socket.
    pub fn client(&self) -> Client {
        let stream = UnixStream::connect(self.place.path().join("socket")).expect("a connection");
        Client { stream, input: Vec::new(), output: Vec::new(), asked: 0 }
    }

    /// Its directory.
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connects to the socket of its host.
    pub fn host(&self) -> SimClient {
        SimClient::connect(self.place.path().join("sim")).expect("a simulated host")
    }

    /// Bytes of memory that are its own in RAM (`VmRSS` of proc(5)).
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("proc");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// So many requests are sent before their replies are read: much, and less than what a socket's
/// buffers hold of either.
const PIPELINED: usize = 100;

/// A connection to the socket. Requests are collected and sent [`PIPELINED`] at a time.
pub struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    asked: usize,
}

impl Client {
    /// Asks `kind` with `payload`; the reply is read later and must be no error.
    pub fn ask(&mut self, kind: u32, payload: &[u8]) {
        let len = u32::try_from(payload.len()).expect("a short payload");
        for word in [kind, 0, 0, len] {
            self.output.extend(word.to_le_bytes());
        }
        self.output.extend_from_slice(payload);
        self.asked += 1;
        if self.asked == PIPELINED {
            self.flush().expect("replies");
        }
    }

    /// Sends what was collected; the replies are read later.
    pub fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    /// Sends what was collected and waits for all replies. Events among them are passed over.
    pub fn flush(&mut self) -> io::Result<()> {
        self.send()?;
        while self.asked > 0 {
            let mut bytes = [0; 65536];
            let len = self.stream.read(&mut bytes)?;
            assert!(len > 0, "the daemon closed the connection");
            self.input.extend_from_slice(&bytes[..len]);
            let mut taken = 0;
            while let Frame::Message { header, payload, .. } = frame(&self.input[taken..]) {
                let said = String::from_utf8_lossy(payload);
                assert_ne!(header.kind.get(), ERROR, "an error: {said}");
                taken += HEADER_BYTES + payload.len();
                self.asked -= usize::from(header.kind.get() != WATCH_EVENT);
            }
            self.input.drain(..taken);
        }
        Ok(())
    }

    /// Creates a domain on `host`, gives it its home and introduces it, as a toolstack does.
    pub fn build_domain(&mut self, host: &mut SimClient, domid: Domid) -> SimGuest {
        let guest = host.create(Some(domid)).expect("a domain");
        let home = format!("/local/domain/{domid}");
        self.ask(INTRODUCE, format!("{domid}\x001\x00{}\x00", guest.port).as_bytes());
        self.ask(MKDIR, format!("{home}\0").as_bytes());
        self.ask(SET_PERMS, format!("{home}\0n{domid}\0").as_bytes());
        guest
    }
}

/// Numbers of xs_wire.h.
pub const READ: u32 = 2;
/// As above.
pub const WATCH: u32 = 4;
/// As above.
pub const INTRODUCE: u32 = 8;
/// As above.
pub const WRITE: u32 = 11;
/// As above.
pub const MKDIR: u32 = 12;
/// As above.
pub const SET_PERMS: u32 = 14;

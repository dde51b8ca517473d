//! A daemon on another host: its two sockets, through one connection of `ssh` or of another command.
//!
//! ```text
//!   Link == UnixStream pair == Mux ==(frames, standard input and output)== Mux == the daemon's sockets
//!   xsctl move --to ssh://host             ssh host xsctl receive
//!   xsctl send, in any pipes               xsctl receive
//! ```
//!
//! Each connection to a socket is a *channel* of the tunnel, and each descriptor that accompanies a request (a stream)
//! is another one, so the commands of `xsctl` work over a tunnel as over sockets. A lost tunnel ends all its
//! connections, as the end of the daemon would; the next connection starts the command again.

mod channels;
mod frame;
mod local;
pub mod receive;
mod window;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use serde::{Deserialize, Serialize};

use super::link::TIMEOUT;
use channels::{End, Mux};
use frame::{Frame, LockStep, Port};

/// The version of the frames; both ends must have the same.
const PROTOCOL: u32 = 3;

/// The tunnels of this process: one for each destination, which all connections to it share. Each has a lock of its
/// own, so that a host that does not speak delays no connection to another one.
static TUNNELS: Mutex<BTreeMap<PathBuf, Known>> = Mutex::new(BTreeMap::new());

/// The tunnel to a destination, while it is started or once it was.
type Known = Arc<Mutex<Option<Arc<Tunnel>>>>;

/// The name of the daemon at the other end of this process's standard input and output.
pub const STDIO: &str = "-";

/// What the end at the daemon says first.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    protocol: u32,
    /// The version of `xsctl` there.
    version: String,
    /// Identifies the daemon: the host's boot id and the path of the migration socket.
    daemon: String,
    /// Why there is no tunnel.
    error: Option<String>,
}

/// A running connection to another host.
pub struct Tunnel {
    mux: Arc<Mux>,
    daemon: String,
}

/// The socket of a daemon to which a [`super::link::Link`] connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket of this host.
    Socket(PathBuf),
    /// The client socket at the end of a tunnel, by its URL.
    Client(PathBuf),
    /// The migration socket at the end of a tunnel, by its URL.
    Migration(PathBuf),
}

/// The end that opens channels: the other one only replies.
struct Opener(Arc<Mux>);

impl End for Opener {
    fn takes_streams(&self) -> bool {
        false
    }

    fn open(&mut self, _: Port) -> io::Result<UnixStream> {
        Err(io::ErrorKind::InvalidData.into())
    }

    fn lock(&mut self, step: LockStep) -> Option<LockStep> {
        self.0.locked(step);
        None
    }
}

impl Address {
    /// Returns the address of a client socket: a path, or the URL of another host.
    pub fn client(socket: &Path) -> Address {
        match is_url(socket) {
            true => Address::Client(socket.to_path_buf()),
            false => Address::Socket(socket.to_path_buf()),
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// Those of the socket, or of the tunnel's command.
    pub fn connect(&self) -> io::Result<UnixStream> {
        match self {
            Address::Socket(path) => UnixStream::connect(path),
            Address::Client(url) => Tunnel::to(url)?.mux.open(Port::Client),
            Address::Migration(url) => Tunnel::to(url)?.mux.open(Port::Migration),
        }
    }
}

/// Whether a `--socket` or `--to` names another host.
pub fn is_url(socket: &Path) -> bool {
    let bytes = socket.as_os_str().as_bytes();
    bytes.starts_with(b"ssh://") || bytes.starts_with(b"exec:") || bytes == STDIO.as_bytes()
}

fn is_stdio(url: &Path) -> bool {
    url.as_os_str() == STDIO
}

/// Returns what identifies the daemon of a migration socket on this host among those of all hosts.
pub fn identity(migration: &Path) -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let path = migration.canonicalize().unwrap_or_else(|_| migration.to_path_buf());
    format!("{} {}", boot.trim(), path.display())
}

impl Tunnel {
    /// Returns the tunnel to a URL, which is started if there is none or the last one has ended.
    ///
    /// # Errors
    /// The URL is wrong, its command cannot be started, or the other end refuses.
    pub fn to(url: &Path) -> io::Result<Arc<Tunnel>> {
        let known = Arc::clone(TUNNELS.lock().entry(url.to_path_buf()).or_default());
        let mut known = known.lock();
        if let Some(tunnel) = known.as_ref().filter(|tunnel| tunnel.mux.is_open()) {
            return Ok(Arc::clone(tunnel));
        }
        let tunnel = match (is_stdio(url), known.is_some()) {
            (true, true) => return Err(io::Error::other("the other end closed the connection")),
            (true, false) => {
                let why = "only xsctl send speaks on standard input and output";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            (false, _) => Arc::new(Tunnel::start(command(url)?)?),
        };
        *known = Some(Arc::clone(&tunnel));
        Ok(tunnel)
    }

    /// Starts the tunnel on standard input and output, once in a process; its URL is [`STDIO`].
    ///
    /// # Errors
    /// The other end is no `xsctl receive`, or refuses.
    pub fn start_on_stdio() -> io::Result<()> {
        let ended = || Ok("the other end closed the connection".to_owned());
        let tunnel = Tunnel::over(stdout()?, io::stdin(), ended)?;
        TUNNELS.lock().insert(STDIO.into(), Arc::new(Mutex::new(Some(Arc::new(tunnel)))));
        Ok(())
    }

    fn start(mut command: Command) -> io::Result<Tunnel> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        Tunnel::over(input, output, move || {
            // It ends by itself when its input does.
            Ok(format!("the command of the other host ended ({})", child.wait()?))
        })
    }

    /// Makes a tunnel of bytes to and from an `xsctl receive`; `ended` waits for its end and describes it.
    fn over(
        input: impl io::Write + Send + 'static,
        output: impl io::Read + AsFd + Send + 'static,
        ended: impl FnOnce() -> io::Result<String> + Send + 'static,
    ) -> io::Result<Tunnel> {
        let mux = Mux::new(input);
        // If the command has ended, its exit code and what it printed say more than the error here.
        let _ = mux.send(&Frame::Hello(PROTOCOL.to_string().into_bytes()));
        await_input(&output)?;
        let mut output = BufReader::new(output);
        let hello = match Frame::read(&mut output) {
            Ok(Some(Frame::Hello(text))) => serde_json::from_slice::<Hello>(&text).ok(),
            Ok(Some(_)) | Err(_) => None,
            Ok(None) => {
                return Err(io::Error::other(format!("{} before it spoke", ended()?)));
            }
        };
        let hello = hello.ok_or_else(|| io::Error::other("the other end is no xsctl receive"))?;
        if let Some(why) = hello.error {
            return Err(io::Error::other(format!("the other host: {why}")));
        }
        if hello.protocol != PROTOCOL {
            let (theirs, here) = (hello.version, env!("CARGO_PKG_VERSION"));
            let why = format!("xsctl {theirs} there does not fit to xsctl {here} here");
            return Err(io::Error::other(why));
        }
        let its = Arc::clone(&mux);
        thread::Builder::new().name("tunnel".into()).spawn(move || {
            its.dispatch(&mut output, &mut Opener(Arc::clone(&its)));
            let _ = ended();
        })?;
        Ok(Tunnel { mux, daemon: hello.daemon })
    }

    /// Returns what identifies the daemon at the other end, as [`identity`] does for one of this host.
    pub fn daemon(&self) -> &str {
        &self.daemon
    }

    /// Tries to take the lock of moves at the other end ([`super::lock::Lock`]) exclusively; shared otherwise. Returns
    /// whether it is exclusive.
    pub fn lock(&self) -> bool {
        self.mux.lock(LockStep::Take)
    }

    /// Downgrades that lock to shared.
    pub fn share(&self) {
        self.mux.lock(LockStep::Share);
    }

    /// Releases that lock.
    pub fn release(&self) {
        // The end of the tunnel releases it, too.
        let _ = self.mux.send(&Frame::Lock(LockStep::Release));
    }
}

/// Returns standard output without a buffer, which would write a frame up to its last newline and then the rest.
fn stdout() -> io::Result<File> {
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

/// Waits for the first bytes of the other end.
fn await_input(output: &impl AsFd) -> io::Result<()> {
    let timeout = TIMEOUT.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    match retry_on_intr(|| poll(&mut [PollFd::new(output, PollFlags::IN)], Some(&timeout)))? {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, "the other host does not speak")),
        _ => Ok(()),
    }
}

/// Returns the command for a URL: `ssh://[user@]host[:port][/socket]` or `exec:COMMAND`.
fn command(url: &Path) -> io::Result<Command> {
    let wrong = |why: &str| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {why}", url.display()))
    };
    let bytes = url.as_os_str().as_bytes();
    let mut command = Command::new("/bin/sh");
    // A Ctrl-C reaches all processes of the terminal; xsctl completes its batch, and ssh respects ignored signals.
    let shell = |line: &str| format!("trap '' INT; exec {line}");
    if let Some(line) = bytes.strip_prefix(b"exec:") {
        command.arg("-c").arg(shell("/bin/sh -c \"$1\"")).arg("sh").arg(OsStr::from_bytes(line));
        return Ok(command);
    }
    let rest = bytes.strip_prefix(b"ssh://").ok_or_else(|| wrong("expected ssh:// or exec:"))?;
    let rest = std::str::from_utf8(rest).map_err(|_| wrong("is not UTF-8"))?;
    let (authority, socket) = match rest.split_once('/') {
        Some((authority, socket)) if !socket.is_empty() => (authority, Some(format!("/{socket}"))),
        Some((authority, _)) => (authority, None),
        None => (rest, None),
    };
    let (host, port) = split_port(authority).ok_or_else(|| wrong("has no valid port"))?;
    // An address in brackets is an IPv6 one, which ssh takes without them.
    let host = host.replace(['[', ']'], "");
    if host.is_empty() || host.starts_with('-') || host.ends_with('@') {
        return Err(wrong("names no host"));
    }
    let ssh = "ssh -o ServerAliveInterval=5 -o ServerAliveCountMax=3 \"$@\"";
    command.arg("-c").arg(shell(ssh)).arg("ssh");
    if let Some(port) = port {
        command.arg("-p").arg(port.to_string());
    }
    let mut there = String::from("xsctl receive");
    if let Some(socket) = socket {
        let quoted = shlex::try_quote(&socket).map_err(|_| wrong("contains a NUL"))?;
        there = format!("{there} --socket {quoted}");
    }
    command.arg("--").arg(host).arg(there);
    Ok(command)
}

/// Splits `[user@]host[:port]`; `None` if the port is no number.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    match authority.rsplit_once(':') {
        // A colon within the brackets of an IPv6 address.
        Some((_, after)) if after.contains(']') => Some((authority, None)),
        Some((host, port)) => port.parse().ok().map(|port| (host, Some(port))),
        None => Some((authority, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(url: &str) -> Option<Vec<String>> {
        let command = command(Path::new(url)).ok()?;
        let words = command.get_args().skip(3).map(|word| word.to_str().unwrap().to_owned());
        Some(words.collect())
    }

    #[test]
    fn urls_become_commands() {
        let receive = "xsctl receive";
        for (url, expected) in [
            ("ssh://host", Some(vec!["--", "host", receive])),
            ("ssh://host/", Some(vec!["--", "host", receive])),
            ("ssh://root@host:2222", Some(vec!["-p", "2222", "--", "root@host", receive])),
            ("ssh://[fe80::1]:22", Some(vec!["-p", "22", "--", "fe80::1", receive])),
            ("ssh://[fe80::1]", Some(vec!["--", "fe80::1", receive])),
            ("ssh://h/run/a b", Some(vec!["--", "h", "xsctl receive --socket '/run/a b'"])),
            ("exec:nc host 5", Some(vec!["nc host 5"])),
            ("ssh://", None),
            ("ssh://-oProxyCommand=x", None),
            ("ssh://root@", None),
            ("ssh://host:x", None),
            ("tcp://host", None),
        ] {
            let expected = expected.map(|words| words.iter().map(|word| (*word).into()).collect());
            assert_eq!(arguments(url), expected, "{url}");
        }
        assert!(is_url(Path::new("ssh://h")) && is_url(Path::new("exec:x")));
        assert!(!is_url(Path::new("/run/ssh://h")) && !is_url(Path::new("socket")));
    }
}

//! `xenstored sim guest`: an interactive domain of a simulated host, for trials. Each line of its input is a command;
//! events are printed as they arrive. With `--work` it works and checks itself instead. With `--other-host` it can be
//! moved to that host, and goes on there without noticing.

mod client;
mod command;
pub mod fleet;
mod worker;

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use crate::daemon::{DaemonError, Guest as Settings};
use crate::host::sim::{SimClient, SimGuest};
use crate::protocol::Operation;
use crate::types::Domid;
use client::{Client, Refused, Toolstack};
use command::Command;
use worker::{PERIOD, Worker};

/// The longest accepted line, in bytes; a message's payload is at most half of it.
const LINE_BYTES_MAX: usize = 8192;

/// Creates a domain and runs the commands of the standard input, until its end or `quit`. Returns the exit code: 1 if
/// a command failed and the input is not a terminal, or if a guest that works saw a loss or a repetition. The domain
/// ends with this call.
///
/// # Errors
/// [`DaemonError::Host`] if there is no host or daemon, a host refuses the domain, or the connection ends.
pub fn run(settings: &Settings) -> Result<u8, DaemonError> {
    let mut toolstack = Toolstack::connect(&settings.socket).map_err(|error| {
        let why = "start a daemon there, or set XENSTORED_PATH to its socket";
        DaemonError::Host(format!("cannot use {}: {error}; {why}", settings.socket.display()))
    })?;
    let mut host = SimClient::connect(&settings.sim_socket)
        .map_err(|error| of_host(&settings.sim_socket, error))?;
    let guest =
        host.create(settings.domid).map_err(|error| of_host(&settings.sim_socket, error))?;
    // There, too, the domain ends with the connection.
    let _other = match &settings.other_host {
        Some(socket) => {
            let mut other = SimClient::connect(socket).map_err(|error| of_host(socket, error))?;
            adopt(&mut host, &mut other, guest.domid).map_err(|error| of_host(socket, error))?;
            Some(other)
        }
        None => None,
    };
    let interactive = io::stdin().is_terminal();
    introduce(&mut toolstack, &guest)
        .map_err(|error| DaemonError::Host(format!("cannot introduce the domain: {error}")))?;
    let ended = |error| DaemonError::Host(format!("the domain's connection ended: {error}"));
    if settings.works {
        return work(Client::new(guest)).map_err(ended);
    }
    if interactive {
        println!(
            "You are domain {0} and own /local/domain/{0}, to which relative paths refer.\nType \
             help for a list of commands.",
            guest.domid
        );
    }
    let mut session = Session { client: Client::new(guest), interactive, failed: false };
    session.run().map_err(ended)
}

/// Works until the input ends or has a line. Returns the exit code.
fn work(client: Client) -> io::Result<u8> {
    let domid = client.domid();
    let mut worker = Worker::start(client)?;
    println!("domain {domid} works and checks itself until the end of its input");
    let (mut faults, mut host) = (0, None);
    while !stdin_is_readable(PERIOD)? {
        let step = worker.step()?;
        for fault in &step.faults {
            eprintln!("domain {domid}: {fault}");
        }
        faults += step.faults.len();
        if let Some(name) = step.host.filter(|name| host.as_ref() != Some(name)) {
            println!("on host {} since step {}", readable(name.as_bytes()), worker.steps());
            host = Some(name);
        }
    }
    match faults {
        0 => println!("{} steps, nothing lost, nothing repeated", worker.steps()),
        n => println!("{} steps, {n} losses or repetitions", worker.steps()),
    }
    Ok(u8::from(faults > 0))
}

/// Makes a domain of `host` one of `other`, too, with the same page and channel: there it can be moved.
fn adopt(host: &mut SimClient, other: &mut SimClient, domid: Domid) -> io::Result<()> {
    let (page, channel) = (host.page(domid)?, host.channel(domid)?);
    other.adopt(domid, page.as_fd(), channel.as_fd()).map(drop)
}

fn of_host(socket: &Path, error: io::Error) -> DaemonError {
    let start = "start one with: xenstored --host sim";
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            let socket = socket.display();
            DaemonError::Host(format!("there is no simulated host at {socket}: {error}; {start}"))
        }
        _ => DaemonError::Host(format!("{}: {error}", socket.display())),
    }
}

/// Does a toolstack's part for a new domain: INTRODUCE, then a directory that it owns. INTRODUCE comes first: its reply
/// follows the removal of a former domain with this domid, whose death the daemon may not have noticed yet and whose
/// sweep would remove the new directory. (libxl creates the directory first, but does not reuse a domid soon.)
fn introduce(toolstack: &mut Toolstack, guest: &SimGuest) -> io::Result<()> {
    let (domid, port) = (guest.domid, guest.port);
    let home = format!("/local/domain/{domid}\0");
    // The frame number is ignored: the host knows the page.
    toolstack.request(Operation::Introduce, format!("{domid}\x001\0{port}\0").as_bytes())?;
    toolstack.request(Operation::Mkdir, home.as_bytes())?;
    toolstack.request(Operation::SetPerms, format!("{home}n{domid}\0").as_bytes())
}

/// A guest and the state of its command line.
struct Session {
    client: Client,
    interactive: bool,
    failed: bool,
}

impl Session {
    fn run(&mut self) -> io::Result<u8> {
        let mut input = Vec::new();
        self.prompt()?;
        loop {
            self.wait()?;
            self.show_events()?;
            // The ring alone may have woken it, and a read would block.
            if !stdin_is_readable(Duration::ZERO)? {
                continue;
            }
            let mut bytes = [0; 4096];
            // Unbuffered: poll does not see bytes in a buffer.
            let len = retry_on_intr(|| rustix::io::read(io::stdin().as_fd(), &mut bytes))?;
            input.extend_from_slice(&bytes[..len]);
            // The last line may lack its newline.
            if len == 0 && !input.is_empty() {
                input.push(b'\n');
            }
            while let Some(end) = input.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = input.drain(..=end).collect();
                if !self.line(&line)? {
                    return self.end();
                }
                self.prompt()?;
            }
            if len == 0 {
                return self.end();
            }
            if input.len() > LINE_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a line is too long"));
            }
        }
    }

    /// Prints the events that precede the last command's reply: the daemon sends them before the reply to one more
    /// request.
    fn end(&mut self) -> io::Result<u8> {
        let domid = self.client.domid();
        // The reply itself is not needed.
        let _ = self.client.request(Operation::GetDomainPath, format!("{domid}\0").as_bytes())?;
        self.show_events()?;
        Ok(u8::from(self.failed && !self.interactive))
    }

    /// Waits for input or a notification.
    fn wait(&self) -> io::Result<()> {
        let stdin = io::stdin();
        let mut fds = [
            PollFd::new(&stdin, PollFlags::IN),
            PollFd::from_borrowed_fd(self.client.channel(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Runs one line; returns `false` for `quit`.
    fn line(&mut self, line: &[u8]) -> io::Result<bool> {
        let done = match Command::parse(line) {
            Ok(None) => Ok(Vec::new()),
            Ok(Some(Command::Quit)) => return Ok(false),
            Ok(Some(Command::Help)) => Ok(command::HELP.as_bytes().to_vec()),
            Ok(Some(command)) => command.run(&mut self.client)?,
            Err(usage) => Err(Refused(usage)),
        };
        match done {
            Ok(text) => print(&text)?,
            Err(Refused(why)) => {
                self.failed = true;
                eprintln!("{}: {why}", readable(line.trim_ascii()));
            }
        }
        self.show_events()?;
        Ok(true)
    }

    fn show_events(&mut self) -> io::Result<()> {
        self.client.receive()?;
        for path in self.client.take_events() {
            println!("event {}", readable(&path));
        }
        io::stdout().flush()
    }

    fn prompt(&self) -> io::Result<()> {
        if self.interactive {
            let transaction = if self.client.transaction() == 0 { "" } else { " (transaction)" };
            print!("domain {}{transaction}> ", self.client.domid());
        }
        io::stdout().flush()
    }
}

/// Waits at most this long for input or its end.
fn stdin_is_readable(timeout: Duration) -> io::Result<bool> {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    let timeout: Timespec = timeout.try_into().map_err(io::Error::other)?;
    Ok(retry_on_intr(|| poll(&mut fds, Some(&timeout)))? > 0)
}

/// Prints a reply, each line made readable.
fn print(text: &[u8]) -> io::Result<()> {
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        println!("{}", readable(line.strip_suffix(b"\n").unwrap_or(line)));
    }
    io::stdout().flush()
}

/// Returns text without control characters: values are other domains' bytes, and this output is a terminal's.
fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let shown = text.chars().map(|c| match c {
        c if c.is_control() => format!("\\x{:02x}", u32::from(c)),
        c => c.to_string(),
    });
    shown.collect()
}

//! `xenstored sim guest`: a domain of a simulated host for somebody who wants to look around. Each
//! line of its input is a command; events are printed as they come.

mod client;
mod command;

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;

use crate::daemon::{Failure, Guest as Settings};
use crate::host::sim::{SimClient, SimGuest};
use crate::protocol::Operation;
use client::{Client, Refused, Toolstack};
use command::Command;

/// Longest line that is taken; a message holds no more.
const LINE_BYTES_MAX: usize = 8192;

/// Becomes a domain and does what the standard input says, until it ends or says `quit`. Answers
/// the exit code: 1 if a command failed that no person typed. The domain ends with this.
///
/// # Errors
/// [`Failure::Host`]: there is no host or no daemon there, it refuses the domain, or it is gone.
pub fn run(settings: &Settings) -> Result<u8, Failure> {
    let mut toolstack = Toolstack::connect(&settings.socket).map_err(|error| {
        let why = "that is the toolstack's part, which connects a domain";
        Failure::Host(format!("cannot use {}: {error}; {why}", settings.socket.display()))
    })?;
    let mut host = SimClient::connect(&settings.sim_socket)
        .map_err(|error| of_host(&settings.sim_socket, error))?;
    let guest =
        host.create(settings.domid).map_err(|error| of_host(&settings.sim_socket, error))?;
    let interactive = io::stdin().is_terminal();
    introduce(&mut toolstack, &guest)
        .map_err(|error| Failure::Host(format!("the domain cannot be connected: {error}")))?;
    if interactive {
        println!(
            "You are domain {0}, and own /local/domain/{0}. Paths that do not begin with / are \
             below it.\nType help for the commands.",
            guest.domid
        );
    }
    let mut session = Session { client: Client::new(guest), interactive, failed: false };
    session.run().map_err(|error| Failure::Host(format!("the domain's connection ended: {error}")))
}

fn of_host(socket: &Path, error: io::Error) -> Failure {
    let start = "start one with: xenstored --host sim";
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            let socket = socket.display();
            Failure::Host(format!("there is no simulated host at {socket}: {error}; {start}"))
        }
        _ => Failure::Host(format!("{}: {error}", socket.display())),
    }
}

/// What a toolstack does with a new domain: INTRODUCE, and a home that it owns. INTRODUCE comes first
/// here: it is answered when nothing is left of a former domain of this number, whose death may not
/// have been heard of yet, and which would take the home along. (libxl makes the home first, and does
/// not use a number again soon.)
fn introduce(toolstack: &mut Toolstack, guest: &SimGuest) -> io::Result<()> {
    let (domid, port) = (guest.domid, guest.port);
    let home = format!("/local/domain/{domid}\0");
    // The frame's number is not looked at: the host knows the page.
    toolstack.request(Operation::Introduce, format!("{domid}\x001\0{port}\0").as_bytes())?;
    toolstack.request(Operation::Mkdir, home.as_bytes())?;
    toolstack.request(Operation::SetPerms, format!("{home}n{domid}\0").as_bytes())
}

/// A guest and whoever tells it what to do.
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
            if !stdin_is_readable()? {
                continue;
            }
            let mut bytes = [0; 4096];
            // Not through a buffer, whose content poll would not know of.
            let len = retry_on_intr(|| rustix::io::read(io::stdin().as_fd(), &mut bytes))?;
            input.extend_from_slice(&bytes[..len]);
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

    /// Whatever happened to this domain before its last command was answered is printed: its
    /// events come before the reply to another request.
    fn end(&mut self) -> io::Result<u8> {
        let domid = self.client.domid();
        // Only that it is answered counts.
        let _ = self.client.request(Operation::GetDomainPath, format!("{domid}\0").as_bytes())?;
        self.show_events()?;
        Ok(u8::from(self.failed && !self.interactive))
    }

    /// Waits for a line or an event.
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

    /// Obeys one line; `false` if it was the last.
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

fn stdin_is_readable() -> io::Result<bool> {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(poll(&mut fds, Some(&timeout))? > 0)
}

/// Prints what a client asked for, each line readable.
fn print(text: &[u8]) -> io::Result<()> {
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        println!("{}", readable(line.strip_suffix(b"\n").unwrap_or(line)));
    }
    io::stdout().flush()
}

/// Text without control characters: values are other domains' bytes, and this is a terminal.
fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let shown = text.chars().map(|c| match c {
        c if c.is_control() => format!("\\x{:02x}", u32::from(c)),
        c => c.to_string(),
    });
    shown.collect()
}

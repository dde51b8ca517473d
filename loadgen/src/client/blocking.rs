//! A blocking client, for the preparation of measurements and checks after them.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use xenstored::host::sim::{SimClient, SimGuest};
use xenstored::protocol::{ERROR, Operation, WATCH_EVENT, append_request};
use xenstored::types::Domid;

use super::message::{event, payload, words};
use super::wire::{Arrived, Wire};
use crate::trouble::{ClientError, Result};
use crate::wrong;

/// Number of requests sent before their replies are read: as many as surely fit into a socket's buffers, in either
/// direction.
const PIPELINED: usize = 64;

/// Timeout of a reply. A peer takes a second to remove 100,000 nodes.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A connection to a daemon's socket.
pub struct Blocking {
    wire: Wire,
    output: Vec<u8>,
    asked: usize,
    events: VecDeque<(String, String)>,
}

impl Blocking {
    /// Connects to the daemon.
    pub fn connect(socket: &Path) -> Result<Blocking> {
        let tried =
            |error| ClientError::io(format!("cannot connect to {}", socket.display()), error);
        let wire = Wire::connect(socket, TIMEOUT).map_err(tried)?;
        Ok(Blocking { wire, output: Vec::new(), asked: 0, events: VecDeque::new() })
    }

    /// Sends a request and waits for its reply: the payload, or the error's name.
    pub fn request(
        &mut self,
        kind: Operation,
        tx_id: u32,
        payload: &[u8],
    ) -> Result<std::result::Result<Vec<u8>, String>> {
        self.flush()?;
        append_request(&mut self.output, kind, 0, tx_id, payload);
        self.wire.send(&self.output)?;
        self.output.clear();
        let (replied, payload) = self.reply()?;
        if replied == ERROR {
            let name = payload.strip_suffix(b"\0").unwrap_or(&payload);
            return Ok(Err(String::from_utf8_lossy(name).into_owned()));
        }
        if replied != kind as u32 {
            wrong!("the reply to {} has type {replied}", kind.name());
        }
        Ok(Ok(payload))
    }

    /// Like [`Blocking::request`] outside of transactions, but fails on an error reply.
    pub fn must(&mut self, kind: Operation, payload: &[u8]) -> Result<Vec<u8>> {
        self.request(kind, 0, payload)?.map_err(|errno| {
            let asked = String::from_utf8_lossy(payload);
            ClientError::Wrong(format!("{} of {asked:?} failed with {errno}", kind.name()))
        })
    }

    /// Reads a node's value as text.
    pub fn text(&mut self, path: &str) -> Result<String> {
        let value = self.must(Operation::Read, &words(&[path]))?;
        Ok(String::from_utf8_lossy(&value).into_owned())
    }

    /// Reads a node's value, which must be a number.
    pub fn number(&mut self, path: &str) -> Result<u64> {
        let text = self.text(path)?;
        text.parse().map_err(|_| ClientError::Wrong(format!("{path} is {text:?}, not a number")))
    }

    /// Lists a node's children, each with its NUL; `path` ends in a NUL too. Reads the list in parts if it does not
    /// fit in one reply.
    pub fn directory(&mut self, path: &[u8]) -> Result<Vec<u8>> {
        match self.request(Operation::Directory, 0, path)? {
            Ok(children) => return Ok(children),
            Err(errno) if errno != "E2BIG" => wrong!("DIRECTORY failed with {errno}"),
            Err(_) => {}
        }
        let mut children = Vec::new();
        loop {
            let from = format!("{}\0", children.len()).into_bytes();
            let part = self.must(Operation::DirectoryPart, &[path, &from].concat())?;
            // The generation, then names; an empty name ends the last part.
            let generation =
                part.iter().position(|&byte| byte == 0).map_or(part.len(), |at| at + 1);
            children.extend_from_slice(&part[generation..]);
            if part[generation..].ends_with(b"\0\0") || part.len() <= generation + 1 {
                children.truncate(children.len() - 1);
                return Ok(children);
            }
        }
    }

    /// Queues a request whose reply is read later and must not be an error.
    pub fn ask(&mut self, kind: Operation, payload: &[u8]) -> Result<()> {
        append_request(&mut self.output, kind, 0, 0, payload);
        self.asked += 1;
        if self.asked == PIPELINED { self.flush() } else { Ok(()) }
    }

    /// Queues a WRITE like [`Blocking::ask`].
    pub fn write(&mut self, path: &str, value: impl AsRef<[u8]>) -> Result<()> {
        self.ask(Operation::Write, &payload(path, value))
    }

    /// Waits for the replies to all queued requests.
    pub fn flush(&mut self) -> Result<()> {
        self.wire.send(&self.output)?;
        self.output.clear();
        while self.asked > 0 {
            let (kind, payload) = self.reply()?;
            if kind == ERROR {
                wrong!("{} while the store is filled", String::from_utf8_lossy(&payload));
            }
            self.asked -= 1;
        }
        Ok(())
    }

    /// Waits for the next event, and returns its path and token.
    pub fn event(&mut self) -> Result<(String, String)> {
        if self.events.is_empty()
            && let Some(reply) = self.take()?
        {
            wrong!("unsolicited reply: {reply:?}");
        }
        Ok(self.events.pop_front().unwrap_or_default())
    }

    /// Returns the events sent so far: those that arrive before the reply to a request made here.
    pub fn take_events(&mut self) -> Result<Vec<(String, String)>> {
        self.must(Operation::GetDomainPath, b"0\0")?;
        Ok(self.events.drain(..).collect())
    }

    /// Checks that no event arrived.
    pub fn must_be_quiet(&mut self) -> Result<()> {
        match self.take_events()?.as_slice() {
            [] => Ok(()),
            [(path, _), ..] => wrong!("an event of {path} that no watch matches"),
        }
    }

    /// Waits for the next reply, and queues events that precede it.
    fn reply(&mut self) -> Result<(u32, Vec<u8>)> {
        loop {
            if let Some(reply) = self.take()? {
                return Ok(reply);
            }
        }
    }

    /// Waits for the next message. Queues an event, returns a reply.
    fn take(&mut self) -> Result<Option<(u32, Vec<u8>)>> {
        let Arrived { kind, payload, .. } = self.wire.wait()?;
        if kind != WATCH_EVENT {
            return Ok(Some((kind, payload)));
        }
        match event(&payload) {
            Some((path, token)) => self.events.push_back((path.into(), token.into())),
            None => wrong!("not an event: {payload:?}"),
        }
        Ok(None)
    }

    /// Creates a domain on the simulated host at `host`, creates its nodes, and introduces it, as a toolstack does.
    pub fn build_domain(&mut self, host: &mut SimClient, domid: Domid) -> Result<SimGuest> {
        let guest = host
            .create(Some(domid))
            .map_err(|error| ClientError::io(format!("cannot create domain {domid}"), error))?;
        let home = format!("/local/domain/{domid}");
        let (name, port) = (domid.to_string(), guest.port.to_string());
        self.ask(Operation::Mkdir, &words(&[&home]))?;
        self.ask(Operation::SetPerms, &words(&[&home, &format!("n{domid}")]))?;
        self.ask(Operation::Introduce, &words(&[&name, "1", &port]))?;
        Ok(guest)
    }
}

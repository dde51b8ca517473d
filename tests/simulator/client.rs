//! A client: what it has sent and not yet got, and what it must get.

use std::collections::VecDeque;

use crate::common::wire::{Message, op, show};
use crate::expected::Expected;
use crate::link::Link;
use crate::naive::{Op, Reply};

/// A request.
#[derive(Clone, Debug)]
pub enum Action {
    Store(Op),
    Watch(String, String, Option<usize>),
    Unwatch(String, String),
    Reset,
    Start,
    End(bool),
    Introduce(u16),
    Release(u16),
    Quiesce(u16),
    Unquiesce(u16),
}

/// A request that was sent and has no reply yet.
pub struct Sent {
    pub req: u32,
    pub tx: u32,
    pub action: Action,
    /// What the daemon replied, once it has; the client must get just that.
    pub reply: Option<(String, String)>,
    /// Whether the model has executed it.
    pub is_done: bool,
}

/// The transaction that a client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    No,
    Asked,
    Open(u32),
}

/// A client from its connection to its end.
pub struct Client {
    pub name: String,
    pub domid: u16,
    pub link: Link,
    pub outbox: Vec<u8>,
    inbox: Vec<u8>,
    pub sent: VecDeque<Sent>,
    pub transaction: Known,
    pub expected: Expected,
    /// Whether it has something to do without having been notified.
    pub is_awake: bool,
    /// The rounds of the ring scan after which the daemon must have found what it sent without a notification.
    pub silence: usize,
}

impl Client {
    pub fn new(name: String, domid: u16, link: Link) -> Client {
        let (outbox, inbox, sent, expected) = Default::default();
        let (transaction, is_awake, silence) = (Known::No, true, 0);
        Client { name, domid, link, outbox, inbox, sent, transaction, expected, is_awake, silence }
    }

    /// Queues a request for sending.
    pub fn queue(&mut self, req: u32, tx: u32, action: Action) {
        let (kind, payload) = wire(&action);
        let message = Message { kind, req, tx, payload: payload.into_bytes() };
        self.outbox.extend(message.encode());
        self.sent.push_back(Sent { req, tx, action, reply: None, is_done: false });
        self.is_awake = true;
    }

    /// Returns whether a client that sleeps until it is notified is awake.
    pub fn wakes(&mut self) -> bool {
        match &self.link {
            Link::Ring(ring) => ring.host.take_notified(self.domid) | self.is_awake,
            Link::Socket(_) => true,
            Link::Closed => false,
        }
    }

    /// Sends up to `limit` queued bytes. Returns whether any could be sent.
    pub fn send(&mut self, limit: usize) -> bool {
        let len = self.link.send(&self.outbox[..self.outbox.len().min(limit)]);
        self.outbox.drain(..len);
        len > 0
    }

    /// Sends everything without a notification, if the client has a ring.
    pub fn silence(&mut self) {
        if let Link::Ring(ring) = &self.link {
            let len = ring.put(&self.outbox);
            self.outbox.drain(..len);
            self.silence = 2;
        }
    }

    /// Receives up to `limit` bytes, checks the messages that are complete, and returns the bytes.
    pub fn receive(&mut self, limit: usize) -> Result<Vec<u8>, String> {
        let bytes = self.link.receive(limit);
        self.inbox.extend_from_slice(&bytes);
        while let Some(message) = Message::take(&mut self.inbox) {
            let result = if message.kind == op::WATCH_EVENT {
                self.take_event(&message)
            } else {
                self.take_reply(&message)
            };
            result.map_err(|error| format!("{}: {error}", self.name))?;
        }
        Ok(bytes)
    }

    fn take_event(&mut self, message: &Message) -> Result<(), String> {
        let text = show(&message.payload);
        let text = text.strip_suffix('|').ok_or("an event without a NUL at its end")?;
        let sent = &self.sent;
        self.expected.take(text, |own| sent.iter().any(|sent| sent.req == own))
    }

    fn take_reply(&mut self, message: &Message) -> Result<(), String> {
        let sent = self.sent.pop_front().ok_or("a reply too much")?;
        if (message.req, message.tx) != (sent.req, sent.tx) {
            return Err(format!("a reply to {} instead of {}", message.req, sent.req));
        }
        let (kind, payload) = sent.reply.ok_or("a reply that the daemon did not queue")?;
        let is_error = message.kind == op::ERROR;
        if is_error != (kind == "ERROR") || show(&message.payload) != payload {
            return Err(format!("{:?} became {}", payload, show(&message.payload)));
        }
        match sent.action {
            Action::Start if is_error => self.transaction = Known::No,
            Action::Start => {
                self.transaction = Known::Open(payload.trim_end_matches('|').parse().unwrap());
            }
            _ => {}
        }
        Ok(())
    }
}

/// Returns the type and the payload of a request.
fn wire(action: &Action) -> (u32, String) {
    match action {
        Action::Store(Op::Read(path)) => (op::READ, format!("{path}\0")),
        Action::Store(Op::Directory(path)) => (op::DIRECTORY, format!("{path}\0")),
        Action::Store(Op::GetPerms(path)) => (op::GET_PERMS, format!("{path}\0")),
        Action::Store(Op::Write(path, value)) => (op::WRITE, format!("{path}\0{value}")),
        Action::Store(Op::Mkdir(path)) => (op::MKDIR, format!("{path}\0")),
        Action::Store(Op::Rm(path)) => (op::RM, format!("{path}\0")),
        Action::Store(Op::SetPerms(path, perms)) => {
            (op::SET_PERMS, format!("{path}\0{}\0", perms.replace(' ', "\0")))
        }
        Action::Watch(path, token, depth) => {
            let depth = depth.map_or(String::new(), |depth| format!("{depth}\0"));
            (op::WATCH, format!("{path}\0{token}\0{depth}"))
        }
        Action::Unwatch(path, token) => (op::UNWATCH, format!("{path}\0{token}\0")),
        Action::Reset => (op::RESET_WATCHES, "\0".to_owned()),
        Action::Start => (op::TRANSACTION_START, "\0".to_owned()),
        Action::End(commit) => {
            (op::TRANSACTION_END, if *commit { "T\0" } else { "F\0" }.to_owned())
        }
        Action::Introduce(domid) => (op::INTRODUCE, format!("{domid}\x001\x001\0")),
        Action::Release(domid) => (op::RELEASE, format!("{domid}\0")),
        Action::Quiesce(domid) => (op::QUIESCE, format!("{domid}\0")),
        Action::Unquiesce(domid) => (op::UNQUIESCE, format!("{domid}\0")),
    }
}

/// Returns a reply as the model has it: the payload, with the names of a directory sorted.
pub fn as_in_model(action: &Action, kind: &str, payload: &str) -> Reply {
    if kind == "ERROR" {
        let name = payload.trim_end_matches('|');
        let known = crate::common::wire::ERRORS.iter().find(|known| **known == name);
        return Err(known.unwrap());
    }
    if !matches!(action, Action::Store(Op::Directory(_))) {
        return Ok(payload.to_owned());
    }
    let mut names: Vec<_> = payload.split_inclusive('|').collect();
    names.sort_unstable();
    Ok(names.concat())
}

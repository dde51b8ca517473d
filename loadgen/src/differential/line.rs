//! A connection to one daemon: numbered requests, their replies, and the events in between.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use xenstored::host::sim::SimGuest;
use xenstored::protocol::{ERROR, WATCH_EVENT, append_request};

use crate::client::{Arrived, Wire};

/// Timeout of a reply: longer than any daemon takes, even on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The reply to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The operation's number, or `ERROR`.
    pub kind: u32,
    /// The payload, without the header.
    pub payload: Vec<u8>,
    /// Whether the reply has the request's transaction id.
    pub echoed: bool,
}

impl Reply {
    /// Returns whether the request was refused for a quota.
    pub fn is_full(&self) -> bool {
        self.kind == ERROR && self.payload == b"ENOSPC\0"
    }
}

/// An event: path and token, each followed by a NUL.
pub type Event = Vec<u8>;

/// A connection with its received events.
pub struct Line {
    wire: Wire,
    requests: u32,
    /// Events not taken yet.
    pub events: Vec<Event>,
}

impl Line {
    /// Connects to a daemon's socket.
    pub fn connect(socket: &Path) -> io::Result<Line> {
        Ok(Line::new(Wire::connect(socket, TIMEOUT)?))
    }

    /// Creates a connection over a domain's ring.
    pub fn ring(guest: SimGuest) -> Line {
        Line::new(Wire::ring(guest, TIMEOUT))
    }

    fn new(wire: Wire) -> Line {
        Line { wire, requests: 0, events: Vec::new() }
    }

    /// Sends a request with any operation number, valid or not.
    pub fn send(&mut self, kind: u32, tx: u32, payload: &[u8]) -> io::Result<()> {
        // Large increments reveal a daemon that keeps only the low bits.
        self.requests = self.requests.wrapping_add(0x0101_0101);
        let mut request = Vec::new();
        append_request(&mut request, kind, self.requests, tx, payload);
        self.wire.send(&request)
    }

    /// Waits for the reply to the last request, and keeps events that precede it.
    ///
    /// # Errors
    /// Those of [`Wire::wait`]; `InvalidData` if the reply is to another request.
    pub fn reply(&mut self, tx: u32) -> io::Result<Reply> {
        loop {
            let Arrived { kind, req_id, tx_id, payload } = self.wire.wait()?;
            match kind {
                WATCH_EVENT => self.events.push(payload),
                _ if req_id == self.requests => {
                    return Ok(Reply { kind, payload, echoed: tx_id == tx });
                }
                _ => return Err(unasked(format!("a reply to request {req_id:x}"))),
            }
        }
    }

    /// Sends a request and waits for its reply.
    pub fn ask(&mut self, kind: u32, tx: u32, payload: &[u8]) -> io::Result<Reply> {
        self.send(kind, tx, payload)?;
        self.reply(tx)
    }

    /// Waits for this event, and keeps the events before it.
    pub fn wait_for(&mut self, event: &[u8]) -> io::Result<()> {
        if let Some(at) = self.events.iter().position(|e| e == event) {
            self.events.remove(at);
            return Ok(());
        }
        loop {
            match self.wire.wait()? {
                Arrived { kind: WATCH_EVENT, payload, .. } if payload == event => return Ok(()),
                Arrived { kind: WATCH_EVENT, payload, .. } => self.events.push(payload),
                Arrived { kind, .. } => {
                    return Err(unasked(format!("unsolicited message {kind}")));
                }
            }
        }
    }
}

fn unasked(text: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}

//! One connection to one daemon: numbered requests, their replies, and the events between them.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use xenstored::host::sim::SimGuest;
use xenstored::protocol::{ERROR, WATCH_EVENT};

use crate::client::{Arrived, Wire};

/// Longer than any daemon takes for anything here, also on a busy machine: it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The operation's number, or `ERROR`.
    pub kind: u32,
    /// Its payload.
    pub payload: Vec<u8>,
    /// It names the transaction that the request named.
    pub echoed: bool,
}

impl Reply {
    /// Whether the request was refused for a quota.
    pub fn is_full(&self) -> bool {
        self.kind == ERROR && self.payload == b"ENOSPC\0"
    }
}

/// An event: path and token, with a NUL between them and at the end.
pub type Event = Vec<u8>;

/// A connection, and the events that came.
pub struct Line {
    wire: Wire,
    requests: u32,
    /// Events since they were last taken.
    pub events: Vec<Event>,
}

impl Line {
    /// Connects to a socket.
    pub fn connect(socket: &Path) -> io::Result<Line> {
        Ok(Line::new(Wire::connect(socket, PATIENCE)?))
    }

    /// A domain's ring.
    pub fn ring(guest: SimGuest) -> Line {
        Line::new(Wire::ring(guest, PATIENCE))
    }

    fn new(wire: Wire) -> Line {
        Line { wire, requests: 0, events: Vec::new() }
    }

    /// Sends a request: of whatever number, as not all are operations.
    pub fn send(&mut self, kind: u32, tx: u32, payload: &[u8]) -> io::Result<()> {
        // Large steps: a daemon that keeps only the low bits is found out.
        self.requests = self.requests.wrapping_add(0x0101_0101);
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let words = [kind, self.requests, tx, length].map(u32::to_le_bytes);
        self.wire.send(&[words.as_flattened(), payload].concat())
    }

    /// The reply to the last request; events before it are kept.
    ///
    /// # Errors
    /// Those of [`Wire::wait`]; `InvalidData` if it is no reply to that request.
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

    /// Waits for this event; the others before it are kept.
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
                    return Err(unasked(format!("message {kind} that nobody asked for")));
                }
            }
        }
    }
}

fn unasked(text: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}

//! One connection to one daemon: a socket or a ring, and whoever uses it waits.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use xenstored::host::sim::SimGuest;
use xenstored::protocol::{Frame, HEADER_BYTES, WATCH_EVENT, frame};

/// Longer than any daemon takes for anything here, also on a busy machine: it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The operation's number, or [`ERROR`].
    pub kind: u32,
    /// Its payload.
    pub payload: Vec<u8>,
    /// It names the transaction that the request named.
    pub echoed: bool,
}

/// An event: path and token, with a NUL between them and at the end.
pub type Event = Vec<u8>;

/// A message as it came.
struct Message {
    kind: u32,
    req: u32,
    tx: u32,
    payload: Vec<u8>,
}

enum Link {
    Socket(UnixStream),
    Ring(Box<SimGuest>),
}

/// A connection, what came on it and is not looked at, and the events that came.
pub struct Line {
    link: Link,
    input: Vec<u8>,
    requests: u32,
    /// Events since they were last taken.
    pub events: Vec<Event>,
}

impl Line {
    /// Connects to a socket.
    pub fn connect(socket: &Path) -> io::Result<Line> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Line::new(Link::Socket(stream)))
    }

    /// A domain's ring.
    pub fn ring(guest: SimGuest) -> Line {
        Line::new(Link::Ring(Box::new(guest)))
    }

    fn new(link: Link) -> Line {
        Line { link, input: Vec::new(), requests: 0, events: Vec::new() }
    }

    /// Sends a request.
    pub fn send(&mut self, kind: u32, tx: u32, payload: &[u8]) -> io::Result<()> {
        // Large steps: a daemon that keeps only the low bits is found out.
        self.requests = self.requests.wrapping_add(0x0101_0101);
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let words = [kind, self.requests, tx, length].map(u32::to_le_bytes);
        let bytes = [words.as_flattened(), payload].concat();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let sent = match &mut self.link {
                Link::Socket(stream) => stream.write(rest)?,
                Link::Ring(guest) => guest.try_send(rest)?,
            };
            rest = &rest[sent..];
            if sent == 0 {
                self.receive()?;
            }
        }
        Ok(())
    }

    /// The reply to the last request; events before it are kept.
    ///
    /// # Errors
    /// `TimedOut`, `UnexpectedEof`; `InvalidData` if it is no reply to that request.
    pub fn reply(&mut self, tx: u32) -> io::Result<Reply> {
        loop {
            if let Some(Message { kind, req, tx: of, payload }) = self.message()? {
                if kind == WATCH_EVENT {
                    self.events.push(payload);
                } else if req == self.requests {
                    return Ok(Reply { kind, payload, echoed: of == tx });
                } else {
                    let text = format!("a reply to request {req:x}");
                    return Err(io::Error::new(ErrorKind::InvalidData, text));
                }
            } else {
                self.receive()?;
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
        let mut looked_at = 0;
        loop {
            if let Some(at) = self.events[looked_at..].iter().position(|e| e == event) {
                self.events.remove(looked_at + at);
                return Ok(());
            }
            looked_at = self.events.len();
            match self.message()? {
                Some(Message { kind: WATCH_EVENT, payload, .. }) => self.events.push(payload),
                Some(Message { kind, .. }) => {
                    let text = format!("message {kind} that nobody asked for");
                    return Err(io::Error::new(ErrorKind::InvalidData, text));
                }
                None => self.receive()?,
            }
        }
    }

    fn message(&mut self) -> io::Result<Option<Message>> {
        let (message, length) = match frame(&self.input) {
            Frame::Incomplete(_) => return Ok(None),
            Frame::TooLong => return Err(ErrorKind::InvalidData.into()),
            Frame::Message { header, payload, .. } => {
                let (kind, req, tx) = (header.kind.get(), header.req_id.get(), header.tx_id.get());
                let length = HEADER_BYTES + payload.len();
                (Message { kind, req, tx, payload: payload.to_vec() }, length)
            }
        };
        self.input.drain(..length);
        Ok(Some(message))
    }

    /// Waits until something came.
    fn receive(&mut self) -> io::Result<()> {
        let mut bytes = [0; 8192];
        loop {
            let count = match &mut self.link {
                Link::Socket(stream) => match stream.read(&mut bytes) {
                    Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                    Ok(count) => count,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {
                        return Err(ErrorKind::TimedOut.into());
                    }
                    Err(e) => return Err(e),
                },
                Link::Ring(guest) => match guest.try_recv(&mut bytes)? {
                    0 if guest.wait(Some(PATIENCE))? => match guest.try_recv(&mut bytes)? {
                        // Only room for requests, perhaps: let who sends look.
                        0 => return Ok(()),
                        count => count,
                    },
                    0 => return Err(ErrorKind::TimedOut.into()),
                    count => count,
                },
            };
            if count > 0 {
                self.input.extend_from_slice(&bytes[..count]);
                return Ok(());
            }
        }
    }
}

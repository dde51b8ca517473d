//! A connection for whoever waits: a socket or a ring, and what came on it.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use xenstored::host::sim::SimGuest;
use xenstored::protocol::{Frame, HEADER_BYTES, frame};

/// Bytes taken in at a time.
const READ_BYTES: usize = 64 << 10;

/// A message as it came.
pub struct Arrived {
    /// Its type.
    pub kind: u32,
    /// The request's number.
    pub req_id: u32,
    /// The transaction's number.
    pub tx_id: u32,
    /// Its payload.
    pub payload: Vec<u8>,
}

enum Way {
    Socket(UnixStream),
    Ring(Box<SimGuest>),
}

/// The connection.
pub struct Wire {
    way: Way,
    input: Vec<u8>,
    patience: Duration,
}

impl Wire {
    /// Connects to a socket. Whatever takes longer than `patience` fails with `TimedOut`.
    pub fn connect(socket: &Path, patience: Duration) -> io::Result<Wire> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Wire { way: Way::Socket(stream), input: Vec::new(), patience })
    }

    /// A domain's ring.
    pub fn ring(guest: SimGuest, patience: Duration) -> Wire {
        Wire { way: Way::Ring(Box::new(guest)), input: Vec::new(), patience }
    }

    /// Sends all of this. What comes meanwhile is kept.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let sent = match &mut self.way {
                Way::Socket(stream) => stream.write(rest).map_err(timed_out)?,
                Way::Ring(guest) => guest.try_send(rest)?,
            };
            rest = &rest[sent..];
            if sent == 0 {
                self.receive()?;
            }
        }
        Ok(())
    }

    /// The next message, waited for.
    ///
    /// # Errors
    /// `TimedOut`; `UnexpectedEof` if the daemon closed; `InvalidData` for a message too long.
    pub fn wait(&mut self) -> io::Result<Arrived> {
        loop {
            if let Some(message) = self.message()? {
                return Ok(message);
            }
            self.receive()?;
        }
    }

    /// The next message that came whole.
    fn message(&mut self) -> io::Result<Option<Arrived>> {
        let (message, len) = match frame(&self.input) {
            Frame::Incomplete(_) => return Ok(None),
            Frame::TooLong(_) => return Err(ErrorKind::InvalidData.into()),
            Frame::Message { header, payload, .. } => {
                let (kind, req_id, tx_id) =
                    (header.kind.get(), header.req_id.get(), header.tx_id.get());
                let len = HEADER_BYTES + payload.len();
                (Arrived { kind, req_id, tx_id, payload: payload.to_vec() }, len)
            }
        };
        self.input.drain(..len);
        Ok(Some(message))
    }

    /// Waits until something came, if only room in a ring.
    fn receive(&mut self) -> io::Result<()> {
        let mut bytes = [0; READ_BYTES];
        let count = match &mut self.way {
            Way::Socket(stream) => match stream.read(&mut bytes).map_err(timed_out)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => count,
            },
            Way::Ring(guest) => match guest.try_recv(&mut bytes)? {
                0 if guest.wait(Some(self.patience))? => guest.try_recv(&mut bytes)?,
                0 => return Err(ErrorKind::TimedOut.into()),
                count => count,
            },
        };
        self.input.extend_from_slice(&bytes[..count]);
        Ok(())
    }
}

/// A socket's timeout is reported as if it did not block.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
        _ => error,
    }
}

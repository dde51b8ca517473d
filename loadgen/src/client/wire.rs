//! A blocking connection: a socket or a ring with its input buffer.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use xenstored::host::sim::SimGuest;
use xenstored::protocol::{Input, Message};

/// Size of a read in bytes.
const READ_BYTES: usize = 64 << 10;

/// A received message.
pub struct Arrived {
    /// The message type.
    pub kind: u32,
    /// Id of the request.
    pub req_id: u32,
    /// Id of the transaction.
    pub tx_id: u32,
    /// The payload, without the header.
    pub payload: Vec<u8>,
}

enum Way {
    Socket(UnixStream),
    Ring(Box<SimGuest>),
}

/// A blocking connection with a timeout.
pub struct Wire {
    way: Way,
    input: Input,
    timeout: Duration,
}

impl Wire {
    /// Connects to a socket. Operations that take longer than `timeout` fail with `TimedOut`.
    pub fn connect(socket: &Path, timeout: Duration) -> io::Result<Wire> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Wire { way: Way::Socket(stream), input: Input::default(), timeout })
    }

    /// Creates a connection over a domain's ring.
    pub fn ring(guest: SimGuest, timeout: Duration) -> Wire {
        Wire { way: Way::Ring(Box::new(guest)), input: Input::default(), timeout }
    }

    /// Sends all of `bytes`, and buffers input that arrives meanwhile.
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

    /// Waits for the next message.
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

    /// Returns the next complete message, if there is one.
    fn message(&mut self) -> io::Result<Option<Arrived>> {
        let Some(message) = self.input.take()? else { return Ok(None) };
        let Message { kind, req_id, tx_id, payload } = message;
        Ok(Some(Arrived { kind, req_id, tx_id, payload: payload.to_vec() }))
    }

    /// Waits for input, or for room in a ring.
    fn receive(&mut self) -> io::Result<()> {
        let mut bytes = [0; READ_BYTES];
        let count = match &mut self.way {
            Way::Socket(stream) => match stream.read(&mut bytes).map_err(timed_out)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => count,
            },
            Way::Ring(guest) => match guest.try_recv(&mut bytes)? {
                0 if guest.wait(Some(self.timeout))? => guest.try_recv(&mut bytes)?,
                0 => return Err(ErrorKind::TimedOut.into()),
                count => count,
            },
        };
        self.input.buffer().extend_from_slice(&bytes[..count]);
        Ok(())
    }
}

/// Maps the error of a socket's timeout, which is that of a non-blocking socket.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
        _ => error,
    }
}

//! How bytes come and go: a Unix socket, or the ring in a domain's page. Nothing here knows what
//! the bytes mean.

mod ring;

use std::io::{self, Write};

use mio::net::UnixStream;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;

pub use ring::{Ring, RingError};

/// A client's end.
pub enum Transport {
    /// A connection to the daemon's socket.
    Socket(UnixStream),
    /// A domain's ring.
    Ring(Ring),
}

/// Why a connection ends.
#[derive(Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// The client is gone.
    Gone,
    /// What the client sent makes no sense, and nothing that follows could be understood.
    Broken(RingError),
}

impl From<RingError> for Disconnect {
    fn from(error: RingError) -> Disconnect {
        Disconnect::Broken(error)
    }
}

/// What came of reading.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// Bytes were appended; more may be waiting.
    More,
    /// Everything that was waiting was appended, maybe nothing.
    Drained,
    /// The client is gone.
    Closed,
}

impl Transport {
    /// Appends what waits to `out`, as much as it has room for and at least `least` bytes. From a
    /// ring nothing is consumed yet.
    ///
    /// # Errors
    /// Why a ring is to be given up. A socket's errors mean that it is closed.
    pub fn read(&mut self, out: &mut Vec<u8>, least: usize) -> Result<Input, RingError> {
        match self {
            Transport::Ring(ring) => ring.peek(out).map(|()| Input::Drained),
            Transport::Socket(socket) => {
                out.reserve(least);
                let room = out.capacity() - out.len();
                // Into room that is not zeroed first: that would cost more than a request does.
                Ok(match rustix::io::read(&*socket, spare_capacity(out)) {
                    Ok(0) => Input::Closed,
                    // A stream socket fills what it is given, so it had no more than this.
                    Ok(len) if len < room => Input::Drained,
                    Ok(_) | Err(Errno::INTR) => Input::More,
                    Err(Errno::AGAIN) => Input::Drained,
                    Err(_) => Input::Closed,
                })
            }
        }
    }

    /// The process that connected, of a socket; if it is in a namespace of processes that is not seen
    /// from here, it has no number.
    pub fn pid(&self) -> Option<i32> {
        let Transport::Socket(socket) = self else { return None };
        let credentials = rustix::net::sockopt::socket_peercred(socket).ok()?;
        Some(credentials.pid.as_raw_nonzero().get())
    }

    /// Sends as much of `bytes` as the other side takes, and returns how much.
    ///
    /// # Errors
    /// Why the connection ends.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Disconnect> {
        match self {
            Transport::Ring(ring) => Ok(ring.write(bytes)?),
            Transport::Socket(socket) => match socket.write(bytes) {
                Ok(len) => Ok(len),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                    _ => Err(Disconnect::Gone),
                },
            },
        }
    }
}

//! How bytes come and go: a Unix socket, or the ring in a domain's page. Nothing here knows what
//! the bytes mean.

mod ring;

use std::io::{self, Read, Write};

use mio::net::UnixStream;

pub use ring::{Ring, RingError};

/// A client's end.
pub enum Transport {
    /// A connection to the daemon's socket.
    Socket(UnixStream),
    /// A domain's ring.
    Ring(Ring),
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
    /// Appends what waits to `out`, at most `limit` bytes. From a ring nothing is consumed yet.
    ///
    /// # Errors
    /// Why a ring is to be given up. A socket's errors mean that it is closed.
    pub fn read(&mut self, out: &mut Vec<u8>, limit: usize) -> Result<Input, RingError> {
        match self {
            Transport::Ring(ring) => ring.peek(out).map(|()| Input::Drained),
            Transport::Socket(socket) => {
                let start = out.len();
                out.resize(start + limit, 0);
                let result = socket.read(&mut out[start..]);
                out.truncate(start + *result.as_ref().unwrap_or(&0));
                Ok(match result {
                    Ok(0) => Input::Closed,
                    // A stream socket fills what it is given, so it had no more than this.
                    Ok(len) if len < limit => Input::Drained,
                    Ok(_) => Input::More,
                    Err(error) => match error.kind() {
                        io::ErrorKind::WouldBlock => Input::Drained,
                        io::ErrorKind::Interrupted => Input::More,
                        _ => Input::Closed,
                    },
                })
            }
        }
    }

    /// Sends as much of `bytes` as the other side takes, and answers how much; `None` if it is
    /// gone.
    ///
    /// # Errors
    /// Why a ring is to be given up.
    pub fn write(&mut self, bytes: &[u8]) -> Result<Option<usize>, RingError> {
        match self {
            Transport::Ring(ring) => ring.write(bytes).map(Some),
            Transport::Socket(socket) => match socket.write(bytes) {
                Ok(len) => Ok(Some(len)),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Some(0)),
                    _ => Ok(None),
                },
            },
        }
    }
}

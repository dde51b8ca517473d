//! Byte transports: a Unix socket, or the ring in a domain's page. This layer does not interpret the bytes.

pub mod descriptors;
mod ring;

use mio::net::UnixStream;
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, retry_on_intr};

pub use ring::{Ring, RingError};

/// The daemon's end of a connection.
pub enum Transport {
    /// A connection to the daemon's socket.
    Socket(UnixStream),
    /// A domain's ring.
    Ring(Ring),
}

/// The reason why a connection ends.
#[derive(Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// The client is gone.
    Gone,
    /// The client violated the ring protocol, so nothing that follows can be interpreted.
    Broken(RingError),
}

impl From<RingError> for Disconnect {
    fn from(error: RingError) -> Disconnect {
        Disconnect::Broken(error)
    }
}

/// The result of a read.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// Bytes were appended, and more may be available.
    More,
    /// All available bytes were appended, possibly none.
    Drained,
    /// The client is gone.
    Closed,
}

impl Transport {
    /// Appends available bytes to `out`, as many as its capacity holds after a reservation of `least` bytes for a
    /// socket. Bytes of a ring are copied but not consumed.
    ///
    /// # Errors
    /// The reason to stop serving a ring. A socket's error is reported as [`Input::Closed`].
    pub fn read(&mut self, out: &mut Vec<u8>, least: usize) -> Result<Input, RingError> {
        match self {
            // `peek` copies all that the page has, at most 1 KiB.
            Transport::Ring(ring) => ring.peek(out).map(|()| Input::Drained),
            Transport::Socket(socket) => {
                out.reserve(least);
                let room = out.capacity() - out.len();
                // The spare capacity is not zeroed first: that would cost more than a request does.
                Ok(match rustix::io::read(&*socket, spare_capacity(out)) {
                    Ok(0) => Input::Closed,
                    // A stream socket fills the buffer, so a short read means that it is empty.
                    Ok(len) if len < room => Input::Drained,
                    Ok(_) | Err(Errno::INTR) => Input::More,
                    Err(Errno::AGAIN) => Input::Drained,
                    Err(_) => Input::Closed,
                })
            }
        }
    }

    /// Returns the pid of a socket's peer, `None` for a ring or a peer in a pid namespace that is not visible here.
    pub fn pid(&self) -> Option<i32> {
        let Transport::Socket(socket) = self else { return None };
        let credentials = rustix::net::sockopt::socket_peercred(socket).ok()?;
        Some(credentials.pid.as_raw_nonzero().get())
    }

    /// Sends as much of `bytes` as the peer accepts, and returns the count.
    ///
    /// # Errors
    /// The reason why the connection ends.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Disconnect> {
        match self {
            Transport::Ring(ring) => Ok(ring.write(bytes)?),
            // Repeated after a signal: with nothing sent, the poll would report the socket as writable only after the
            // peer has read.
            Transport::Socket(socket) => match retry_on_intr(|| rustix::io::write(&*socket, bytes))
            {
                Ok(len) => Ok(len),
                Err(Errno::AGAIN) => Ok(0),
                Err(_) => Err(Disconnect::Gone),
            },
        }
    }
}

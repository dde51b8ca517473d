//! A client's transport: a socket or a ring, as bytes.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use mio::net::UnixStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use xenstored::host::RING_BYTES;
use xenstored::host::sim::SimGuest;
use xenstored::types::Domid;

/// Size of a read from a socket in bytes.
const READ_BYTES: usize = 64 << 10;

thread_local! {
    /// Read buffer: zeroing it for each read would cost more than the read.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// A connection's non-blocking transport.
pub enum Link {
    /// A connection to the daemon's socket.
    Socket(UnixStream),
    /// The ring of a simulated domain.
    Ring(Box<SimGuest>),
}

impl Link {
    /// Connects to a daemon's socket.
    pub fn connect(socket: &Path) -> io::Result<Link> {
        // The standard library's connect blocks while the listener's queue is full; mio's fails.
        let stream = std::os::unix::net::UnixStream::connect(socket)?;
        stream.set_nonblocking(true)?;
        Ok(Link::Socket(UnixStream::from_std(stream)))
    }

    /// Returns the domain of a ring, `None` for a socket.
    pub fn ring(&self) -> Option<Domid> {
        match self {
            Link::Socket(_) => None,
            Link::Ring(guest) => Some(guest.domid),
        }
    }

    /// Registers this link for readability.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Link::Socket(socket) => registry.register(socket, token, Interest::READABLE),
            Link::Ring(guest) => {
                let fd = guest.channel().as_raw_fd();
                registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
            }
        }
    }

    /// Deregisters this link.
    pub fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Link::Socket(socket) => registry.deregister(socket),
            Link::Ring(guest) => {
                let fd = guest.channel().as_raw_fd();
                registry.deregister(&mut SourceFd(&fd))
            }
        }
    }

    /// Registers or deregisters interest in writability. A ring's daemon notifies without being asked.
    pub fn listen_for_room(
        &mut self,
        registry: &Registry,
        token: Token,
        wanted: bool,
    ) -> io::Result<()> {
        let Link::Socket(socket) = self else { return Ok(()) };
        let interest =
            if wanted { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        registry.reregister(socket, token, interest)
    }

    /// Appends all available input to `out`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the daemon closed the connection, and those of the system.
    pub fn receive(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Link::Socket(socket) => {
                SCRATCH.with_borrow_mut(|scratch| receive_socket(socket, scratch, out))
            }
            Link::Ring(guest) => {
                guest.wait(Some(Duration::ZERO))?;
                let mut bytes = [0; RING_BYTES];
                loop {
                    match guest.try_recv(&mut bytes)? {
                        0 => return Ok(()),
                        count => out.extend_from_slice(&bytes[..count]),
                    }
                }
            }
        }
    }

    /// Sends as much of `bytes` as the daemon accepts now, and returns the count.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Link::Socket(socket) => match socket.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                other => other,
            },
            Link::Ring(guest) => guest.try_send(bytes),
        }
    }
}

fn receive_socket(
    socket: &mut UnixStream,
    scratch: &mut [u8],
    out: &mut Vec<u8>,
) -> io::Result<()> {
    loop {
        match socket.read(scratch) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                out.extend_from_slice(&scratch[..count]);
                // A stream socket fills the buffer, so a short read means that it is empty.
                if count < scratch.len() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

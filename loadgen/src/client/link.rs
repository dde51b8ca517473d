//! A client's end: a socket or a ring, as bytes.

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
use xenstored::words::Domid;

/// Bytes taken from a socket at a time.
const READ_BYTES: usize = 64 << 10;

thread_local! {
    /// Where they are put first: clearing so much for each read would cost more than the read.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// A connection's way to the daemon. Nothing here waits.
pub enum Link {
    /// The daemon's socket.
    Socket(UnixStream),
    /// A domain's ring.
    Ring(Box<SimGuest>),
}

impl Link {
    /// Connects to the socket of a daemon.
    pub fn connect(socket: &Path) -> io::Result<Link> {
        // The standard library's connect waits while the listener's queue is full; mio's fails.
        let stream = std::os::unix::net::UnixStream::connect(socket)?;
        stream.set_nonblocking(true)?;
        Ok(Link::Socket(UnixStream::from_std(stream)))
    }

    /// The domain whose ring it is.
    pub fn ring(&self) -> Option<Domid> {
        match self {
            Link::Socket(_) => None,
            Link::Ring(guest) => Some(guest.domid),
        }
    }

    /// Has `registry` report this link when something comes.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Link::Socket(socket) => registry.register(socket, token, Interest::READABLE),
            Link::Ring(guest) => {
                let fd = guest.channel().as_raw_fd();
                registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
            }
        }
    }

    /// Has `registry` forget this link.
    pub fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Link::Socket(socket) => registry.deregister(socket),
            Link::Ring(guest) => {
                let fd = guest.channel().as_raw_fd();
                registry.deregister(&mut SourceFd(&fd))
            }
        }
    }

    /// Has `registry` report also when there is room again, or not any more. A ring's daemon says
    /// so by itself.
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

    /// Appends all that waits to `out`.
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

    /// Sends as much of `bytes` as the daemon takes now, and answers how much.
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
                // A stream socket fills what it is given, so it had no more than this.
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

//! The local side of a channel: its descriptor.

use std::fs::File;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{Errno, retry_on_intr, write};

use crate::transport::descriptors;

/// A local descriptor of a channel.
pub enum Local {
    /// A connection to a socket.
    Socket(UnixStream),
    /// The end of a stream's pipe that is read.
    Reader(File),
    /// The other end of one, which does not block.
    Writer(OwnedFd),
}

impl Local {
    /// Takes the end of a pipe to write to.
    ///
    /// # Errors
    /// The system refuses to make it non-blocking.
    pub fn writer(pipe: OwnedFd) -> io::Result<Local> {
        fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
        Ok(Local::Writer(pipe))
    }

    /// Reads bytes, and the descriptors that come with them; 0 at the end.
    pub fn receive(&self, bytes: &mut [u8], received: &mut Vec<OwnedFd>) -> io::Result<usize> {
        match self {
            Local::Socket(socket) => descriptors::receive(socket, bytes, received),
            Local::Reader(pipe) => (&*pipe).read(bytes),
            Local::Writer(_) => Ok(0),
        }
    }

    /// Writes all bytes, with descriptors. Blocks.
    pub fn send(&self, bytes: &[u8], with: Vec<OwnedFd>) -> io::Result<()> {
        match self {
            Local::Socket(socket) => {
                let with: Vec<_> = with.iter().map(AsFd::as_fd).collect();
                descriptors::send(socket, bytes, &with)
            }
            Local::Reader(_) => Err(io::ErrorKind::InvalidInput.into()),
            Local::Writer(pipe) => {
                let mut left = bytes;
                while !left.is_empty() {
                    retry_on_intr(|| poll(&mut [PollFd::new(pipe, PollFlags::OUT)], None))?;
                    left = &left[self.send_now(left, &[])?..];
                }
                Ok(())
            }
        }
    }

    /// Writes as many bytes as the descriptor takes without blocking, with descriptors, and returns their number.
    pub fn send_now(&self, bytes: &[u8], with: &[OwnedFd]) -> io::Result<usize> {
        match self {
            Local::Socket(socket) => {
                let with: Vec<_> = with.iter().map(AsFd::as_fd).collect();
                descriptors::send_now(socket, bytes, &with)
            }
            Local::Reader(_) => Ok(0),
            Local::Writer(pipe) => match retry_on_intr(|| write(pipe, bytes)) {
                Err(Errno::AGAIN) => Ok(0),
                written => Ok(written?),
            },
        }
    }

    /// Ends the connection, which wakes the thread that reads from it. A pipe ends with its last descriptor.
    pub fn end(&self) {
        if let Local::Socket(socket) = self {
            // It may have ended already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

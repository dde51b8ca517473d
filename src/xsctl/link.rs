//! A connection to a daemon: messages in both directions, and descriptors sent along.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, recv};

use super::tunnel::Address;
use crate::protocol::Input;
use crate::transport::descriptors;

/// Default timeout. A request for one domain takes milliseconds, so a daemon that is silent this long hangs, and the
/// user should learn the states of the domains.
pub const TIMEOUT: Duration = Duration::from_secs(60);
/// A connection to a daemon's socket.
pub struct Link {
    stream: UnixStream,
    timeout: Timespec,
    received: Input,
}

impl Link {
    /// Connects to a socket. A peer that is silent for `timeout` is the error `WouldBlock`.
    pub fn connect(address: &Address, timeout: Duration) -> io::Result<Link> {
        let stream = address.connect()?;
        stream.set_write_timeout(Some(timeout))?;
        let timeout = timeout.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Link { stream, timeout, received: Input::default() })
    }

    /// Returns whether there is nothing to read now, neither data nor end of file.
    pub fn is_silent(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = recv(&self.stream, &mut [0u8; 1], flags);
        self.received.is_empty() && matches!(peeked, Err(Errno::AGAIN))
    }

    /// Sends all bytes. Blocks.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends all bytes, with the descriptors attached to the first.
    pub fn send_with(&mut self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        descriptors::send(&self.stream, bytes, descriptors)
    }

    /// Waits until there is something to read. Uses poll(2) because a blocking read is also woken when the peer
    /// receives the request, before it replies.
    fn wait(&self) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        match retry_on_intr(|| poll(&mut fds, Some(&self.timeout)))? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    }

    /// Waits for the next message and returns its type, request id and payload.
    pub fn receive(&mut self) -> io::Result<(u32, u32, Vec<u8>)> {
        loop {
            if let Some(message) = self.received.take()? {
                return Ok((message.kind, message.req_id, message.payload.to_vec()));
            }
            self.wait()?;
            let mut bytes = [0; 16384];
            match retry_on_intr(|| rustix::io::read(&self.stream, &mut bytes))? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => self.received.buffer().extend_from_slice(&bytes[..len]),
            }
        }
    }
}

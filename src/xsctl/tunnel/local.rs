//! The local side of a channel: its descriptor, and how much may be sent of what it has.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use parking_lot::{Condvar, Mutex};

use super::channels::WINDOW_BYTES;
use crate::transport::descriptors;

/// The bytes that a reader may send; `None` once the channel has ended.
pub struct Credit {
    left: Mutex<Option<usize>>,
    more: Condvar,
}

impl Default for Credit {
    fn default() -> Credit {
        Credit { left: Mutex::new(Some(WINDOW_BYTES)), more: Condvar::new() }
    }
}

impl Credit {
    /// Waits for credit and takes up to `max` bytes of it.
    pub fn take(&self, max: usize) -> Option<usize> {
        let mut left = self.left.lock();
        loop {
            match &mut *left {
                None => return None,
                Some(0) => self.more.wait(&mut left),
                Some(some) => {
                    let taken = max.min(*some);
                    *some -= taken;
                    return Some(taken);
                }
            }
        }
    }

    /// Adds credit, and wakes the reader.
    pub fn give(&self, bytes: usize) {
        if let Some(left) = &mut *self.left.lock() {
            *left = left.saturating_add(bytes).min(WINDOW_BYTES);
        }
        self.more.notify_one();
    }

    /// Ends the channel, and wakes the reader.
    pub fn end(&self) {
        *self.left.lock() = None;
        self.more.notify_one();
    }
}

/// A local descriptor of a channel.
pub enum Local {
    /// A connection to a socket.
    Socket(UnixStream),
    /// One end of a stream's pipe.
    Pipe(File),
}

impl Local {
    /// Reads bytes, and the descriptors that come with them; 0 at the end.
    pub fn receive(&self, bytes: &mut [u8], received: &mut Vec<OwnedFd>) -> io::Result<usize> {
        match self {
            Local::Socket(socket) => descriptors::receive(socket, bytes, received),
            Local::Pipe(pipe) => (&*pipe).read(bytes),
        }
    }

    /// Writes all bytes, with descriptors.
    pub fn send(&self, bytes: &[u8], with: Vec<OwnedFd>) -> io::Result<()> {
        match self {
            Local::Socket(socket) => {
                let with: Vec<_> = with.iter().map(AsFd::as_fd).collect();
                descriptors::send(socket, bytes, &with)
            }
            Local::Pipe(pipe) => (&*pipe).write_all(bytes),
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

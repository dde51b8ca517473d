//! The client's end of a connection: a socket, or a guest's side of a ring page.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{Ordering, fence};

use xenstored::host::RingPage;

use crate::common::ring::{RING_BYTES, at};
use crate::host::MemoryHost;

/// The client's end of a connection.
pub enum Link {
    Socket(UnixStream),
    Ring(GuestRing),
    /// The client is gone.
    Closed,
}

/// A guest's side of its ring.
pub struct GuestRing {
    pub domid: u16,
    pub page: RingPage,
    pub host: MemoryHost,
}

impl Link {
    /// Sends as many of `bytes` as there is room for, and returns the count.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        match self {
            Link::Socket(socket) => match socket.write(bytes) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(error) => panic!("the daemon has closed a connection: {error}"),
            },
            Link::Ring(ring) => ring.send(bytes),
            Link::Closed => bytes.len(),
        }
    }

    /// Receives at most `limit` bytes.
    pub fn receive(&mut self, limit: usize) -> Vec<u8> {
        let mut bytes = vec![0; limit];
        let len = match self {
            Link::Socket(socket) => match socket.read(&mut bytes) {
                Ok(0) if limit > 0 => panic!("the daemon has closed a connection"),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(error) => panic!("the daemon has closed a connection: {error}"),
            },
            Link::Ring(ring) => ring.receive(&mut bytes),
            Link::Closed => 0,
        };
        bytes.truncate(len);
        bytes
    }
}

impl GuestRing {
    /// Notifies as Linux does: if the daemon had consumed everything before.
    fn send(&self, bytes: &[u8]) -> usize {
        let prod = self.page.load(at::REQ_PROD);
        let count = self.put(bytes);
        fence(Ordering::SeqCst);
        if count > 0 && prod == self.page.load(at::REQ_CONS) {
            self.host.notify_daemon(self.domid);
        }
        count
    }

    /// Writes as many of `bytes` as there is room for, without a notification, and returns the count.
    pub fn put(&self, bytes: &[u8]) -> usize {
        let page = &self.page;
        let (cons, prod) = (page.load(at::REQ_CONS), page.load(at::REQ_PROD));
        let free = (RING_BYTES - prod.wrapping_sub(cons)) as usize;
        let count = bytes.len().min(free);
        let slot = (prod % RING_BYTES) as usize;
        let (first, rest) = bytes[..count].split_at(count.min(RING_BYTES as usize - slot));
        page.copy_in(at::REQ + slot, first);
        page.copy_in(at::REQ, rest);
        page.store(at::REQ_PROD, prod.wrapping_add(u32::try_from(count).unwrap()));
        count
    }

    /// Notifies as Linux does: if the ring was full.
    fn receive(&self, bytes: &mut [u8]) -> usize {
        let page = &self.page;
        let (cons, prod) = (page.load(at::RSP_CONS), page.load(at::RSP_PROD));
        let ready = prod.wrapping_sub(cons);
        assert!(ready <= RING_BYTES, "the daemon's indices: cons {cons}, prod {prod}");
        let count = bytes.len().min(ready as usize);
        let slot = (cons % RING_BYTES) as usize;
        let (first, rest) = bytes[..count].split_at_mut(count.min(RING_BYTES as usize - slot));
        page.copy_out(at::RSP + slot, first);
        page.copy_out(at::RSP, rest);
        page.store(at::RSP_CONS, cons.wrapping_add(u32::try_from(count).unwrap()));
        fence(Ordering::SeqCst);
        if count > 0 && page.load(at::RSP_PROD).wrapping_sub(cons) >= RING_BYTES {
            self.host.notify_daemon(self.domid);
        }
        count
    }
}

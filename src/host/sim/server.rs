//! The socket at which processes create and control domains, served by one thread.
//!
//! Replies are never queued: if the client's socket does not accept a reply at once, the connection is closed. So each
//! client costs a buffer of one line, even a client that does not read.

mod requests;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use slab::Slab;

use super::domains::{Domains, Parts};
use super::fds::{new_channel, new_page};
use super::lines::LINE_MAX;
use super::socket::{FDS_MAX, GuestEnds, receive_with};
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::types::Domid;

/// The number of connections at a time. With 10,000 domains this leaves a third of 20,000 descriptors to the rest of
/// the daemon. Further clients wait in the listener's queue.
const CLIENTS_MAX: usize = 4096;

/// Number of bytes read from a client before the next one is served: at most 73 requests.
const READ_MAX: usize = 512;

/// Number of descriptors reserved for the rest of the daemon; at most a quarter of all.
const RESERVED: u64 = 1024;

/// Pause of accepting after it failed for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const LISTENER: Token = Token(usize::MAX - 1);
const STOP: Token = Token(usize::MAX - 2);

/// The handle that ends the thread of a [`Server`].
pub struct Stop {
    asked: Arc<AtomicBool>,
    waker: Waker,
}

impl Stop {
    /// Requests the end without waiting for it.
    pub fn stop(&self) {
        self.asked.store(true, Ordering::Release);
        let _ = self.waker.wake();
    }
}

struct Client {
    stream: UnixStream,
    /// The beginning of a line, at most [`LINE_MAX`] bytes between two passes.
    input: Vec<u8>,
    /// Descriptors that came with the bytes of `input` or of the line being handled, and are dropped with those. One
    /// more than any line can use is kept, as a sign that there were too many.
    fds: Vec<OwnedFd>,
    /// Whether the client is in the queue `ready`.
    queued: bool,
}

/// The result of serving a client for one pass.
enum Outcome {
    Idle,
    More,
    Closed,
}

/// The state of the server's thread.
pub struct Server {
    poll: Poll,
    listener: UnixListener,
    stop: Arc<AtomicBool>,
    domains: Arc<Domains>,
    /// The guest's ends of domain 0. The server keeps these ends, so that another process can be the control domain's
    /// kernel after the first.
    control: GuestEnds,
    /// The client that is domain 0's kernel.
    kernel: Option<usize>,
    /// The highest descriptor that may be used. The system assigns the lowest free number, so a descriptor above this
    /// shows that few are left.
    last_fd: u64,
    clients: Slab<Client>,
    /// The limit on `clients`, which tests lower.
    clients_max: usize,
    /// Clients that may have sent something.
    ready: VecDeque<usize>,
    /// The domains that end with a client's connection, and that client.
    owners: BTreeMap<Domid, usize>,
    /// Whether clients may wait in the listener's queue: there were too many clients, or no descriptors. The listener
    /// is watched edge-triggered and does not report them again.
    paused: bool,
}

impl Server {
    /// Creates the control domain, and a server for the listening socket.
    pub fn new(listener: OwnedFd, domains: Arc<Domains>) -> io::Result<(Server, Stop)> {
        let (parts, control) = new_domain()?;
        domains.insert(Some(Domid::CONTROL), parts).map_err(io::Error::other)?;
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), STOP)?;
        let mut listener = UnixListener::from_std(listener.into());
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let asked = Arc::new(AtomicBool::new(false));
        let server = Server {
            poll,
            listener,
            stop: asked.clone(),
            domains,
            control,
            kernel: None,
            last_fd: last_fd(),
            clients: Slab::new(),
            clients_max: CLIENTS_MAX,
            ready: VecDeque::new(),
            owners: BTreeMap::new(),
            paused: false,
        };
        Ok((server, Stop { asked, waker }))
    }

    /// Serves until [`Stop::stop`]; then all connections are closed.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(256);
        while !self.stop.load(Ordering::Acquire) {
            let wait = if self.ready.is_empty() {
                self.paused.then_some(ACCEPT_PAUSE)
            } else {
                Some(Duration::ZERO)
            };
            // The only error that poll(2) can return here is EINTR, without events.
            let _ = self.poll.poll(&mut events, wait);
            let mut accept = self.paused;
            for event in &events {
                match event.token() {
                    STOP => {}
                    LISTENER => accept = true,
                    Token(key) => self.enqueue(key),
                }
            }
            for _ in 0..self.ready.len() {
                self.pass();
            }
            if accept {
                self.accept();
            }
        }
    }

    /// Accepts waiting clients while there is room; the rest wait for the next round.
    fn accept(&mut self) {
        self.paused = true;
        while self.clients.len() < self.clients_max {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.paused = false;
                    return;
                }
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::INTR | Errno::CONNABORTED) => {}
                    _ => return,
                },
            }
        }
    }

    fn admit(&mut self, mut stream: UnixStream) {
        if self.is_scarce(&stream) {
            return; // Closes the connection, as there is no telling when there would be room.
        }
        let entry = self.clients.vacant_entry();
        let token = Token(entry.key());
        if self.poll.registry().register(&mut stream, token, Interest::READABLE).is_ok() {
            entry.insert(Client { stream, input: Vec::new(), fds: Vec::new(), queued: false });
        }
    }

    fn enqueue(&mut self, key: usize) {
        // The event may concern a client that was closed.
        if let Some(client) = self.clients.get_mut(key).filter(|client| !client.queued) {
            client.queued = true;
            self.ready.push_back(key);
        }
    }

    /// Serves the next ready client.
    fn pass(&mut self) {
        let Some(key) = self.ready.pop_front() else { return };
        if let Some(client) = self.clients.get_mut(key) {
            client.queued = false;
        }
        match self.serve(key) {
            Outcome::Idle => {}
            Outcome::More => self.enqueue(key),
            Outcome::Closed => self.close(key),
        }
    }

    /// Reads once from a client and handles the complete lines.
    fn serve(&mut self, key: usize) -> Outcome {
        let Some(client) = self.clients.get_mut(key) else { return Outcome::Idle };
        let mut bytes = [0; READ_MAX];
        match receive_with(client.stream.as_fd(), &mut bytes, &mut client.fds) {
            Ok(0) => return Outcome::Closed,
            Ok(n) => {
                client.input.extend_from_slice(&bytes[..n]);
                client.fds.truncate(FDS_MAX + 1);
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Outcome::Idle,
                io::ErrorKind::Interrupted => return Outcome::More,
                _ => return Outcome::Closed,
            },
        }
        let mut input = std::mem::take(&mut client.input);
        let mut start = 0;
        while let Some(length) = input[start..].iter().position(|&byte| byte == b'\n') {
            if !self.answer(key, &input[start..start + length]) {
                return Outcome::Closed;
            }
            start += length + 1;
        }
        input.drain(..start);
        if input.len() > LINE_MAX {
            self.answer(key, &input);
            return Outcome::Closed;
        }
        if let Some(client) = self.clients.get_mut(key) {
            if input.is_empty() {
                client.fds.clear(); // Descriptors that belong to no line are closed.
            }
            client.input = input;
        }
        Outcome::More
    }
}

/// Returns the highest descriptor that domains and clients may use.
fn last_fd() -> u64 {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    limit - RESERVED.min(limit / 4)
}

/// Creates a domain's page and channel; returns the host's half and the guest's.
fn new_domain() -> io::Result<(Parts, GuestEnds)> {
    // The channel is created first, so that its descriptor is the one compared with `last_fd`.
    let (channel, theirs) = new_channel()?;
    let (file, page) = new_page()?;
    Ok((Parts { page, channel }, [file, theirs]))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn clients_beyond_the_limit_wait_for_a_free_slot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let domains = Arc::new(Domains::new());
        let (mut server, _stop) = Server::new(listener.into(), domains).unwrap();
        assert_eq!(server.clients_max, CLIENTS_MAX);
        server.clients_max = 2;
        let _clients: Vec<_> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
        server.accept();
        assert!(server.clients.len() == 2 && server.paused, "the third client waits");
        server.close(0);
        server.accept();
        assert!(
            server.clients.len() == 2 && server.paused,
            "accepting stays paused while a client is waiting"
        );
        server.close(1);
        server.accept();
        assert!(server.clients.len() == 1 && !server.paused, "no client waits");
    }
}

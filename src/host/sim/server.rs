//! The process of a simulated host: a thread that keeps the domains and serves the socket at which processes create and
//! control them. The daemon is a client, too.
//!
//! Replies are never queued: if the client's socket does not accept a reply at once, the connection is closed. So each
//! client costs a buffer of one line, even a client that does not read.

mod adopted;
mod domains;
mod lifetime;
mod requests;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::io::Errno;
use slab::Slab;

use super::fds::{is_scarce, new_channel, new_page};
use super::lines::{LINE_MAX, Status};
use super::socket::{FDS_MAX, GuestEnds, listen, receive_with};
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::types::Domid;
use domains::{Domains, Parts};
pub use lifetime::Lifetime;
use lifetime::{CHECK_INTERVAL, SocketFile, Unused};

/// The number of connections at a time. With 10,000 domains this leaves a third of 20,000 descriptors to the rest of
/// the host. Further clients wait in the listener's queue.
const CLIENTS_MAX: usize = 4096;

/// Number of bytes read from a client before the next one is served: at most 73 requests.
const READ_MAX: usize = 512;

/// Pause of accepting after it failed for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const LISTENER: Token = Token(usize::MAX - 1);
const STOP: Token = Token(usize::MAX - 2);

/// The handle that ends a host from another thread.
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

/// A simulated host.
pub struct SimServer {
    poll: Poll,
    listener: UnixListener,
    stop: Arc<AtomicBool>,
    domains: Domains,
    /// The guest's ends of domain 0. The host keeps these ends, so that another process can be the control domain's
    /// kernel after the first.
    control: GuestEnds,
    /// The client that is domain 0's kernel.
    kernel: Option<usize>,
    /// The client that is the daemon.
    daemon: Option<usize>,
    unused: Unused,
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
    /// `None` at the end of [`SimServer::run`].
    socket: Option<SocketFile>,
}

impl SimServer {
    /// Creates a host with the control domain, and listens at the socket `path` (mode 0600). A stale socket is replaced.
    ///
    /// # Errors
    /// `AddrInUse` if another process serves the socket, `AlreadyExists` if the path is not a socket; those of
    /// bind(2), such as a path that is too long (108 bytes).
    pub fn new(path: &Path, lifetime: Lifetime) -> io::Result<(SimServer, Stop)> {
        let listener = listen(path)?;
        let socket = SocketFile::of(path); // Removes the socket if the rest fails.
        let (parts, control) = new_domain()?;
        let mut domains = Domains::new()?;
        domains.insert(Some(Domid::CONTROL), parts).map_err(io::Error::other)?;
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), STOP)?;
        let mut listener = UnixListener::from_std(listener.into());
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let asked = Arc::new(AtomicBool::new(false));
        let server = SimServer {
            poll,
            listener,
            stop: asked.clone(),
            domains,
            control,
            kernel: None,
            daemon: None,
            unused: Unused::new(lifetime, Instant::now()),
            clients: Slab::new(),
            clients_max: CLIENTS_MAX,
            ready: VecDeque::new(),
            owners: BTreeMap::new(),
            paused: false,
            socket: Some(socket),
        };
        Ok((server, Stop { asked, waker }))
    }

    /// Serves until [`Stop::stop`], the request `stop` or the end of the host's lifetime. Then the socket is removed,
    /// and after that all connections are closed: a client that sees the end of its connection finds no socket.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(256);
        while !self.stop.load(Ordering::Acquire) && !self.is_over() {
            self.step(&mut events);
        }
        self.socket = None;
    }

    /// Waits for clients and serves those that have sent something.
    fn step(&mut self, events: &mut Events) {
        // The only error that poll(2) can return here is EINTR, without events.
        let _ = self.poll.poll(events, self.timeout());
        let mut accept = self.paused;
        for event in &*events {
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

    /// Returns the host's state.
    pub fn status(&self) -> Status {
        Status {
            pid: std::process::id(),
            guests: self.domains.guests(),
            is_served: self.daemon.is_some_and(|daemon| !self.has_hung_up(daemon)),
            until_unused: self.unused.ends_with_daemon(),
        }
    }

    fn timeout(&self) -> Option<Duration> {
        match () {
            () if !self.ready.is_empty() => Some(Duration::ZERO),
            () if self.paused => Some(ACCEPT_PAUSE),
            () => self.clients.is_empty().then_some(CHECK_INTERVAL),
        }
    }

    /// Returns whether the host is of no use any more: no process is connected, and either none can connect, because
    /// the socket was removed or replaced, or the host's lifetime is over.
    fn is_over(&mut self) -> bool {
        let now = Instant::now();
        if !self.clients.is_empty() {
            self.unused.used(now);
            return false;
        }
        let reachable = self.socket.as_ref().is_some_and(SocketFile::is_there);
        !reachable || self.unused.is_over(now, || self.domains.has_living_guest())
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
        if is_scarce(&stream) {
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
            // At the end of the host all connections are closed after the socket is removed.
            Outcome::Closed if self.stop.load(Ordering::Acquire) => {}
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

/// Creates a domain's page and channel; returns the host's half and the guest's.
fn new_domain() -> io::Result<(Parts, GuestEnds)> {
    // The channel is created first, so that its descriptor shows whether descriptors are scarce.
    let (channel, theirs) = new_channel()?;
    let page = new_page()?;
    let guests = page.try_clone()?;
    Ok((Parts { page, channel }, [guests, theirs]))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn unused_host_stays_as_long_as_a_guest_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host");
        let lifetime = Lifetime::UntilUnused(Duration::ZERO);
        let (mut server, _stop) = SimServer::new(&path, lifetime).unwrap();
        let mut events = Events::with_capacity(8);
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"create 7 keep\n").unwrap();
        while server.domains.guests() == 0 {
            server.step(&mut events);
        }
        let mut guest = Vec::new();
        receive_with(client.as_fd(), &mut [0; 64], &mut guest).unwrap();
        assert_eq!(guest.len(), 2);
        assert!(!server.is_over(), "a client is connected");
        drop(client);
        while !server.clients.is_empty() {
            server.step(&mut events);
        }
        assert!(!server.is_over(), "the guest holds its channel");
        drop(guest);
        assert!(server.is_over());
    }

    #[test]
    fn clients_beyond_the_limit_wait_for_a_free_slot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host");
        let (mut server, _stop) = SimServer::new(&path, Lifetime::UntilStopped).unwrap();
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

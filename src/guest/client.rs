//! Clients for requests and replies: the guest over its ring, the toolstack over the daemon's socket.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::host::sim::SimGuest;
use crate::protocol::{self, Input, Operation, append_request};
use crate::types::Domid;
use rustix::io::retry_on_intr;

/// A toolstack's request takes microseconds; a daemon that takes this long hangs.
const TOOLSTACK_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a command failed: an error's name, or the command's usage.
pub struct Refused(pub String);

impl Refused {
    fn named(name: &[u8]) -> Refused {
        Refused(String::from_utf8_lossy(name).into())
    }
}

/// The control domain's connection, over the socket.
pub struct Toolstack(UnixStream);

impl Toolstack {
    /// Connects to the daemon.
    pub fn connect(socket: &Path) -> io::Result<Toolstack> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(TOOLSTACK_TIMEOUT))?;
        Ok(Toolstack(stream))
    }

    /// Sends a request whose reply is only OK or an error, and waits for it.
    pub fn request(&mut self, kind: Operation, payload: &[u8]) -> io::Result<()> {
        self.0.write_all(&protocol::request(kind, 0, payload))?;
        let mut received = Input::default();
        loop {
            if let Some(reply) = received.take()? {
                let named = |name| {
                    let Refused(name) = Refused::named(name);
                    io::Error::other(format!("{} {name}", kind.name()))
                };
                return reply.outcome().map(drop).map_err(named);
            }
            let mut bytes = [0; 256];
            match retry_on_intr(|| rustix::io::read(&self.0, &mut bytes))? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => received.buffer().extend_from_slice(&bytes[..len]),
            }
        }
    }
}

/// A guest's connection over its ring, for one request at a time.
pub struct Client {
    guest: SimGuest,
    received: Input,
    replies: VecDeque<Result<Vec<u8>, Refused>>,
    events: Vec<Vec<u8>>,
    transaction: u32,
}

impl Client {
    /// Creates the connection of an introduced domain.
    pub fn new(guest: SimGuest) -> Client {
        Client {
            guest,
            received: Input::default(),
            replies: VecDeque::new(),
            events: Vec::new(),
            transaction: 0,
        }
    }

    /// Returns the domid.
    pub fn domid(&self) -> Domid {
        self.guest.domid
    }

    /// Returns the event channel, which is readable when something may have arrived.
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.guest.channel()
    }

    /// Returns the open transaction, 0 for none.
    pub fn transaction(&self) -> u32 {
        self.transaction
    }

    /// Makes further requests part of this transaction.
    pub fn set_transaction(&mut self, transaction: u32) {
        self.transaction = transaction;
    }

    /// Sends a request and waits for its reply. Events that arrive before the reply are kept.
    ///
    /// # Errors
    /// The connection's; the daemon's own error is the inner result.
    pub fn request(
        &mut self,
        kind: Operation,
        payload: &[u8],
    ) -> io::Result<Result<Vec<u8>, Refused>> {
        let mut message = Vec::new();
        append_request(&mut message, kind, 0, self.transaction, payload);
        let mut unsent = &message[..];
        while !unsent.is_empty() {
            let sent = self.guest.try_send(unsent)?;
            unsent = &unsent[sent..];
            // Replies are taken while the request is sent: with both queues full, daemon and guest would wait for each
            // other.
            if sent == 0 {
                self.guest.wait(None)?;
                self.pull()?;
            }
        }
        loop {
            self.pull()?;
            if let Some(reply) = self.replies.pop_front() {
                return Ok(reply);
            }
            self.guest.wait(None)?;
        }
    }

    /// Receives the available bytes, without waiting.
    pub fn receive(&mut self) -> io::Result<()> {
        // The notification is drained first: the bytes that it announces are in the ring by then.
        self.guest.wait(Some(Duration::ZERO))?;
        self.pull()
    }

    /// Returns the paths of the events received since the last call.
    pub fn take_events(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.events)
    }

    fn pull(&mut self) -> io::Result<()> {
        let mut bytes = [0; crate::host::RING_BYTES];
        loop {
            let len = self.guest.try_recv(&mut bytes)?;
            if len == 0 {
                break;
            }
            self.received.buffer().extend_from_slice(&bytes[..len]);
        }
        while let Some(message) = self.received.take()? {
            if message.is_event() {
                let path = message.payload.split(|&byte| byte == 0).next().unwrap_or_default();
                self.events.push(path.to_vec());
            } else {
                let reply = message.outcome().map(<[u8]>::to_vec).map_err(Refused::named);
                self.replies.push_back(reply);
            }
        }
        Ok(())
    }
}

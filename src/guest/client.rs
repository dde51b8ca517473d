//! Clients for requests and replies: the guest over its ring, the toolstack over the daemon's socket.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::io::retry_on_intr;
use zerocopy::IntoBytes;

use crate::host::sim::SimGuest;
use crate::protocol::{Frame, Header, Operation, frame};
use crate::types::Domid;

/// ERROR and WATCH_EVENT of xs_wire.h, which only the daemon sends.
const ERROR: u32 = 16;
const WATCH_EVENT: u32 = 15;
/// A toolstack's request takes microseconds; a daemon that takes this long hangs.
const TOOLSTACK_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a command failed: an error's name, or the command's usage.
pub struct Refused(pub String);

/// Encodes a request.
fn message(kind: Operation, transaction: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let header = Header {
        kind: (kind as u32).into(),
        req_id: 0.into(),
        tx_id: transaction.into(),
        len: len.into(),
    };
    [header.as_bytes(), payload].concat()
}

/// Removes the first complete message from the received bytes; returns its kind and payload.
fn take(received: &mut Vec<u8>) -> io::Result<Option<(u32, Vec<u8>)>> {
    let (taken, used) = match frame(received) {
        Frame::Incomplete(_) => return Ok(None),
        Frame::TooLong(_) => return Err(io::ErrorKind::InvalidData.into()),
        Frame::Message { header, payload, rest } => {
            ((header.kind.get(), payload.to_vec()), received.len() - rest.len())
        }
    };
    received.drain(..used);
    Ok(Some(taken))
}

/// Returns a reply's payload, or the error that it names.
fn outcome(kind: u32, payload: Vec<u8>) -> Result<Vec<u8>, Refused> {
    if kind != ERROR {
        return Ok(payload);
    }
    Err(Refused(String::from_utf8_lossy(payload.strip_suffix(b"\0").unwrap_or(&payload)).into()))
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
        self.0.write_all(&message(kind, 0, payload))?;
        let mut received = Vec::new();
        loop {
            if let Some((answered, payload)) = take(&mut received)? {
                let named = |Refused(name)| io::Error::other(format!("{} {name}", kind.name()));
                return outcome(answered, payload).map(drop).map_err(named);
            }
            let mut bytes = [0; 256];
            match retry_on_intr(|| rustix::io::read(&self.0, &mut bytes))? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => received.extend_from_slice(&bytes[..len]),
            }
        }
    }
}

/// A guest's connection over its ring, for one request at a time.
pub struct Client {
    guest: SimGuest,
    received: Vec<u8>,
    replies: VecDeque<(u32, Vec<u8>)>,
    events: Vec<Vec<u8>>,
    transaction: u32,
}

impl Client {
    /// Creates the connection of an introduced domain.
    pub fn new(guest: SimGuest) -> Client {
        Client {
            guest,
            received: Vec::new(),
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
        let message = message(kind, self.transaction, payload);
        let mut unsent = &message[..];
        while !unsent.is_empty() {
            let sent = self.guest.try_send(unsent)?;
            unsent = &unsent[sent..];
            if sent == 0 {
                self.guest.wait(None)?;
                self.pull()?;
            }
        }
        loop {
            self.pull()?;
            if let Some((kind, payload)) = self.replies.pop_front() {
                return Ok(outcome(kind, payload));
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
            self.received.extend_from_slice(&bytes[..len]);
        }
        while let Some((kind, payload)) = take(&mut self.received)? {
            if kind == WATCH_EVENT {
                let path = payload.split(|&byte| byte == 0).next().unwrap_or_default();
                self.events.push(path.to_vec());
            } else {
                self.replies.push_back((kind, payload));
            }
        }
        Ok(())
    }
}

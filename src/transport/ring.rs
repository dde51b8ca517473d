//! The daemon's end of a ring (xenstore-ring.txt).
//!
//! The guest can change any byte of the page at any time. Indices are read once, checked, then used; no value is read
//! twice.

use std::fmt;
use std::sync::atomic::{Ordering, fence};

use crate::host::{
    CONNECTION, ERROR, EVTCHN_PORT, Gfn, Port, REQ_CONS, REQ_PROD, REQ_RING, RING_BYTES, RSP_CONS,
    RSP_PROD, RSP_RING, RingPage, SERVER_FEATURES,
};

/// Value of the page's `connection` in normal operation.
const CONNECTED: u32 = 0;
/// Value of the page's `connection` when the guest requests a reconnection.
const RECONNECT: u32 = 1;

/// A client's protocol violation, with the numbers that show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// An index is further from its counterpart than the ring's size.
    Indices(Indices),
    /// A message exceeds the maximum length.
    TooLong {
        /// Payload length in the header, in bytes.
        len: u32,
        /// Maximum payload length, in bytes.
        most: usize,
    },
}

impl RingError {
    /// Returns the number for the page (xs_wire.h, `XENSTORE_ERROR_*`). Number 1, for a broken event channel, is
    /// never written.
    fn number(self) -> u32 {
        match self {
            RingError::Indices(_) => 2,
            RingError::TooLong { .. } => 3,
        }
    }
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RingError::Indices(Indices { req_cons, req_prod, rsp_cons, rsp_prod }) => write!(
                f,
                "indices more than {RING_BYTES} apart, req_cons={req_cons} req_prod={req_prod} \
                 rsp_cons={rsp_cons} rsp_prod={rsp_prod}"
            ),
            RingError::TooLong { len, most } => write!(f, "request of {len} bytes, at most {most}"),
        }
    }
}

/// The four indices of a ring, as read when they were found to be inconsistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indices {
    req_cons: u32,
    req_prod: u32,
    rsp_cons: u32,
    rsp_prod: u32,
}

/// A domain's ring and its event channel.
pub struct Ring {
    page: RingPage,
    /// The local event channel port.
    pub port: Port,
    /// The guest's event channel port.
    pub remote: Port,
    /// The frame number that INTRODUCE named, for mapping the page again.
    pub gfn: Option<Gfn>,
    /// Whether the port was reported and not unmasked since.
    pub masked: bool,
    /// The consumer index of requests in this pass.
    req_cons: u32,
    /// The producer index of replies in this pass.
    rsp_prod: u32,
    /// Whether an index moved since the last notification.
    moved: bool,
}

impl Ring {
    /// Takes over a mapped page in its present state: writes nothing to it.
    pub fn new(page: RingPage, port: Port, remote: Port, gfn: Option<Gfn>) -> Ring {
        // Unchecked here: each pass begins with reading the indices again and checking them.
        let (req_cons, rsp_prod) = (page.load(REQ_CONS), page.load(RSP_PROD));
        Ring { page, port, remote, gfn, masked: false, req_cons, rsp_prod, moved: false }
    }

    /// Returns the port that the page names, if any; it overrides INTRODUCE's.
    pub fn named_port(page: &RingPage) -> Option<Port> {
        Some(page.load(EVTCHN_PORT)).filter(|&port| port != 0)
    }

    /// Begins a pass. The daemon's own indices are read from the page too: a boot loader may have used the ring
    /// before the operating system, and zeroes the page when it hands over (hvmloader does).
    ///
    /// # Errors
    /// [`RingError::Indices`] if the indices of either queue are inconsistent.
    pub fn begin(&mut self) -> Result<(), RingError> {
        self.req_cons = self.page.load(REQ_CONS);
        self.rsp_prod = self.page.load(RSP_PROD);
        self.waiting()?;
        self.unread()?;
        Ok(())
    }

    /// Returns the number of pending request bytes. Reads the guest's index once.
    fn waiting(&self) -> Result<usize, RingError> {
        let req_prod = self.page.load(REQ_PROD);
        distance(req_prod, self.req_cons)
            // The other index is loaded for the log line only; nothing is decided by it.
            .ok_or_else(|| self.broken(req_prod, self.page.load(RSP_CONS)))
    }

    /// Returns the number of bytes in the response ring that the guest has not read. Reads the guest's index once.
    fn unread(&self) -> Result<usize, RingError> {
        let rsp_cons = self.page.load(RSP_CONS);
        distance(self.rsp_prod, rsp_cons)
            .ok_or_else(|| self.broken(self.page.load(REQ_PROD), rsp_cons))
    }

    fn broken(&self, req_prod: u32, rsp_cons: u32) -> RingError {
        let (req_cons, rsp_prod) = (self.req_cons, self.rsp_prod);
        RingError::Indices(Indices { req_cons, req_prod, rsp_cons, rsp_prod })
    }

    /// Publishes the server's feature bits to the guest.
    pub fn offer(&self, features: u32) {
        self.page.store(SERVER_FEATURES, features);
    }

    /// Returns the request and reply indices, with which a caller can check that a page is unchanged.
    pub fn position(&self) -> (u32, u32) {
        (self.req_cons, self.rsp_prod)
    }

    /// Returns whether the guest requests a reconnection.
    pub fn wants_reconnect(&self) -> bool {
        self.page.load(CONNECTION) == RECONNECT
    }

    /// Empties both queues and signals to the guest that the reconnection is complete.
    pub fn reconnect(&mut self) {
        for index in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD] {
            self.page.store(index, 0);
        }
        (self.req_cons, self.rsp_prod) = (0, 0);
        self.page.store(ERROR, 0);
        // Last, as the stores are releases: a guest that sees it finds the indices and the error reset.
        self.page.store(CONNECTION, CONNECTED);
        // So that `publish` notifies the guest, which waits for the connection.
        self.moved = true;
    }

    /// Signals to a guest that waits for a connection that it is connected.
    pub fn connected(&mut self) {
        if self.wants_reconnect() {
            self.page.store(CONNECTION, CONNECTED);
            self.moved = true;
        }
    }

    /// Writes the reason why the ring is no longer served.
    pub fn give_up(&mut self, error: RingError) {
        self.page.store(ERROR, error.number());
        self.moved = true;
    }

    /// Clears the error written by [`Ring::give_up`].
    pub fn mend(&self) {
        self.page.store(ERROR, 0);
    }

    /// Appends the pending requests in the page to `out`, without consuming them.
    ///
    /// # Errors
    /// [`RingError::Indices`].
    pub fn peek(&self, out: &mut Vec<u8>) -> Result<(), RingError> {
        let waiting = self.waiting()?;
        let start = out.len();
        out.resize(start + waiting, 0);
        let (to_end, from_start) = out[start..].split_at_mut(contiguous(self.req_cons, waiting));
        self.page.copy_out(REQ_RING + masked(self.req_cons), to_end);
        self.page.copy_out(REQ_RING, from_start);
        Ok(())
    }

    /// Consumes `len` bytes of requests, whose effects are complete. The page shows the consumption after
    /// [`Ring::publish`].
    pub fn consume(&mut self, len: usize) {
        self.req_cons = self.req_cons.wrapping_add(u32::try_from(len).unwrap_or(0));
        self.moved |= len > 0;
    }

    /// Copies as much of `bytes` as fits into the page, and returns the count. The guest sees the bytes after
    /// [`Ring::publish`].
    ///
    /// # Errors
    /// [`RingError::Indices`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, RingError> {
        let unread = self.unread()?;
        // Whatever the guest writes, `unread` has checked the distance, so this does not underflow.
        let len = bytes.len().min(RING_BYTES - unread);
        let (to_end, from_start) = bytes[..len].split_at(contiguous(self.rsp_prod, len));
        self.page.copy_in(RSP_RING + masked(self.rsp_prod), to_end);
        self.page.copy_in(RSP_RING, from_start);
        self.rsp_prod = self.rsp_prod.wrapping_add(u32::try_from(len).unwrap_or(0));
        self.moved |= len > 0;
        Ok(len)
    }

    /// Ends a pass: publishes the replies first, then the consumption of their requests. Returns whether to notify
    /// the guest.
    pub fn publish(&mut self) -> bool {
        if self.moved {
            self.page.store(RSP_PROD, self.rsp_prod);
            self.page.store(REQ_CONS, self.req_cons);
        }
        // Orders these stores before any later check of the guest's indices, so the check cannot miss bytes that the
        // guest wrote after it saw these stores.
        fence(Ordering::SeqCst);
        std::mem::take(&mut self.moved)
    }

    /// Returns whether the guest has written requests that are not consumed.
    pub fn has_requests(&self) -> bool {
        // Not checked for consistency: a guest that forges an index only has its own ring served again.
        self.page.load(REQ_PROD) != self.page.load(REQ_CONS)
    }

    /// Returns whether there is room for replies. Also true for an inconsistent index, so that the next pass finds
    /// it.
    pub fn has_room(&self) -> bool {
        distance(self.rsp_prod, self.page.load(RSP_CONS)) != Some(RING_BYTES)
    }
}

/// Returns how far `producer` is ahead of `consumer`, both free-running; `None` if that exceeds the ring's size,
/// which is an attack or a bug of the guest (XSA-38).
fn distance(producer: u32, consumer: u32) -> Option<usize> {
    let distance = usize::try_from(producer.wrapping_sub(consumer)).ok()?;
    (distance <= RING_BYTES).then_some(distance)
}

fn masked(index: u32) -> usize {
    // The size divides 2^32, so positions stay right when a free-running index wraps.
    index as usize % RING_BYTES
}

/// Returns how many of `len` bytes at `index` come before the ring's end.
fn contiguous(index: u32, len: usize) -> usize {
    len.min(RING_BYTES - masked(index))
}

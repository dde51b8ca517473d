//! The daemon's end of a ring (xenstore-ring.txt).
//!
//! The guest can change any byte of the page at any time. Indices are read once, checked, then
//! used; what was read is never read again.

use std::fmt;
use std::sync::atomic::{Ordering, fence};

use crate::host::{
    CONNECTION, ERROR, EVTCHN_PORT, Port, REQ_CONS, REQ_PROD, REQ_RING, RING_BYTES, RSP_CONS,
    RSP_PROD, RSP_RING, RingPage, SERVER_FEATURES,
};

/// `connection` of the page when all is well.
const CONNECTED: u32 = 0;
/// `connection` of the page when the guest asks to begin anew.
const RECONNECT: u32 = 1;

/// Why a client is given up: its mistake, with the numbers that show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// An index of a ring is more than the ring's size away from its counterpart.
    Indices(Indices),
    /// A message longer than any may be.
    TooLong {
        /// The bytes of payload that its header names.
        len: u32,
        /// How many there may be.
        most: usize,
    },
}

impl RingError {
    /// The number for the page (xs_wire.h, `XENSTORE_ERROR_*`). 1, for an event channel that does not
    /// work, is never written.
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

/// The four indices of a ring, each as it was read when they were found to make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indices {
    req_cons: u32,
    req_prod: u32,
    rsp_cons: u32,
    rsp_prod: u32,
}

/// A domain's ring and the event channel that goes with it.
pub struct Ring {
    page: RingPage,
    /// Our end of the event channel.
    pub port: Port,
    /// The guest's.
    pub remote: Port,
    /// The port was reported and is not reported again until it is unmasked.
    pub masked: bool,
    /// Where the requests begin that are not consumed yet, as of this pass.
    req_cons: u32,
    /// Where the next byte of a reply goes, as of this pass.
    rsp_prod: u32,
    /// An index moved since the last notification.
    moved: bool,
}

impl Ring {
    /// Takes over a mapped page as it is: nothing in it is written.
    pub fn new(page: RingPage, port: Port, remote: Port) -> Ring {
        let (req_cons, rsp_prod) = (page.load(REQ_CONS), page.load(RSP_PROD));
        Ring { page, port, remote, masked: false, req_cons, rsp_prod, moved: false }
    }

    /// The port that the page names, if it names one: it then counts, not INTRODUCE's.
    pub fn named_port(page: &RingPage) -> Option<Port> {
        Some(page.load(EVTCHN_PORT)).filter(|&port| port != 0)
    }

    /// Begins a pass. Our own indices are read from the page too: a boot loader may have used the
    /// ring before the system and zeroes the page when it hands over (hvmloader does).
    ///
    /// # Errors
    /// [`RingError::Indices`] if either queue makes no sense.
    pub fn begin(&mut self) -> Result<(), RingError> {
        self.req_cons = self.page.load(REQ_CONS);
        self.rsp_prod = self.page.load(RSP_PROD);
        self.waiting()?;
        self.unread()?;
        Ok(())
    }

    /// How many bytes of requests wait. The guest's index is read once.
    fn waiting(&self) -> Result<usize, RingError> {
        let req_prod = self.page.load(REQ_PROD);
        distance(req_prod, self.req_cons)
            .ok_or_else(|| self.broken(req_prod, self.page.load(RSP_CONS)))
    }

    /// How many bytes of replies the guest has not read. Its index is read once.
    fn unread(&self) -> Result<usize, RingError> {
        let rsp_cons = self.page.load(RSP_CONS);
        distance(self.rsp_prod, rsp_cons)
            .ok_or_else(|| self.broken(self.page.load(REQ_PROD), rsp_cons))
    }

    fn broken(&self, req_prod: u32, rsp_cons: u32) -> RingError {
        let (req_cons, rsp_prod) = (self.req_cons, self.rsp_prod);
        RingError::Indices(Indices { req_cons, req_prod, rsp_cons, rsp_prod })
    }

    /// Tells the guest what this server can do.
    pub fn offer(&self, features: u32) {
        self.page.store(SERVER_FEATURES, features);
    }

    /// Where requests and replies stand, to tell whether a page is as it was left.
    pub fn position(&self) -> (u32, u32) {
        (self.req_cons, self.rsp_prod)
    }

    /// Whether the guest asks to begin anew.
    pub fn wants_reconnect(&self) -> bool {
        self.page.load(CONNECTION) == RECONNECT
    }

    /// Empties both queues and tells the guest that it may begin anew.
    pub fn reconnect(&mut self) {
        for index in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD] {
            self.page.store(index, 0);
        }
        (self.req_cons, self.rsp_prod) = (0, 0);
        self.page.store(ERROR, 0);
        self.page.store(CONNECTION, CONNECTED);
        self.moved = true;
    }

    /// Tells a guest that waits for a connection that it has one.
    pub fn connected(&mut self) {
        if self.wants_reconnect() {
            self.page.store(CONNECTION, CONNECTED);
            self.moved = true;
        }
    }

    /// Writes why the ring is not served any more.
    pub fn give_up(&mut self, error: RingError) {
        self.page.store(ERROR, error.number());
        self.moved = true;
    }

    /// Takes the reason of [`Ring::give_up`] back.
    pub fn mend(&self) {
        self.page.store(ERROR, 0);
    }

    /// Appends the requests that wait in the page to `out`, without consuming them.
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

    /// Consumes `len` bytes of requests; their effects are done. Takes effect in the page with
    /// [`Ring::publish`].
    pub fn consume(&mut self, len: usize) {
        self.req_cons = self.req_cons.wrapping_add(u32::try_from(len).unwrap_or(0));
        self.moved |= len > 0;
    }

    /// Copies as much of `bytes` into the page as there is room for, and answers how much. The
    /// guest sees it with [`Ring::publish`].
    ///
    /// # Errors
    /// [`RingError::Indices`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, RingError> {
        let unread = self.unread()?;
        let len = bytes.len().min(RING_BYTES - unread);
        let (to_end, from_start) = bytes[..len].split_at(contiguous(self.rsp_prod, len));
        self.page.copy_in(RSP_RING + masked(self.rsp_prod), to_end);
        self.page.copy_in(RSP_RING, from_start);
        self.rsp_prod = self.rsp_prod.wrapping_add(u32::try_from(len).unwrap_or(0));
        self.moved |= len > 0;
        Ok(len)
    }

    /// Ends a pass: replies become visible, then their requests are consumed. Answers whether the
    /// guest is to be notified.
    pub fn publish(&mut self) -> bool {
        if self.moved {
            self.page.store(RSP_PROD, self.rsp_prod);
            self.page.store(REQ_CONS, self.req_cons);
        }
        // What the guest does after it has seen these is seen by who looks after this.
        fence(Ordering::SeqCst);
        std::mem::take(&mut self.moved)
    }

    /// Whether the guest has written requests that are not consumed.
    pub fn has_requests(&self) -> bool {
        self.page.load(REQ_PROD) != self.page.load(REQ_CONS)
    }

    /// Whether there is room for replies, or an index that makes no sense.
    pub fn has_room(&self) -> bool {
        distance(self.rsp_prod, self.page.load(RSP_CONS)) != Some(RING_BYTES)
    }
}

/// How far `producer` is ahead of `consumer`; both are free-running. XSA-38: more than the ring's
/// size is a lie.
fn distance(producer: u32, consumer: u32) -> Option<usize> {
    let distance = usize::try_from(producer.wrapping_sub(consumer)).ok()?;
    (distance <= RING_BYTES).then_some(distance)
}

fn masked(index: u32) -> usize {
    index as usize % RING_BYTES
}

/// How many of `len` bytes at `index` come before the ring's end.
fn contiguous(index: u32, len: usize) -> usize {
    len.min(RING_BYTES - masked(index))
}

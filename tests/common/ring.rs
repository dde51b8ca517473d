//! The guest's side of the ring page, written from xenstore-ring.txt alone.

use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use xenstored::host::RingPage;
use xenstored::host::sim::SimGuest;

/// Bytes of each of the two queues.
pub const RING_BYTES: u32 = 1024;

/// Offsets in the page (xenstore-ring.txt, "The xenstore ring datastructure").
pub mod at {
    pub const REQ: usize = 0;
    pub const RSP: usize = 1024;
    pub const REQ_CONS: usize = 2048;
    pub const REQ_PROD: usize = 2052;
    pub const RSP_CONS: usize = 2056;
    pub const RSP_PROD: usize = 2060;
    pub const FEATURES: usize = 2064;
    pub const CONNECTION: usize = 2068;
    pub const ERROR: usize = 2072;
    pub const EVTCHN_PORT: usize = 2076;
}

pub struct Ring {
    pub guest: SimGuest,
}

impl Ring {
    pub fn page(&self) -> &RingPage {
        &self.guest.page
    }

    /// Writes as many bytes as fit and returns their number. Notifies exactly when Linux does: if the daemon had
    /// consumed everything before.
    pub fn try_send(&self, bytes: &[u8]) -> usize {
        let before = self.page().load(at::REQ_PROD);
        let sent = self.put(bytes);
        fence(Ordering::SeqCst);
        if sent > 0 && before == self.page().load(at::REQ_CONS) {
            self.notify();
        }
        sent
    }

    /// Writes as many bytes as fit and returns their number, without notifying the daemon.
    pub fn put(&self, bytes: &[u8]) -> usize {
        let page = self.page();
        let (cons, prod) = (page.load(at::REQ_CONS), page.load(at::REQ_PROD));
        let free = usize::try_from(RING_BYTES - prod.wrapping_sub(cons)).unwrap();
        let count = bytes.len().min(free);
        let slot = usize::try_from(prod % RING_BYTES).unwrap();
        let to_end = count.min(RING_BYTES as usize - slot);
        page.copy_in(at::REQ + slot, &bytes[..to_end]);
        page.copy_in(at::REQ, &bytes[to_end..count]);
        page.store(at::REQ_PROD, prod.wrapping_add(u32::try_from(count).unwrap()));
        count
    }

    /// Takes all bytes that the daemon wrote. Notifies exactly when Linux does: if the ring was full.
    pub fn try_recv(&self) -> Vec<u8> {
        let before = self.page().load(at::RSP_CONS);
        let bytes = self.take(usize::MAX);
        fence(Ordering::SeqCst);
        let full = self.page().load(at::RSP_PROD).wrapping_sub(before) >= RING_BYTES;
        if !bytes.is_empty() && full {
            self.notify();
        }
        bytes
    }

    /// Takes at most `limit` bytes of those that the daemon wrote, without notifying it.
    pub fn take(&self, limit: usize) -> Vec<u8> {
        let page = self.page();
        let (cons, prod) = (page.load(at::RSP_CONS), page.load(at::RSP_PROD));
        let ready = prod.wrapping_sub(cons);
        assert!(ready <= RING_BYTES, "invalid response indices: cons {cons}, prod {prod}");
        let count = ready.min(u32::try_from(limit).unwrap_or(u32::MAX));
        let slot = usize::try_from(cons % RING_BYTES).unwrap();
        let mut bytes = vec![0; count as usize];
        let (first, rest) = bytes.split_at_mut((count as usize).min(RING_BYTES as usize - slot));
        page.copy_out(at::RSP + slot, first);
        page.copy_out(at::RSP, rest);
        page.store(at::RSP_CONS, cons.wrapping_add(count));
        bytes
    }

    pub fn notify(&self) {
        // Notifying fails after the domain was destroyed.
        let _ = self.guest.notify();
    }

    /// Waits for the daemon's notification; returns false if none came in time.
    pub fn wait(&self, timeout: Duration) -> bool {
        let notified = self.guest.wait(Some(timeout));
        notified.unwrap_or_else(|error| panic!("the daemon is gone: {error}"))
    }
}

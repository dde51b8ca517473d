//! The guest side of the ring and of the event channel (xenstore-ring.txt).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use super::fds::{drain, signal};
use crate::host::Port;
use crate::host::page::{
    REQ_CONS, REQ_PROD, REQ_RING, RING_BYTES, RSP_CONS, RSP_PROD, RSP_RING, RingPage,
};
use crate::types::Domid;

/// A domain as its own kernel sees it. Only [`SimGuest::wait`] blocks.
pub struct SimGuest {
    /// The guest's domid.
    pub domid: Domid,
    /// The guest's xenstore port, to be passed to INTRODUCE.
    pub port: Port,
    /// The ring page. A well-behaved guest uses only the methods below; tests write to it directly.
    pub page: RingPage,
    channel: OwnedFd,
}

impl SimGuest {
    /// Builds a guest from the descriptors of a reply: the page's memory file, which may be closed afterwards, and
    /// the guest's end of the channel.
    pub fn new(
        domid: Domid,
        port: Port,
        page: BorrowedFd<'_>,
        channel: OwnedFd,
    ) -> io::Result<SimGuest> {
        Ok(SimGuest { domid, port, page: RingPage::map(page, 0)?, channel })
    }

    /// Returns the channel's descriptor, for polling with others. It is non-blocking.
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Copies as much of `bytes` as fits into the request ring and returns the count. Notifies as Linux does: only if
    /// the daemon had consumed everything before; otherwise it is still reading.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.page.load(REQ_PROD);
        let copied = self.push(bytes);
        fence(Ordering::SeqCst);
        if copied > 0 && before == self.page.load(REQ_CONS) {
            self.notify()?;
        }
        Ok(copied)
    }

    /// Like [`SimGuest::try_send`], but without the notification, to batch several requests.
    pub fn push(&self, bytes: &[u8]) -> usize {
        let produced = self.page.load(REQ_PROD);
        let unread = produced.wrapping_sub(self.page.load(REQ_CONS)) as usize;
        // Only another writer of the page can leave a distance above the ring size.
        let count = bytes.len().min(RING_BYTES.saturating_sub(unread));
        let at = produced as usize % RING_BYTES;
        let (first, second) = bytes[..count].split_at(count.min(RING_BYTES - at));
        self.page.copy_in(REQ_RING + at, first);
        self.page.copy_in(REQ_RING, second);
        self.page.store(REQ_PROD, advanced(produced, count));
        count
    }

    /// Copies the available bytes of the response ring, as many as fit, and returns their number. Notifies the daemon
    /// only if the ring was full, as Linux does; otherwise the daemon is not waiting for room.
    pub fn try_recv(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let before = self.page.load(RSP_CONS);
        let copied = self.pull(bytes);
        fence(Ordering::SeqCst);
        let full = self.page.load(RSP_PROD).wrapping_sub(before) as usize >= RING_BYTES;
        if copied > 0 && full {
            self.notify()?;
        }
        Ok(copied)
    }

    /// Like [`SimGuest::try_recv`], but without the notification.
    pub fn pull(&self, bytes: &mut [u8]) -> usize {
        let consumed = self.page.load(RSP_CONS);
        let unread = self.page.load(RSP_PROD).wrapping_sub(consumed) as usize;
        let count = bytes.len().min(unread.min(RING_BYTES));
        let at = consumed as usize % RING_BYTES;
        let (first, second) = bytes[..count].split_at_mut(count.min(RING_BYTES - at));
        self.page.copy_out(RSP_RING + at, first);
        self.page.copy_out(RSP_RING, second);
        self.page.store(RSP_CONS, advanced(consumed, count));
        count
    }

    /// Notifies the daemon that the page changed.
    pub fn notify(&self) -> io::Result<()> {
        signal(self.channel())
    }

    /// Waits for a notification of the daemon, at most `timeout` (`None`: without limit), and drains it. Returns
    /// `false` on timeout. Check the ring before the call, and again after it.
    ///
    /// # Errors
    /// `BrokenPipe` if the domain has been destroyed.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let timeout: Option<Timespec> =
            timeout.map(|t| t.try_into().map_err(io::Error::other)).transpose()?;
        let mut fds = [PollFd::new(&self.channel, PollFlags::IN)];
        if retry_on_intr(|| poll(&mut fds, timeout.as_ref()))? == 0 {
            return Ok(false);
        }
        let gone = fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR);
        if drain(self.channel()) || !gone {
            return Ok(true);
        }
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

/// Advances a free-running stream offset by `count` bytes, at most [`RING_BYTES`].
#[allow(clippy::cast_possible_truncation)]
fn advanced(offset: u32, count: usize) -> u32 {
    offset.wrapping_add(count as u32)
}

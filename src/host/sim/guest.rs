//! A guest's side of the ring and of the event channel (xenstore-ring.txt).

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
use crate::words::Domid;

/// A domain, as its own kernel sees it. Nothing here waits but [`SimGuest::wait`].
pub struct SimGuest {
    /// Its number.
    pub domid: Domid,
    /// Its port for xenstore: what INTRODUCE names.
    pub port: Port,
    /// The ring page. A well-behaved guest leaves it to the methods below; tests do as they like.
    pub page: RingPage,
    channel: OwnedFd,
}

impl SimGuest {
    /// A guest of the descriptors that came with a reply: the page's memory file, which need not
    /// stay open, and the guest's end of the channel.
    pub fn new(
        domid: Domid,
        port: Port,
        page: BorrowedFd<'_>,
        channel: OwnedFd,
    ) -> io::Result<SimGuest> {
        Ok(SimGuest { domid, port, page: RingPage::map(page, 0)?, channel })
    }

    /// The channel's descriptor, to be polled with others. It does not block.
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Copies what fits of `bytes` into the request ring and answers how much it was. Notifies as
    /// Linux does: only if the daemon had taken everything before, else it is still at it.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.page.load(REQ_PROD);
        let copied = self.push(bytes);
        fence(Ordering::SeqCst);
        if copied > 0 && before == self.page.load(REQ_CONS) {
            self.notify()?;
        }
        Ok(copied)
    }

    /// As [`SimGuest::try_send`], but does not notify: for several requests with one notification.
    pub fn push(&self, bytes: &[u8]) -> usize {
        let produced = self.page.load(REQ_PROD);
        let unread = produced.wrapping_sub(self.page.load(REQ_CONS)) as usize;
        // More than the ring holds is nonsense that only another writer of the page leaves there.
        let count = bytes.len().min(RING_BYTES.saturating_sub(unread));
        let at = produced as usize % RING_BYTES;
        let (first, second) = bytes[..count].split_at(count.min(RING_BYTES - at));
        self.page.copy_in(REQ_RING + at, first);
        self.page.copy_in(REQ_RING, second);
        self.page.store(REQ_PROD, advanced(produced, count));
        count
    }

    /// Copies out of the response ring what is there and fits, and answers how much. Notifies as
    /// Linux does: only if the ring was full, else the daemon is not waiting for room.
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

    /// As [`SimGuest::try_recv`], but does not notify.
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

    /// Waits until the daemon notifies, at most `timeout` (`None`: as long as it takes), and takes
    /// the notifications. `false` if the time is over. Look at the ring before, and again after.
    ///
    /// # Errors
    /// `BrokenPipe` when the domain has been destroyed.
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

/// A free-running offset, `count` bytes further in its stream; `count` is at most [`RING_BYTES`].
#[allow(clippy::cast_possible_truncation)]
fn advanced(offset: u32, count: usize) -> u32 {
    offset.wrapping_add(count as u32)
}

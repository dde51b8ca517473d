//! Flow control: how many bytes of a channel may be under way, and of all channels of an end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

/// The most bytes of a connection that are sent and not yet written. Requests and replies take some kilobytes.
pub const WINDOW_BYTES: usize = 256 * 1024;
/// The windows of the streams of one request together. A move has one stream, and a domain in it takes some 10 KiB, so
/// no batch waits for credit; a longer stream fills a line of 1 Gbit/s with a round trip of 30 ms.
const STREAMS_BYTES: usize = 4 * 1024 * 1024;
/// The most bytes of all windows of an end, and so of its memory: the streams of the largest request (253) take half of
/// them. A channel also takes two threads, of which there are at most 1,024 by this.
pub const WINDOWS_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Returns the window of each of the streams that come with one request.
pub fn of_streams(count: usize) -> usize {
    (STREAMS_BYTES / count.max(1)).max(WINDOW_BYTES)
}

/// What has arrived for a channel and is not written yet. Counts towards [`WINDOWS_BYTES_MAX`] until it is dropped.
pub struct Window {
    size: usize,
    bytes: Mutex<Bytes>,
    all: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Bytes {
    unwritten: usize,
    /// Bytes that were written since the last credit.
    owed: usize,
}

impl Window {
    /// Opens a window beside those that `all` sums up; `None` if they are too large together.
    pub fn open(size: usize, all: &Arc<AtomicUsize>) -> Option<Window> {
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        let fits = |sum: usize| Some(sum + size).filter(|&sum| sum <= WINDOWS_BYTES_MAX);
        all.fetch_update(set, fetch, fits).ok()?;
        Some(Window { size, bytes: Mutex::default(), all: Arc::clone(all) })
    }

    /// Notes bytes that have arrived. Returns whether no others are unwritten and writing them returns no credit;
    /// `None` if they exceed the window.
    pub fn arrived(&self, len: usize) -> Option<bool> {
        let mut bytes = self.bytes.lock();
        let is_first = bytes.unwritten == 0 && bytes.owed + len < self.credit_min();
        bytes.unwritten = Some(bytes.unwritten + len).filter(|&sum| sum <= self.size)?;
        Some(is_first)
    }

    /// Notes bytes that are written, and returns the credit to be sent to the other end, if it is due.
    pub fn written(&self, len: usize) -> Option<u32> {
        let mut bytes = self.bytes.lock();
        bytes.unwritten = bytes.unwritten.saturating_sub(len);
        bytes.owed += len;
        if bytes.owed < self.credit_min() {
            return None;
        }
        u32::try_from(std::mem::take(&mut bytes.owed)).ok()
    }

    /// Credit is sent for a part of the window, not for each message: each frame wakes threads at both ends, which
    /// delays the messages. The other end has the rest of the window meanwhile.
    fn credit_min(&self) -> usize {
        self.size / 4
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.all.fetch_sub(self.size, Ordering::Relaxed);
    }
}

/// The bytes that a reader may send: the window of the other end, as far as this end knows.
pub struct Credit {
    size: usize,
    /// `None` once the channel has ended.
    left: Mutex<Option<usize>>,
    more: Condvar,
}

impl Credit {
    /// Makes the credit of a whole window.
    pub fn of(size: usize) -> Credit {
        Credit { size, left: Mutex::new(Some(size)), more: Condvar::new() }
    }

    /// Waits for credit and takes up to `max` bytes of it.
    pub fn take(&self, max: usize) -> Option<usize> {
        let mut left = self.left.lock();
        loop {
            match &mut *left {
                None => return None,
                Some(0) => self.more.wait(&mut left),
                Some(some) => {
                    let taken = max.min(*some);
                    *some -= taken;
                    return Some(taken);
                }
            }
        }
    }

    /// Adds credit, and wakes the reader.
    pub fn give(&self, bytes: usize) {
        if let Some(left) = &mut *self.left.lock() {
            *left = left.saturating_add(bytes).min(self.size);
        }
        self.more.notify_one();
    }

    /// Ends the channel, and wakes the reader.
    pub fn end(&self) {
        *self.left.lock() = None;
        self.more.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_limited_together_until_they_are_dropped() {
        let all = Arc::default();
        let open: Vec<_> = (0..4).map(|_| Window::open(WINDOWS_BYTES_MAX / 4, &all)).collect();
        assert!(open.iter().all(Option::is_some) && Window::open(1, &all).is_none());
        drop(open);
        assert!(Window::open(WINDOWS_BYTES_MAX, &all).is_some());
    }

    #[test]
    fn a_request_of_all_its_streams_fits_into_half_of_the_limit() {
        assert_eq!(of_streams(1), STREAMS_BYTES);
        for count in [0, 1, 2, 16, 17, 253] {
            let sum = count * of_streams(count);
            assert!(of_streams(count) >= WINDOW_BYTES && sum <= WINDOWS_BYTES_MAX / 2, "{count}");
        }
    }

    #[test]
    fn credit_is_returned_for_a_quarter_of_the_window() {
        let all = Arc::default();
        let window = Window::open(100, &all).unwrap();
        assert_eq!(window.arrived(24), Some(true));
        assert_eq!(window.arrived(1), Some(false), "others are unwritten");
        assert_eq!(window.written(24), None);
        assert_eq!(window.written(1), Some(25));
        assert_eq!(window.arrived(25), Some(false), "it returns credit");
        assert_eq!(window.arrived(75), Some(false));
        assert_eq!(window.arrived(1), None);
        assert_eq!(window.written(100), Some(100));
    }
}

//! The page shared by a guest and the daemon (xenstore-ring.txt, "The xenstore ring datastructure"). The guest can
//! write to the page at any time, so no Rust reference points into its data: words are atomics, and bytes are copied by
//! volatile accesses, each byte once.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use zerocopy::IntoBytes;

/// Size of the page in bytes.
pub const PAGE_BYTES: usize = 4096;

/// Size of each of the two circular buffers in bytes; stream offsets are taken modulo this.
pub const RING_BYTES: usize = 1024;
/// Offset of the request buffer, guest to daemon ("Input").
pub const REQ_RING: usize = 0;
/// Offset of the buffer for replies and events, daemon to guest ("Output").
pub const RSP_RING: usize = 1024;
/// Offset of the daemon's consumer index of requests.
pub const REQ_CONS: usize = 2048;
/// Offset of the guest's producer index of requests.
pub const REQ_PROD: usize = 2052;
/// Offset of the guest's consumer index of replies.
pub const RSP_CONS: usize = 2056;
/// Offset of the daemon's producer index of replies.
pub const RSP_PROD: usize = 2060;
/// Offset of the server feature bitmap, written only by the daemon.
pub const SERVER_FEATURES: usize = 2064;
/// Offset of the connection state: 0 connected; 1 from the guest's request for a reset until the daemon has reset the
/// ring.
pub const CONNECTION: usize = 2068;
/// Offset of the error for which the daemon stopped serving the ring; 0 for none.
pub const ERROR: usize = 2072;
/// Offset of the guest's event channel port, which a toolstack stores for a guest that starts without one (xs_wire.h,
/// `struct xenstore_domain_interface`).
pub const EVTCHN_PORT: usize = 2076;

/// Unit of a bulk copy. The order of the accesses does not matter: an index publishes the bytes after the copy.
const WORD_BYTES: usize = size_of::<u64>();

/// A mapped ring page. Clones share the mapping, which is unmapped with the last of them.
#[derive(Clone)]
pub struct RingPage {
    mapping: Arc<Mapping>,
}

/// The mapping itself; dropping it unmaps the page.
struct Mapping {
    base: NonNull<u8>,
}

// SAFETY: the mapping is plain shared memory without thread affinity; every access below is an
// atomic or a volatile one through `&self`.
unsafe impl Send for Mapping {}
// SAFETY: as above; the page is made for concurrent accesses.
unsafe impl Sync for Mapping {}

impl RingPage {
    /// Maps one page of `fd` at `offset`, shared, readable and writable.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn map(fd: BorrowedFd<'_>, offset: u64) -> io::Result<RingPage> {
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
        let base =
            unsafe { mmap(std::ptr::null_mut(), PAGE_BYTES, flags, MapFlags::SHARED, fd, offset)? };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::Other)?;
        Ok(RingPage { mapping: Arc::new(Mapping { base }) })
    }

    /// Returns the address of the mapping.
    pub(super) fn address(&self) -> u64 {
        self.base().expose_provenance() as u64
    }

    fn base(&self) -> *mut u8 {
        self.mapping.base.as_ptr()
    }

    /// Returns the word at byte `offset`, which must be a multiple of 4 within the page.
    ///
    /// # Panics
    /// For any other offset; callers pass constants.
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= PAGE_BYTES);
        // SAFETY: in bounds and aligned (asserted; the base is page-aligned), valid for as long
        // as `self`; all our accesses to words are atomic, and the other side is another address
        // space, which the compiler cannot reason about.
        unsafe { AtomicU32::from_ptr(self.base().add(offset).cast()) }
    }

    /// Reads the word at `offset` once, with acquire ordering.
    pub fn load(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }

    /// Writes the word at `offset` with release ordering.
    pub fn store(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::Release);
    }

    /// Copies bytes out of the page.
    ///
    /// # Panics
    /// If the range exceeds the page; callers mask the offset.
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) {
        assert!(offset + out.len() <= PAGE_BYTES);
        let (head, rest) = out.split_at_mut(to_word(offset).min(out.len()));
        let (words, tail) = rest.as_chunks_mut::<WORD_BYTES>();
        let words_at = offset + head.len();
        let tail_at = words_at + words.as_flattened().len();
        for (at, byte) in (offset..).zip(head).chain((tail_at..).zip(tail)) {
            // SAFETY: in bounds (asserted); a volatile read of a byte tolerates a concurrent
            // writer in another address space.
            *byte = unsafe { self.base().add(at).read_volatile() };
        }
        for (at, word) in (words_at..).step_by(WORD_BYTES).zip(words) {
            // SAFETY: in bounds (asserted) and aligned, as the head ends at a word boundary and the page is aligned;
            // volatile, as above.
            let read = unsafe { self.base().add(at).cast::<u64>().read_volatile() };
            word.copy_from_slice(read.as_bytes());
        }
    }

    /// Copies bytes into the page.
    ///
    /// # Panics
    /// If the range exceeds the page; callers mask the offset.
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= PAGE_BYTES);
        let (head, rest) = bytes.split_at(to_word(offset).min(bytes.len()));
        let (words, tail) = rest.as_chunks::<WORD_BYTES>();
        let words_at = offset + head.len();
        let tail_at = words_at + words.as_flattened().len();
        for (at, &byte) in (offset..).zip(head).chain((tail_at..).zip(tail)) {
            // SAFETY: in bounds (asserted); volatile, as above.
            unsafe { self.base().add(at).write_volatile(byte) };
        }
        for (at, word) in (words_at..).step_by(WORD_BYTES).zip(words) {
            let mut written = 0_u64;
            written.as_mut_bytes().copy_from_slice(word);
            // SAFETY: in bounds (asserted) and aligned, volatile, as above.
            unsafe { self.base().add(at).cast::<u64>().write_volatile(written) };
        }
    }
}

/// Returns the number of bytes from `offset` to the next word boundary.
fn to_word(offset: usize) -> usize {
    offset.wrapping_neg() % WORD_BYTES
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this size, and nothing can refer to it any more.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), PAGE_BYTES) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn copies_are_exact_at_every_offset_and_length() -> io::Result<()> {
        let file = tempfile::tempfile()?;
        file.set_len(PAGE_BYTES as u64)?;
        let page = RingPage::map(file.as_fd(), 0)?;
        let bytes: Vec<u8> = (1..=64).collect();
        for offset in (0..=2 * WORD_BYTES).chain(PAGE_BYTES - 64..=PAGE_BYTES) {
            for len in 0..=(PAGE_BYTES - offset).min(3 * WORD_BYTES) {
                page.copy_in(0, &[0; PAGE_BYTES]);
                page.copy_in(offset, &bytes[..len]);
                let mut all = [0; PAGE_BYTES];
                page.copy_out(0, &mut all);
                let mut expected = [0; PAGE_BYTES];
                expected[offset..offset + len].copy_from_slice(&bytes[..len]);
                assert_eq!(all, expected, "{len} bytes at {offset}");
                let mut there = vec![0; len];
                page.copy_out(offset, &mut there);
                assert_eq!(there, bytes[..len], "{len} bytes at {offset}");
            }
        }
        Ok(())
    }
}

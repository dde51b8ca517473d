//! The page that a guest and the daemon share (xenstore-ring.txt, "The xenstore ring
//! datastructure"). The guest can write to it at any time, so nothing here is ever a reference:
//! words are atomics, bytes are copied one volatile access at a time.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Size of the page.
pub const PAGE_BYTES: usize = 4096;

/// A mapped ring page; unmapped when dropped.
pub struct RingPage {
    base: NonNull<u8>,
}

// SAFETY: the mapping is plain shared memory without thread affinity; every access below is an
// atomic or a volatile one through `&self`.
unsafe impl Send for RingPage {}
// SAFETY: as above; concurrent accesses are what the page is for.
unsafe impl Sync for RingPage {}

impl RingPage {
    /// Maps one page of `fd` at `offset`, shared, for reading and writing.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn map(fd: BorrowedFd<'_>, offset: u64) -> io::Result<RingPage> {
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
        let base =
            unsafe { mmap(std::ptr::null_mut(), PAGE_BYTES, flags, MapFlags::SHARED, fd, offset)? };
        NonNull::new(base.cast()).map(|base| RingPage { base }).ok_or(io::ErrorKind::Other.into())
    }

    /// The word at byte `offset`, a multiple of 4 within the page.
    ///
    /// # Panics
    /// For any other offset; callers pass constants.
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset % 4 == 0 && offset + 4 <= PAGE_BYTES);
        // SAFETY: in bounds and aligned (asserted; the base is page-aligned), valid for as long
        // as `self`; all our accesses to words are atomic, and the other side is another address
        // space, which the compiler cannot reason about.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }

    /// Reads the word at `offset`, once, before anything that follows.
    pub fn load(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }

    /// Writes the word at `offset`, after everything before it.
    pub fn store(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::Release);
    }

    /// Copies bytes out of the page.
    ///
    /// # Panics
    /// If they do not lie within it; callers have masked the offset.
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) {
        assert!(offset + out.len() <= PAGE_BYTES);
        for (i, byte) in out.iter_mut().enumerate() {
            // SAFETY: in bounds (asserted); a volatile read of a byte tolerates a concurrent
            // writer in another address space.
            *byte = unsafe { self.base.as_ptr().add(offset + i).read_volatile() };
        }
    }

    /// Copies bytes into the page.
    ///
    /// # Panics
    /// If they do not lie within it; callers have masked the offset.
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= PAGE_BYTES);
        for (i, &byte) in bytes.iter().enumerate() {
            // SAFETY: in bounds (asserted); volatile, as above.
            unsafe { self.base.as_ptr().add(offset + i).write_volatile(byte) };
        }
    }
}

impl Drop for RingPage {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this size, and nothing can refer to it any more.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), PAGE_BYTES) };
        debug_assert!(unmapped.is_ok());
    }
}

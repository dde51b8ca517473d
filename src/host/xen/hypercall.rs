//! Hypercalls, by way of `/dev/xen/privcmd`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use zerocopy::FromZeros;

use super::abi::{Hypercall, XENVER_VERSION};
use super::ioctl::call;
use super::open;

/// The opened device.
pub struct Privcmd(OwnedFd);

impl Privcmd {
    /// # Errors
    /// Those of open(2), with the device's name.
    pub fn open() -> io::Result<Privcmd> {
        Ok(Privcmd(open("/dev/xen/privcmd")?))
    }

    /// The hypervisor's release: major and minor.
    pub fn release(&self) -> io::Result<(u32, u32)> {
        let args = [XENVER_VERSION, 0, 0, 0, 0];
        // SAFETY: this hypercall takes no address.
        let release = unsafe { self.hypercall(xen_sys::__HYPERVISOR_xen_version, args)? };
        Ok((release >> 16, release & 0xFFFF))
    }

    /// Makes a hypercall whose one argument is the address of `buffer`.
    ///
    /// # Safety
    /// The hypercall must find and leave values of `T` there, and addresses in them must be of memory as
    /// large as it is told.
    pub unsafe fn with_buffer<T: FromZeros>(
        &self,
        op: u32,
        buffer: &mut Buffer<T>,
    ) -> io::Result<u32> {
        let args = [buffer.address(), 0, 0, 0, 0];
        // SAFETY: the buffer is mapped and borrowed for us alone; the caller vouches for the rest.
        unsafe { self.hypercall(op, args) }
    }

    /// Makes a hypercall.
    ///
    /// # Safety
    /// Addresses in `args` must be of memory that is as large as the hypercall wants it.
    unsafe fn hypercall(&self, op: u32, args: [u64; 5]) -> io::Result<u32> {
        // SAFETY: it is /dev/xen/privcmd; the caller vouches for the addresses.
        Ok(unsafe { call(self.0.as_fd(), Hypercall { op: op.into(), args })?.0 })
    }
}

/// A value that the hypervisor reads and writes itself, in pages of `/dev/xen/hypercall`, which the
/// kernel neither moves nor takes away: the hypervisor would answer EFAULT for an absent page instead
/// of waiting for it.
pub struct Buffer<T> {
    pages: NonNull<T>,
}

// SAFETY: the pages belong to this value alone and have no thread affinity.
unsafe impl<T: Send> Send for Buffer<T> {}

impl<T: FromZeros> Buffer<T> {
    /// All bytes are 0.
    ///
    /// # Errors
    /// Those of open(2), with the device's name, and of mmap(2).
    pub fn new() -> io::Result<Buffer<T>> {
        let device = open("/dev/xen/hypercall")?;
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
        let pages = unsafe {
            mmap(std::ptr::null_mut(), size_of::<T>(), flags, MapFlags::SHARED, &device, 0)?
        };
        Ok(Buffer { pages: NonNull::new(pages.cast()).ok_or(io::ErrorKind::Other)? })
    }

    /// Where the hypervisor finds it.
    pub fn address(&self) -> u64 {
        self.pages.as_ptr().expose_provenance() as u64
    }

    /// The value as the last hypercall left it.
    pub fn get(&self) -> &T {
        // SAFETY: mapped for as long as `self`, aligned to a page, a value from the beginning (zeros);
        // the hypervisor writes only during `with_buffer`, which borrows `self` for itself alone.
        unsafe { self.pages.as_ref() }
    }

    /// The value, to be filled in for the next hypercall.
    pub fn get_mut(&mut self) -> &mut T {
        // SAFETY: as for `get`.
        unsafe { self.pages.as_mut() }
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this size, and nothing can refer to it any more.
        let unmapped = unsafe { munmap(self.pages.as_ptr().cast(), size_of::<T>()) };
        debug_assert!(unmapped.is_ok());
    }
}

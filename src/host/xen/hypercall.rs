//! Hypercalls through `/dev/xen/privcmd`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use zerocopy::FromZeros;

use super::abi::{Hypercall, XENVER_VERSION};
use super::ioctl::call;
use super::open;

/// An open file of `/dev/xen/privcmd`.
pub struct Privcmd(OwnedFd);

impl Privcmd {
    /// # Errors
    /// Those of open(2), with the device's name.
    pub fn open() -> io::Result<Privcmd> {
        Ok(Privcmd(open("/dev/xen/privcmd")?))
    }

    /// Returns the hypervisor's release as (major, minor).
    pub fn release(&self) -> io::Result<(u32, u32)> {
        let args = [XENVER_VERSION, 0, 0, 0, 0];
        // SAFETY: this hypercall takes no address.
        let release = unsafe { self.hypercall(xen_sys::__HYPERVISOR_xen_version, args)? };
        Ok((release >> 16, release & 0xFFFF))
    }

    /// Makes a hypercall whose only argument is the address of `buffer`.
    ///
    /// # Safety
    /// The hypercall must expect and leave a valid `T` there, and addresses inside it must point to memory of the
    /// size stated with them.
    pub unsafe fn with_buffer<T: FromZeros>(
        &self,
        op: u32,
        buffer: &mut Buffer<T>,
    ) -> io::Result<u32> {
        let args = [buffer.address(), 0, 0, 0, 0];
        // SAFETY: the buffer is mapped and exclusively borrowed; the caller vouches for the rest.
        unsafe { self.hypercall(op, args) }
    }

    /// Makes a hypercall.
    ///
    /// # Safety
    /// Addresses in `args` must point to memory as large as the hypercall expects.
    unsafe fn hypercall(&self, op: u32, args: [u64; 5]) -> io::Result<u32> {
        // SAFETY: the device is /dev/xen/privcmd; the caller vouches for the addresses.
        Ok(unsafe { call(self.0.as_fd(), Hypercall { op: op.into(), args })?.0 })
    }
}

/// A value that the hypervisor accesses directly, in pages of `/dev/xen/hypercall`. The kernel neither moves nor
/// reclaims those: on an absent page the hypervisor would return EFAULT instead of waiting for it.
pub struct Buffer<T> {
    pages: NonNull<T>,
}

// SAFETY: the pages belong to this value alone and have no thread affinity.
unsafe impl<T: Send> Send for Buffer<T> {}

impl<T: FromZeros> Buffer<T> {
    /// Allocates a buffer of zeros.
    ///
    /// # Errors
    /// Those of open(2), with the device's name, and of mmap(2).
    pub fn new() -> io::Result<Buffer<T>> {
        let device = open("/dev/xen/hypercall")?;
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SHARED: the device refuses private mappings (privcmd_buf_mmap).
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
        let pages = unsafe {
            mmap(std::ptr::null_mut(), size_of::<T>(), flags, MapFlags::SHARED, &device, 0)?
        };
        Ok(Buffer { pages: NonNull::new(pages.cast()).ok_or(io::ErrorKind::Other)? })
    }

    /// Returns the address that the hypervisor uses.
    pub fn address(&self) -> u64 {
        self.pages.as_ptr().expose_provenance() as u64
    }

    /// Returns the value as the last hypercall left it.
    pub fn get(&self) -> &T {
        // SAFETY: mapped for as long as `self`, page-aligned, and a valid value from the start (zeros); the
        // hypervisor writes only during `with_buffer`, which borrows `self` exclusively.
        unsafe { self.pages.as_ref() }
    }

    /// Returns the value, to be filled in for the next hypercall.
    pub fn get_mut(&mut self) -> &mut T {
        // SAFETY: for the same reasons as in `get`.
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

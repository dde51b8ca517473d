use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::abi::{
    DomainInfo, GetDomainInfoList, Hypercall, SYSCTL_VERSIONS, Sysctl,
    XEN_SYSCTL_GETDOMAININFOLIST, XENVER_VERSION, call,
};
use super::open;
use crate::words::Domid;

/// Domains described by one hypercall. What it writes then fits 29 pages on x86.
pub const BATCH: usize = 1024;

/// What the hypervisor reads and writes itself.
#[repr(C)]
struct Shared {
    sysctl: Sysctl,
    list: [DomainInfo; BATCH],
}

/// Hypercalls, by way of `/dev/xen/privcmd`.
pub struct Hypercalls {
    privcmd: OwnedFd,
    /// Pages of `/dev/xen/hypercall`, which the kernel neither moves nor takes away: the
    /// hypervisor would answer EFAULT for an absent page instead of waiting for it.
    shared: NonNull<Shared>,
    /// One of `SYSCTL_VERSIONS`.
    version: u32,
}

// SAFETY: the pages belong to this value alone and have no thread affinity.
unsafe impl Send for Hypercalls {}

impl Hypercalls {
    /// Opens the devices and finds out which version of the interface the hypervisor speaks.
    ///
    /// # Errors
    /// `NotFound` where there is no Xen or its kernel modules are not loaded; `Unsupported` for a
    /// release whose interface is not known.
    pub fn open() -> io::Result<Hypercalls> {
        let privcmd = open("/dev/xen/privcmd")?;
        let pages = open("/dev/xen/hypercall")?;
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        let (null, size) = (std::ptr::null_mut(), size_of::<Shared>());
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
        let shared = unsafe { mmap(null, size, flags, MapFlags::SHARED, &pages, 0)? };
        let shared = NonNull::new(shared.cast()).ok_or(io::ErrorKind::Other)?;
        let mut hypercalls = Hypercalls { privcmd, shared, version: 0 };
        for version in SYSCTL_VERSIONS {
            hypercalls.version = version;
            match hypercalls.list(Domid::CONTROL, 1) {
                Ok(_) => return Ok(hypercalls),
                // sysctl.c answers EACCES to a version that is not its own, before all else.
                Err(error) if error.raw_os_error() == Some(Errno::ACCESS.raw_os_error()) => (),
                Err(error) => return Err(error),
            }
        }
        let (major, minor) = hypercalls.release()?;
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("Xen {major}.{minor} speaks none of the sysctl versions {SYSCTL_VERSIONS:x?}"),
        ))
    }

    /// The hypervisor's release: major and minor.
    pub fn release(&self) -> io::Result<(u32, u32)> {
        let args = [XENVER_VERSION, 0, 0, 0, 0];
        // SAFETY: this hypercall takes no address.
        let release = unsafe { self.hypercall(xen_sys::__HYPERVISOR_xen_version, args)? };
        Ok((release >> 16, release & 0xFFFF))
    }

    /// The version of the sysctl interface that the hypervisor accepted.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Describes the first `max` domains (at most [`BATCH`]) whose number is not below `first`, in
    /// the order of their numbers.
    pub fn list(&mut self, first: Domid, max: usize) -> io::Result<&[DomainInfo]> {
        let max = max.min(BATCH);
        let shared = self.shared.as_ptr();
        // SAFETY: in bounds of the mapping; only its address is taken.
        let buffer = unsafe { &raw mut (*shared).list }.expose_provenance() as u64;
        let list = GetDomainInfoList {
            first_domain: first.0,
            max_domains: u32::try_from(max).expect("at most BATCH"),
            buffer,
            num_domains: 0,
        };
        let interface_version = self.version;
        let cmd = XEN_SYSCTL_GETDOMAININFOLIST;
        // SAFETY: `shared` is mapped, and `&mut self` makes us its only user.
        unsafe { (*shared).sysctl = Sysctl { cmd, interface_version, list, rest: [0; 13] } };
        let args = [shared.expose_provenance() as u64, 0, 0, 0, 0];
        // SAFETY: `sysctl` is the first field of `shared`, and the list in it has room for `max`.
        unsafe { self.hypercall(xen_sys::__HYPERVISOR_sysctl, args)? };
        // SAFETY: as above; the hypervisor writes only during the hypercall, and every bit pattern
        // is a value of these types.
        let shared = unsafe { &*shared };
        let count = shared.sysctl.list.num_domains as usize;
        Ok(&shared.list[..count.min(max)])
    }

    /// Makes a hypercall.
    ///
    /// # Safety
    /// Addresses in `args` must be of memory that is as large as the hypercall wants it.
    unsafe fn hypercall(&self, op: u32, args: [u64; 5]) -> io::Result<u32> {
        // SAFETY: `privcmd` is /dev/xen/privcmd; the caller vouches for the addresses.
        Ok(unsafe { call(self.privcmd.as_fd(), Hypercall { op: op.into(), args })?.0 })
    }
}

impl Drop for Hypercalls {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this size, and nothing can refer to it any more.
        let unmapped = unsafe { munmap(self.shared.as_ptr().cast(), size_of::<Shared>()) };
        debug_assert!(unmapped.is_ok());
    }
}

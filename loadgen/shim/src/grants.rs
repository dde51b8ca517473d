//! libxengnttab, and libxenctrl's equivalent: mapping of ring pages.

use std::ffi::{c_int, c_uint, c_ulong, c_void};
use std::io;
use std::ptr;

use rustix::mm::{MremapFlags, mremap, munmap};
use xenstored::host::Host;
use xenstored::host::page::PAGE_BYTES;
use xenstored::types::Domid;

use crate::host::{fail, host, status};

/// `GNTTAB_RESERVED_XENSTORE`: the grant reference of every domain's ring page.
const XENSTORE: u32 = 1;

/// Creates a separate mapping of a domain's ring page, which the caller unmaps with munmap(2).
fn map(domid: u32) -> io::Result<*mut c_void> {
    let domid = Domid(u16::try_from(domid).map_err(io::Error::other)?);
    let page = host()?.map_ring(domid, None)?;
    let base = page.word(0).as_ptr().cast();
    // SAFETY: `base` is the start of a shared mapping of this size, kept by `page`. With an old size of 0, mremap(2)
    // leaves that mapping unchanged and makes a second one of the same page at an address of the kernel's choice.
    Ok(unsafe { mremap(base, 0, PAGE_BYTES, MremapFlags::MAYMOVE)? })
}

fn pointer(result: io::Result<*mut c_void>) -> *mut c_void {
    result.unwrap_or_else(|error| {
        fail(&error);
        ptr::null_mut()
    })
}

/// Opens a handle, which has no state but must not be null.
#[unsafe(no_mangle)]
pub extern "C" fn xengnttab_open(_logger: *mut c_void, _flags: c_uint) -> *mut c_void {
    crate::control::some_handle()
}

/// Closes a handle.
#[unsafe(no_mangle)]
pub extern "C" fn xengnttab_close(_handle: *mut c_void) -> c_int {
    0
}

/// Succeeds: this host has no limit.
#[unsafe(no_mangle)]
pub extern "C" fn xengnttab_set_max_grants(_handle: *mut c_void, _grants: u32) -> c_int {
    0
}

/// Maps a granted page; only the ring page is granted.
#[unsafe(no_mangle)]
pub extern "C" fn xengnttab_map_grant_ref(
    _handle: *mut c_void,
    domid: u32,
    reference: u32,
    _protection: c_int,
) -> *mut c_void {
    pointer(match reference {
        XENSTORE => map(domid),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    })
}

/// Maps a page by frame number. On this host a domain has only one page, so the number is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn xc_map_foreign_range(
    _handle: *mut c_void,
    domid: u32,
    size: c_int,
    _protection: c_int,
    _frame: c_ulong,
) -> *mut c_void {
    pointer(match usize::try_from(size) {
        Ok(PAGE_BYTES) => map(domid),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    })
}

/// Unmaps a page.
///
/// # Safety
/// `start` is from [`xengnttab_map_grant_ref`] and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xengnttab_unmap(
    _handle: *mut c_void,
    start: *mut c_void,
    count: u32,
) -> c_int {
    // SAFETY: the caller gives up its own mapping, which has no other users.
    status(unsafe { munmap(start, count as usize * PAGE_BYTES) }.map_err(io::Error::from))
}

//! libxenctrl: domain states.

use std::ffi::{c_int, c_uint, c_void};
use std::io;

use xenstored::host::{DomainState, Host};
use xenstored::types::Domid;

use crate::host::{fail, host};

/// The prefix of `xc_dominfo_t` (tools/include/xenctrl.h) that xenstored reads.
#[repr(C)]
pub struct DomInfo {
    domid: u32,
    ssidref: u32,
    flags: c_uint,
    shutdown_reason: c_uint,
}

/// Bits of the flags bit field, which starts at the lowest bit on Xen's architectures.
const INFO_DYING: c_uint = 1 << 0;
const INFO_SHUTDOWN: c_uint = 1 << 2;

/// `xen_domctl_getdomaininfo` (xen/include/public/domctl.h) in its x86-64 layout.
#[repr(C, align(8))]
pub struct DomainInfo {
    domain: u16,
    pad: u16,
    flags: u32,
    /// Copied by oxenstored, but not used.
    rest: [u8; 104],
}

/// `XEN_DOMINF_dying`, `XEN_DOMINF_shutdown`.
const LISTED_DYING: u32 = 1 << 0;
const LISTED_SHUTDOWN: u32 = 1 << 2;

/// Returns a pointer that is not null and even, as OCaml requires for stored pointers. The pointer is never
/// dereferenced.
pub fn some_handle() -> *mut c_void {
    static NOTHING: u64 = 0;
    (&raw const NOTHING).cast_mut().cast()
}

fn state(domid: u32) -> io::Result<(u16, DomainState)> {
    let domid = u16::try_from(domid).map_err(|_| io::ErrorKind::NotFound)?;
    let state = host()?.domain(Domid(domid))?;
    Ok((domid, state.ok_or(io::ErrorKind::NotFound)?))
}

/// Opens a handle, which has no state.
#[unsafe(no_mangle)]
pub extern "C" fn xc_interface_open(
    _logger: *mut c_void,
    _dombuild_logger: *mut c_void,
    _flags: c_uint,
) -> *mut c_void {
    some_handle()
}

/// Closes a handle.
#[unsafe(no_mangle)]
pub extern "C" fn xc_interface_close(_handle: *mut c_void) -> c_int {
    0
}

/// Returns 1 and the state of a domain, or -1 with `errno` set. (Xen returns the next domain if this one does not
/// exist; the caller then sees another domid and concludes the same.)
#[unsafe(no_mangle)]
pub extern "C" fn xc_domain_getinfo(
    _handle: *mut c_void,
    first: u32,
    max: c_uint,
    info: &mut DomInfo,
) -> c_int {
    match state(first) {
        Ok((domid, state)) if max > 0 => {
            let flags = flags(&state, INFO_DYING, INFO_SHUTDOWN);
            *info = DomInfo { domid: domid.into(), ssidref: 0, flags, shutdown_reason: 0 };
            1
        }
        Ok(_) => 0,
        Err(error) => fail(&error),
    }
}

/// Like [`xc_domain_getinfo`], but in the hypervisor's own format: returns 1, or 0 if the domain does not exist.
#[unsafe(no_mangle)]
pub extern "C" fn xc_domain_getinfolist(
    _handle: *mut c_void,
    first: u32,
    max: c_uint,
    info: &mut DomainInfo,
) -> c_int {
    match state(first) {
        Ok((domain, state)) if max > 0 => {
            let flags = flags(&state, LISTED_DYING, LISTED_SHUTDOWN);
            *info = DomainInfo { domain, pad: 0, flags, rest: [0; 104] };
            1
        }
        _ => 0,
    }
}

fn flags(state: &DomainState, dying: u32, shutdown: u32) -> u32 {
    let bit = |is_set: bool, bit| if is_set { bit } else { 0 };
    bit(state.dying, dying) | bit(state.shutdown, shutdown)
}

/// `xc_error`: a code and a message. The code is 0, so the caller uses `errno`.
#[repr(C)]
pub struct LastError {
    code: c_uint,
    message: [u8; 1024],
}

/// Returns an empty error: all information is in `errno`.
#[unsafe(no_mangle)]
pub extern "C" fn xc_get_last_error(_handle: *mut c_void) -> *const LastError {
    static NONE: LastError = LastError { code: 0, message: [0; 1024] };
    &raw const NONE
}

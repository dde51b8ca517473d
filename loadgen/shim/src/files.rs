//! Emulated and redirected files.
//!
//! The two files of the control domain's kernel, `/proc/xen/xsd_kva` and `/proc/xen/xsd_port`, are made from the
//! simulated host's state. Files of oxenstored in `/var/run/xenstored`, a path fixed at build time, are redirected to
//! `$XENSTORED_RUNDIR`, which the C daemon uses anyway. So two daemons can run side by side.

use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::io;
use std::mem;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::{ptr, slice};

use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};
use xenstored::host::sim::XENSTORE_PORT;
use xenstored::types::Domid;
use zerocopy::FromBytes;

use crate::host::{fail, host};

/// The directory of oxenstored's socket and dump.
const RUNDIR: &str = "/var/run/xenstored";

/// The kernel's files (Linux, drivers/xen/xenfs/xenstored.c).
const KVA: &[u8] = b"/proc/xen/xsd_kva";
const PORT: &[u8] = b"/proc/xen/xsd_port";

/// Returns the redirected path, `None` if the path is not redirected.
fn elsewhere(path: &CStr) -> Option<CString> {
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    let inside = path.strip_prefix(RUNDIR).ok()?;
    let own = PathBuf::from(std::env::var_os("XENSTORED_RUNDIR")?).join(inside);
    CString::new(own.into_os_string().into_vec()).ok()
}

/// Calls `call` with the redirected path.
fn redirected<T>(path: &CStr, call: impl FnOnce(*const c_char) -> T) -> T {
    let own = elsewhere(path);
    call(own.as_deref().unwrap_or(path).as_ptr())
}

/// Returns the page of the control domain's ring.
fn kva() -> io::Result<OwnedFd> {
    host()?.page(Domid::CONTROL)
}

/// Returns a file with the number of the control domain's event channel as text.
fn port() -> io::Result<OwnedFd> {
    let file = memfd_create("xsd_port", MemfdFlags::CLOEXEC)?;
    rustix::io::write(&file, XENSTORE_PORT.to_string().as_bytes())?;
    seek(&file, SeekFrom::Start(0))?;
    Ok(file)
}

/// open(2).
///
/// # Safety
/// As for open(2): `path` ends in a NUL. In C the third argument may be omitted, in which case it has any value and
/// the kernel ignores it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    // SAFETY: `path` points to a NUL-terminated string, as open(2) requires of the caller.
    let path = unsafe { CStr::from_ptr(path) };
    let made = match path.to_bytes() {
        KVA => kva(),
        PORT => port(),
        // SAFETY: openat(2) reads a string, which lives for the duration of the call.
        _ => return redirected(path, |path| unsafe { openat(path, flags, mode) }),
    };
    made.map_or_else(|error| fail(&error), IntoRawFd::into_raw_fd)
}

/// Makes the openat(2) system call directly, since `open` here overrides the C library's.
///
/// # Safety
/// `path` ends in a NUL.
unsafe fn openat(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    // SAFETY: the arguments are those of openat(2), which reads only the string.
    let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) };
    c_int::try_from(fd).unwrap_or(-1)
}

/// Same as [`open`], under the name that programs with large file support use.
///
/// # Safety
/// As for [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    // SAFETY: the caller gives the same guarantee.
    unsafe { open(path, flags, mode) }
}

/// unlink(2).
///
/// # Safety
/// As for unlink(2): `path` ends in a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: `path` points to a NUL-terminated string, as unlink(2) requires of the caller.
    let path = unsafe { CStr::from_ptr(path) };
    redirected(path, |path| {
        // SAFETY: unlinkat(2) reads a string, which lives for the duration of the call.
        let status = unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) };
        c_int::try_from(status).unwrap_or(-1)
    })
}

/// mkdir(2).
///
/// # Safety
/// As for mkdir(2): `path` ends in a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdir(path: *const c_char, mode: libc::mode_t) -> c_int {
    // SAFETY: `path` points to a NUL-terminated string, as mkdir(2) requires of the caller.
    let path = unsafe { CStr::from_ptr(path) };
    redirected(path, |path| {
        // SAFETY: mkdirat(2) reads a string, which lives for the duration of the call.
        let status = unsafe { libc::syscall(libc::SYS_mkdirat, libc::AT_FDCWD, path, mode) };
        c_int::try_from(status).unwrap_or(-1)
    })
}

/// bind(2).
///
/// # Safety
/// As for bind(2): `address` has `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bind(
    socket: c_int,
    address: *const libc::sockaddr,
    length: libc::socklen_t,
) -> c_int {
    // SAFETY: these are the bytes that bind(2) reads.
    let given = unsafe { slice::from_raw_parts(address.cast::<u8>(), length as usize) };
    let moved = moved(given);
    let (address, length) = match &moved {
        Some(own) => (ptr::from_ref(own).cast(), mem::size_of::<libc::sockaddr_un>()),
        None => (address, length as usize),
    };
    // SAFETY: the system call reads `length` bytes at `address`: the caller's, or those of `moved`.
    let status = unsafe { libc::syscall(libc::SYS_bind, socket, address, length) };
    c_int::try_from(status).unwrap_or(-1)
}

/// Returns the redirected address of a Unix socket, `None` if it is not redirected.
fn moved(given: &[u8]) -> Option<libc::sockaddr_un> {
    let at = mem::offset_of!(libc::sockaddr_un, sun_path);
    let family = libc::sa_family_t::try_from(libc::AF_UNIX).ok()?;
    // An address begins with its family, in the machine's byte order.
    let (first, _) = libc::sa_family_t::read_from_prefix(given).ok()?;
    if first != family {
        return None;
    }
    let mut path = given.get(at..)?.to_vec();
    path.push(0);
    let own = elsewhere(CStr::from_bytes_until_nul(&path).ok()?)?;
    let mut address = libc::sockaddr_un { sun_family: family, sun_path: [0; 108] };
    let bytes = own.as_bytes();
    if bytes.len() >= address.sun_path.len() {
        return None; // The caller's address then fails by its own path.
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    Some(address)
}

/// setrlimit(2). oxenstored requests as many open files as the kernel can count, which even root may be denied; it
/// then gets the hard limit.
///
/// # Safety
/// As for setrlimit(2): `wanted` points to two limits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn setrlimit(resource: c_int, wanted: *const libc::rlimit) -> c_int {
    let set = |limit: *const libc::rlimit| {
        let none: *mut libc::rlimit = ptr::null_mut();
        // SAFETY: prlimit(2) reads the limits at `limit`, and writes nothing to a null pointer.
        unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, limit, none) }
    };
    let mut most = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit(2) fills the limits passed to it.
    if set(wanted) < 0 && unsafe { libc::getrlimit(resource as _, &mut most) } == 0 {
        most.rlim_cur = most.rlim_max;
        return c_int::try_from(set(&raw const most)).unwrap_or(-1);
    }
    0
}

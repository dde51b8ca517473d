//! The connection to the simulated host, and errors in C's convention.

use std::ffi::c_int;
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;

use xenstored::host::sim::SimHost;

use crate::successor::inherited;

/// Environment variable with the path of the host's socket.
const SOCKET: &str = "XENSTORED_SIM_SOCKET";

static HOST: OnceLock<io::Result<SimHost>> = OnceLock::new();

/// Returns the host, a process that must run already, to which this process connects as the daemon when it first uses
/// one of Xen's libraries. In a live update it goes on with its predecessor's connection.
///
/// # Errors
/// As [`SimHost::connect`] and [`SimHost::adopt`]; `NotFound` if `XENSTORED_SIM_SOCKET` is not set.
pub fn host() -> io::Result<&'static SimHost> {
    let host = HOST.get_or_init(|| match inherited() {
        Some((saved, _)) => SimHost::adopt(saved.clone()),
        None => SimHost::connect(&socket()?),
    });
    host.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

/// Returns the host if this process is connected.
pub fn connected() -> Option<&'static SimHost> {
    HOST.get()?.as_ref().ok()
}

/// Returns the path of the host's socket.
fn socket() -> io::Result<PathBuf> {
    std::env::var_os(SOCKET).map(PathBuf::from).ok_or(io::ErrorKind::NotFound.into())
}

/// Sets `errno` and returns -1, the error convention of all these libraries.
pub fn fail(error: &io::Error) -> c_int {
    let number = error.raw_os_error().unwrap_or(match error.kind() {
        io::ErrorKind::NotFound => libc::ESRCH,
        io::ErrorKind::AlreadyExists => libc::EEXIST,
        io::ErrorKind::ResourceBusy => libc::EBUSY,
        io::ErrorKind::InvalidInput => libc::EINVAL,
        _ => libc::EIO,
    });
    // SAFETY: the address of this thread's errno is valid for as long as the thread.
    unsafe { *libc::__errno_location() = number };
    -1
}

/// Returns 0, or -1 with `errno` set.
pub fn status(result: io::Result<()>) -> c_int {
    result.map_or_else(|error| fail(&error), |()| 0)
}

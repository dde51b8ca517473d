//! The program that a daemon executes in its own process to update itself. On Xen it inherits the descriptor of
//! `/dev/xen/evtchn`, in which all ports stay bound; on the simulated host a handle has more descriptors, and the
//! daemon's connection belongs to the host's state, so their numbers are passed on in the environment.

use std::ffi::{CString, c_char, c_int};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::sync::OnceLock;

use xenstored::host::inherited::set_inheritable;
use xenstored::host::{Host, SavedChannels, SavedHost};

use crate::channels;
use crate::host::connected;

/// Environment variable with what the predecessor saved, as JSON.
const SAVED: &str = "XENSTORED_SHIM_SAVED";

/// A host and its event channel handles.
type Saved = (SavedHost, Vec<SavedChannels>);

/// Returns what this program inherited, `None` if it was not started by an update.
pub fn inherited() -> Option<&'static Saved> {
    static INHERITED: OnceLock<Option<Saved>> = OnceLock::new();
    let read = || serde_json::from_str(&std::env::var(SAVED).ok()?).ok();
    INHERITED.get_or_init(read).as_ref()
}

/// Returns the state to pass on, and the numbers of its descriptors; `None` before the first use of the host.
fn saved() -> io::Result<Option<(String, Vec<RawFd>)>> {
    let Some(host) = connected() else { return Ok(None) };
    let saved: Saved = (host.save()?, channels::saved()?);
    let handles = saved.1.iter().flat_map(SavedChannels::descriptors);
    let descriptors = saved.0.descriptors().into_iter().chain(handles).collect();
    Ok(Some((serde_json::to_string(&saved)?, descriptors)))
}

/// Returns this process's environment with this state in it.
fn environment(state: &str) -> io::Result<Vec<CString>> {
    let kept = std::env::vars_os().filter(|(name, _)| name != SAVED);
    let each = kept.map(|(name, value)| [name.as_bytes(), value.as_bytes()].join(&b'='));
    let all = each.chain([format!("{SAVED}={state}").into_bytes()]);
    all.map(|entry| CString::new(entry).map_err(io::Error::other)).collect()
}

/// execvp(3), which C xenstored calls to update itself and for nothing else.
///
/// # Safety
/// As for execvp(3): `file` ends in a NUL, and `arguments` is a list of such strings that ends in a null pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execvp(file: *const c_char, arguments: *const *const c_char) -> c_int {
    let prepared = saved().and_then(|saved| {
        let (state, descriptors) = saved.unwrap_or_default();
        let environment = environment(&state)?;
        set_inheritable(&descriptors, true)?;
        Ok((environment, descriptors))
    });
    let (environment, descriptors) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return crate::host::fail(&error),
    };
    let mut entries: Vec<_> = environment.iter().map(|entry| entry.as_ptr()).collect();
    entries.push(ptr::null());
    // SAFETY: the caller guarantees the first two; `entries` are NUL-terminated strings, which `environment` keeps, and
    // ends in a null pointer.
    unsafe { libc::execvpe(file, arguments, entries.as_ptr()) };
    // It returns only if it failed. The descriptors are this process's alone again.
    let error = io::Error::last_os_error();
    let _ = set_inheritable(&descriptors, false);
    crate::host::fail(&error)
}

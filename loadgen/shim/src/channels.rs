//! libxenevtchn: event channels.

use std::ffi::{c_int, c_uint, c_void};
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::event::{PollFd, PollFlags, poll};
use xenstored::host::{Channels, Host, Port, SavedChannels};
use xenstored::types::Domid;

use crate::host::{fail, host, status};
use crate::successor::inherited;

/// `VIRQ_DOM_EXC`: a domain shut down or died (xen/include/public/xen.h).
const DOM_EXC: c_uint = 3;

type Shared = Mutex<Box<dyn Channels>>;

/// The object behind C's `xenevtchn_handle` pointer.
pub struct Handle(Arc<Shared>);

/// The open handles, which a successor program goes on with.
static OPEN: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

impl Handle {
    /// Returns C's pointer to a handle, or null with `errno` set.
    fn pointer(opened: io::Result<Box<dyn Channels>>) -> *mut Handle {
        let channels = match opened {
            Ok(channels) => Arc::new(Mutex::new(channels)),
            Err(error) => {
                fail(&error);
                return ptr::null_mut();
            }
        };
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|handle| handle.strong_count() > 0);
        open.push(Arc::downgrade(&channels));
        Box::into_raw(Box::new(Handle(channels)))
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Channels>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns what a successor needs to go on with each open handle.
pub fn saved() -> io::Result<Vec<SavedChannels>> {
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let handles = open.iter().filter_map(Weak::upgrade);
    handles.map(|handle| handle.lock().unwrap_or_else(PoisonError::into_inner).save()).collect()
}

/// Returns a port, or -1 with `errno` set.
fn port(result: io::Result<Port>) -> c_int {
    let result = result.and_then(|port| c_int::try_from(port).map_err(io::Error::other));
    result.unwrap_or_else(|error| fail(&error))
}

/// Opens a handle; returns null with `errno` set on failure.
#[unsafe(no_mangle)]
pub extern "C" fn xenevtchn_open(_logger: *mut c_void, _flags: c_uint) -> *mut Handle {
    Handle::pointer(host().and_then(Host::open_channels))
}

/// Goes on with the handle that has this descriptor, which this program inherited in a live update. Ports keep their
/// numbers and stay bound.
#[unsafe(no_mangle)]
pub extern "C" fn xenevtchn_fdopen(_logger: *mut c_void, fd: c_int, _flags: c_uint) -> *mut Handle {
    let saved = inherited().and_then(|(_, handles)| {
        let is_it = |saved: &&SavedChannels| match saved {
            SavedChannels::Sim { epoll, .. } => *epoll == fd,
            SavedChannels::Xen { device, .. } => *device == fd,
        };
        handles.iter().find(is_it).cloned()
    });
    let saved = saved.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF));
    Handle::pointer(saved.and_then(|saved| host()?.adopt_channels(saved)))
}

/// Closes a handle.
///
/// # Safety
/// `handle` is null or from [`xenevtchn_open`] or [`xenevtchn_fdopen`], and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xenevtchn_close(handle: *mut Handle) -> c_int {
    if !handle.is_null() {
        // SAFETY: `handle` was made by `Box::into_raw`, and the caller gives up ownership.
        drop(unsafe { Box::from_raw(handle) });
    }
    0
}

/// Returns the descriptor that is readable when a port is pending.
#[unsafe(no_mangle)]
pub extern "C" fn xenevtchn_fd(handle: &Handle) -> c_int {
    handle.lock().raw_fd()
}

/// Notifies the other end of a port. Costs one system call.
#[unsafe(no_mangle)]
pub extern "C" fn xenevtchn_notify(handle: &Handle, port: Port) -> c_int {
    status(handle.lock().notify(port))
}

/// Binds to a domain's port; returns the local one.
#[unsafe(no_mangle)]
pub extern "C" fn xenevtchn_bind_interdomain(handle: &Handle, domid: u32, remote: Port) -> c_int {
    let domid = u16::try_from(domid).map(Domid).map_err(io::Error::other);
    port(domid.and_then(|domid| handle.lock().bind_interdomain(domid, remote)))
}

/// Binds the only VIRQ used by these daemons.
#[unsafe(no_mangle)]
pub extern "C" fn xenevtchn_bind_virq(handle: &Handle, virq: c_uint) -> c_int {
    if virq != DOM_EXC {
        return fail(&io::ErrorKind::InvalidInput.into());
    }
    port(handle.lock().bind_changes())
}

/// Unbinds a port.
#[unsafe(no_mangle)]
pub extern "C" fn xenevtchn_unbind(handle: &Handle, port: Port) -> c_int {
    status(handle.lock().unbind(port))
}

/// Takes the next pending port; blocks until there is one, as read(2) from `/dev/xen/evtchn` does.
#[unsafe(no_mangle)]
pub extern "C" fn xenevtchn_pending(handle: &Handle) -> c_int {
    let mut channels = handle.lock();
    port(next_pending(&mut **channels))
}

fn next_pending(channels: &mut dyn Channels) -> io::Result<Port> {
    let mut ports = [0];
    while channels.pending(&mut ports).all()? == 0 {
        // SAFETY: the descriptor belongs to `channels`, which is borrowed until after the poll.
        let fd = unsafe { BorrowedFd::borrow_raw(channels.raw_fd()) };
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], None)?;
    }
    Ok(ports[0])
}

/// Unmasks a port.
#[unsafe(no_mangle)]
pub extern "C" fn xenevtchn_unmask(handle: &Handle, port: Port) -> c_int {
    status(handle.lock().unmask(port))
}

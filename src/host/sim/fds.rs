//! The descriptors shared by the daemon and a guest: the ring page and the event channel.
//!
//! Host, daemon and guests use this module. The other end belongs to an untrusted process, so every call returns at
//! once, whatever that process did to its end.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create,
};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use rustix::process::{Resource, getrlimit};

use crate::host::page::PAGE_BYTES;

/// Notifications drained from a channel at once. A channel holds about six unless the guest has enlarged its buffer;
/// anything beyond this limit is reported again, which costs the daemon no more calls than it costs the guest.
const DRAIN_MAX: usize = 16;

/// Requested send buffer at both ends. The kernel raises this value to its minimum (4,608 bytes, six notifications);
/// with the default, each of 10,000 idle guests could pin 200 KiB of kernel memory.
const SEND_BUFFER_BYTES: usize = 1;

/// Number of descriptors that domains leave to the rest of a process; at most a quarter of all.
const RESERVED: u64 = 1024;

/// Returns whether a new descriptor shows that domains have used up their part of the limit of open files: the system
/// assigns the lowest free number. Costs a system call.
pub fn is_scarce(newest: &impl AsRawFd) -> bool {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let last = limit - RESERVED.min(limit / 4);
    u64::try_from(newest.as_raw_fd()).is_ok_and(|fd| fd > last)
}

/// Creates the memory file of a zeroed ring page. It is sealed, so no process can truncate it and make another die of
/// SIGBUS.
pub fn new_page() -> io::Result<OwnedFd> {
    let file = memfd_create("xenstore-ring", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, PAGE_BYTES as u64)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// Returns whether a memory file has `len` bytes and keeps them: access to a mapped page beyond the end of a truncated
/// file raises SIGBUS. Only memory files have seals, and a seal is permanent.
pub fn has_fixed_length(file: BorrowedFd<'_>, len: usize) -> bool {
    let seals = fcntl_get_seals(file).unwrap_or(SealFlags::empty());
    let size = fstat(file).ok().and_then(|about| usize::try_from(about.st_size).ok());
    seals.contains(SealFlags::SHRINK) && size == Some(len)
}

/// Creates an event channel. Returns the host's end and the guest's.
///
/// The channel is a packet socket, not a stream: a notification is a packet of any length, taken in constant time, and
/// there is no out-of-band data that could leave the channel readable with nothing to read.
pub fn new_channel() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    for end in [&ours, &theirs] {
        set_socket_send_buffer_size(end, SEND_BUFFER_BYTES)?;
    }
    refuse_descriptors(ours.as_fd());
    Ok((ours, theirs))
}

/// Notifies the other end. A full channel already carries a notification, and a closed one has no receiver: neither
/// is an error.
///
/// # Errors
/// All others of send(2), such as lack of memory.
pub fn signal(channel: BorrowedFd<'_>) -> io::Result<()> {
    match send(channel, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(_) | Err(Errno::AGAIN | Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Drains notifications, at most [`DRAIN_MAX`], and returns whether there were any.
///
/// A closed or failed channel has none: callers that need the distinction poll(2) for a hang-up.
pub fn drain(channel: BorrowedFd<'_>) -> bool {
    let mut packet = [0; 1]; // The rest of a longer packet is dropped with it.
    let taken = (0..DRAIN_MAX)
        .take_while(|_| recv(channel, &mut packet, RecvFlags::DONTWAIT).is_ok_and(|(_, n)| n > 0));
    taken.count() > 0
}

/// Makes the kernel refuse descriptors sent to this socket or, if it listens, to sockets accepted from it.
///
/// Unsolicited descriptors are closed in the receiver's time, and closing a foreign descriptor can block: a TCP
/// socket with `SO_LINGER` waits for its peer. Linux before 6.16 lacks the option, so there a client can still delay
/// the daemon in this way (docs/SIM.md, "Limits").
pub fn refuse_descriptors(socket: BorrowedFd<'_>) {
    // asm-generic/socket.h; the same on every architecture that Xen runs on.
    const SOL_SOCKET: c_int = 1;
    const SO_PASSRIGHTS: c_int = 83;
    unsafe extern "C" {
        fn setsockopt(
            fd: c_int,
            level: c_int,
            name: c_int,
            value: *const c_void,
            len: u32,
        ) -> c_int;
    }
    let off: c_int = 0;
    // SAFETY: setsockopt(2) reads `len` bytes at `value`, which is a live integer of that size;
    // the descriptor is borrowed, so it is open. rustix has no wrapper for this option.
    unsafe {
        setsockopt(socket.as_raw_fd(), SOL_SOCKET, SO_PASSRIGHTS, (&raw const off).cast(), 4);
    }
}

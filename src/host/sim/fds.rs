//! The descriptors that the daemon and a guest share: the ring page and the event channel.
//!
//! Both sides of the host use what is here. The other end belongs to a process that is not
//! trusted, so every call returns at once whatever that process did to its end.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

use crate::host::RingPage;
use crate::host::page::PAGE_BYTES;

/// Notifications taken from a channel in one go. A channel holds about six unless the guest has
/// enlarged its buffer; what a guest puts there beyond this is reported again, which costs the
/// daemon no more calls than it costs the guest.
const DRAIN_MAX: usize = 16;

/// Send buffer asked for at both ends. The kernel raises it to its minimum (4,608 bytes, six
/// notifications); the default would let each of 10,000 idle guests hold 200 KiB of the kernel.
const SEND_BUFFER_BYTES: usize = 1;

/// A zeroed ring page: the memory file for the guest, and our own mapping of it.
///
/// The file is sealed, so that no process can truncate it and have the other die of SIGBUS.
pub fn new_page() -> io::Result<(OwnedFd, RingPage)> {
    let file = memfd_create("xenstore-ring", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, PAGE_BYTES as u64)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    let page = RingPage::map(file.as_fd(), 0)?;
    Ok((file, page))
}

/// An event channel: the daemon's end and the guest's.
///
/// Packets, not a stream: a notification is a packet of any length, taken in constant time, and
/// there is no out-of-band data that would leave the channel readable with nothing to read.
pub fn new_channel() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    for end in [&ours, &theirs] {
        set_socket_send_buffer_size(end, SEND_BUFFER_BYTES)?;
    }
    refuse_descriptors(ours.as_fd());
    Ok((ours, theirs))
}

/// Notifies the other end. A full channel is notified already; a dead one has nobody to notify.
///
/// # Errors
/// Those of send(2) that are neither, such as no memory.
pub fn signal(channel: BorrowedFd<'_>) -> io::Result<()> {
    match send(channel, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(_) | Err(Errno::AGAIN | Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes notifications, at most [`DRAIN_MAX`], and answers whether there were any.
///
/// A closed channel and one that fails have none: who needs to know asks poll(2) for a hang-up.
pub fn drain(channel: BorrowedFd<'_>) -> bool {
    let mut packet = [0; 1]; // The rest of a longer packet is dropped with it.
    let taken = (0..DRAIN_MAX)
        .take_while(|_| recv(channel, &mut packet, RecvFlags::DONTWAIT).is_ok_and(|(_, n)| n > 0));
    taken.count() > 0
}

/// Has the kernel refuse descriptors that are sent to this socket (or, if it listens, to those
/// accepted from it).
///
/// Descriptors that nobody asked for are closed on the receiver's time, and closing a foreign
/// descriptor can block: a TCP socket with `SO_LINGER` waits for its peer. Linux before 6.16 does
/// not know the option; there this one way to delay the daemon stays open (docs/SIM.md, "Limits").
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

//! Adoption of a domain of another host, with the page and the channel that its guest already uses (docs/SIM.md,
//! "From host to host").
//!
//! The descriptors come from another process, which may keep them and use them in any way. The checks here make sure
//! that they cannot harm the daemon, and the daemon relies on no property that they could lose later.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType, getpeername};

use super::domains::Parts;
use super::fds::refuse_descriptors;
use super::lines::SimError;
use super::socket::GuestEnds;
use crate::host::RingPage;
use crate::host::page::PAGE_BYTES;

/// Builds a domain's parts from the descriptors received with a request.
///
/// # Errors
/// [`SimError::NoEnds`], [`SimError::NoPage`], [`SimError::NoChannel`].
pub fn parts(fds: Vec<OwnedFd>) -> Result<Parts, SimError> {
    let [file, channel] = GuestEnds::try_from(fds).map_err(|_| SimError::NoEnds)?;
    let page = page(file.as_fd()).ok_or(SimError::NoPage)?;
    if !is_channel(channel.as_fd()) {
        return Err(SimError::NoChannel);
    }
    // Another host has already set this option, but a client's own socket pair lacks it.
    refuse_descriptors(channel.as_fd());
    Ok(Parts { page, channel })
}

/// Maps the page, if its file contains it now and forever: access to a page beyond the end of a truncated file raises
/// SIGBUS. Only memory files have seals, and a seal is permanent.
fn page(file: BorrowedFd<'_>) -> Option<RingPage> {
    let seals = fcntl_get_seals(file).ok()?;
    let len = u64::try_from(fstat(file).ok()?.st_size).ok()?;
    if !seals.contains(SealFlags::SHRINK) || len != PAGE_BYTES as u64 {
        return None;
    }
    // Fails if the file is sealed against writing or was opened read-only.
    RingPage::map(file, 0).ok()
}

/// Returns whether the descriptor is a socket like those of [`super::fds::new_channel`]. The blocking mode is not
/// checked: the other process can change it at any time, so each call on a channel passes its own non-blocking flag.
///
/// A listening socket could stay readable without data. A connected socket cannot start to listen.
fn is_channel(socket: BorrowedFd<'_>) -> bool {
    socket_domain(socket) == Ok(AddressFamily::UNIX)
        && socket_type(socket) == Ok(SocketType::SEQPACKET)
        && getpeername(socket).is_ok()
}

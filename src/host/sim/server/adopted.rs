//! Adoption of a domain of another host, with the page and the channel that its guest already uses (docs/SIM.md,
//! "From host to host").
//!
//! The descriptors come from another process, which may keep them and use them in any way. The checks here make sure
//! that they cannot harm host or daemon, which rely on no property that they could lose later.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType, getpeername};

use super::domains::Parts;
use crate::host::RingPage;
use crate::host::page::PAGE_BYTES;
use crate::host::sim::fds::{has_fixed_length, refuse_descriptors};
use crate::host::sim::lines::SimError;
use crate::host::sim::socket::GuestEnds;

/// Builds a domain's parts from the descriptors received with a request.
///
/// # Errors
/// [`SimError::NoEnds`], [`SimError::NoPage`], [`SimError::NoChannel`].
pub fn parts(fds: Vec<OwnedFd>) -> Result<Parts, SimError> {
    let [page, channel] = GuestEnds::try_from(fds).map_err(|_| SimError::NoEnds)?;
    if !is_page(page.as_fd()) {
        return Err(SimError::NoPage);
    }
    if !is_channel(channel.as_fd()) {
        return Err(SimError::NoChannel);
    }
    // Another host has already set this option, but a client's own socket pair lacks it.
    refuse_descriptors(channel.as_fd());
    Ok(Parts { page, channel })
}

/// Returns whether the file has the page's length now and forever, and can be mapped for writing, which fails if the
/// file is sealed against writing or was opened read-only.
fn is_page(file: BorrowedFd<'_>) -> bool {
    has_fixed_length(file, PAGE_BYTES) && RingPage::map(file, 0).is_ok()
}

/// Returns whether the descriptor is a socket like those of [`new_channel`](crate::host::sim::fds::new_channel). The blocking mode is not
/// checked: the other process can change it at any time, so each call on a channel passes its own non-blocking flag.
///
/// A listening socket could stay readable without data. A connected socket cannot start to listen.
fn is_channel(socket: BorrowedFd<'_>) -> bool {
    socket_domain(socket) == Ok(AddressFamily::UNIX)
        && socket_type(socket) == Ok(SocketType::SEQPACKET)
        && getpeername(socket).is_ok()
}

//! A domain of another host that becomes one of this host, with the page and the channel that its
//! guest has already (docs/SIM.md, "From host to host").
//!
//! What comes along was made by somebody else, who may keep it and do with it as he likes. So it is
//! checked here that it cannot hurt, and nothing is expected of it that it could lose later.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType, getpeername};

use super::domains::Parts;
use super::fds::refuse_descriptors;
use super::lines::Refusal;
use super::socket::GuestEnds;
use crate::host::RingPage;
use crate::host::page::PAGE_BYTES;

/// What a domain is made of, from the descriptors that came with a request.
///
/// # Errors
/// [`Refusal::NoEnds`], [`Refusal::NoPage`], [`Refusal::NoChannel`].
pub fn parts(fds: Vec<OwnedFd>) -> Result<Parts, Refusal> {
    let [file, channel] = GuestEnds::try_from(fds).map_err(|_| Refusal::NoEnds)?;
    let page = page(file.as_fd()).ok_or(Refusal::NoPage)?;
    if !is_channel(channel.as_fd()) {
        return Err(Refusal::NoChannel);
    }
    // Another host has done so already; whoever made the pair himself has not.
    refuse_descriptors(channel.as_fd());
    Ok(Parts { page, channel })
}

/// Maps the page, if its file has it and always will: a page whose file became shorter kills
/// whoever looks at it (SIGBUS). Only memory files have seals, and a seal is for ever.
fn page(file: BorrowedFd<'_>) -> Option<RingPage> {
    let seals = fcntl_get_seals(file).ok()?;
    let len = u64::try_from(fstat(file).ok()?.st_size).ok()?;
    if !seals.contains(SealFlags::SHRINK) || len != PAGE_BYTES as u64 {
        return None;
    }
    // Refused if it is sealed against writing, or was opened for reading only.
    RingPage::map(file, 0).ok()
}

/// Whether it is a socket like those of [`super::fds::new_channel`]. That it does not block is not
/// asked: it can be changed at any time, so each call on a channel says so for itself.
///
/// A socket that listens could be readable for ever with nothing to be read. This one cannot begin
/// to, as it is connected.
fn is_channel(socket: BorrowedFd<'_>) -> bool {
    socket_domain(socket) == Ok(AddressFamily::UNIX)
        && socket_type(socket) == Ok(SocketType::SEQPACKET)
        && getpeername(socket).is_ok()
}

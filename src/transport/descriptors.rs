//! Bytes with descriptors over a Unix socket (unix(7), `SCM_RIGHTS`), as the migration socket takes them.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::cmsg_space;
use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Maximum number of descriptors with one message: Linux's limit (`SCM_MAX_FD`).
pub const DESCRIPTORS_MAX: usize = 253;

/// Sends all bytes, with the descriptors attached to the first. Blocks.
///
/// # Errors
/// Those of the socket; `InvalidInput` for more than [`DESCRIPTORS_MAX`] descriptors.
pub fn send(
    mut socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let sent = send_some(socket, bytes, descriptors, SendFlags::empty())?;
    // The descriptors are attached to the bytes that were sent, so the rest goes without.
    socket.write_all(&bytes[sent..])
}

/// Sends as many bytes as the socket takes without blocking, with the descriptors attached to the first, and returns
/// their number. If it is 0, the descriptors are not sent either.
///
/// # Errors
/// As of [`send`].
pub fn send_now(
    socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    match send_some(socket, bytes, descriptors, SendFlags::DONTWAIT) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        sent => sent,
    }
}

fn send_some(
    socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let parts = [IoSlice::new(bytes)];
    let flags = flags | SendFlags::NOSIGNAL;
    Ok(retry_on_intr(|| sendmsg(socket, &parts, &mut control, flags))?)
}

/// Receives bytes, and appends the descriptors that come with them. Returns 0 at the end of the stream. Blocks.
///
/// # Errors
/// Those of the socket.
pub fn receive(
    socket: &UnixStream,
    bytes: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = retry_on_intr(|| recvmsg(socket, &mut parts, &mut control, flags))?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(those) = message {
            descriptors.extend(those);
        }
    }
    Ok(received.bytes)
}

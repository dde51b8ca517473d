//! The Unix socket of the simulated host, and lines with descriptors on it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::cmsg_space;
use rustix::fs::{Mode, chmod};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect,
    recvmsg, sendmsg, socket_with,
};

/// Backlog of pending connections: Linux's upper limit (net.core.somaxconn).
const BACKLOG: i32 = 4096;

/// Upper bound of descriptors in one message: a page and a channel.
pub const FDS_MAX: usize = 2;

/// The descriptors that make a process a guest: the ring page's memory file, and the guest's end of the channel.
pub type GuestEnds = [OwnedFd; FDS_MAX];

/// Binds and listens at `path`; only the daemon's own user may connect.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let new = || socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let address = SocketAddrUnix::new(path)?;
    remove_stale(path, &new()?, &address)?;
    let listener = new()?;
    bind(&listener, &address)?;
    chmod(path, Mode::RUSR | Mode::WUSR)?; // No client can connect before listen(2).
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// Removes the file at `path` if it is a socket without a listener.
fn remove_stale(path: &Path, probe: &OwnedFd, address: &SocketAddrUnix) -> io::Result<()> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(_) => {}
    }
    match connect(probe, address) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path),
        Ok(()) | Err(Errno::AGAIN) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) => Err(error.into()),
    }
}

/// Sends bytes, with at most [`FDS_MAX`] descriptors attached to the first of them. Never blocks.
pub fn send_with(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let parts = [IoSlice::new(bytes)];
    Ok(retry_on_intr(|| sendmsg(socket, &parts, &mut control, flags))?)
}

/// Receives bytes, blocking unless the socket is non-blocking, and returns their count; 0 means end of stream.
/// Appends the descriptors that came with them to `fds`, at most [`FDS_MAX`]; the kernel closes the others.
pub fn receive_with(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = retry_on_intr(|| recvmsg(socket, &mut parts, &mut control, flags))?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(got.bytes)
}

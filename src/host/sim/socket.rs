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

/// Connections that wait to be accepted: what Linux grants at most (net.core.somaxconn).
const BACKLOG: i32 = 4096;

/// Descriptors in one message, at most: a page and a channel.
pub const FDS_MAX: usize = 2;

/// The descriptors that make a process a guest: the ring page's memory file, and its end of the
/// channel.
pub type GuestEnds = [OwnedFd; FDS_MAX];

/// Binds and listens at `path`; only our own user may connect.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let new = || socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let address = SocketAddrUnix::new(path)?;
    remove_stale(path, &new()?, &address)?;
    let listener = new()?;
    bind(&listener, &address)?;
    chmod(path, Mode::RUSR | Mode::WUSR)?; // Nobody can connect before listen(2).
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// Makes way for a new socket if the file is one that nobody serves.
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

/// Sends bytes, and at most [`FDS_MAX`] descriptors with the first of them. Never waits.
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

/// Waits for bytes, unless the socket does not block; adds the descriptors that came with them to
/// `fds`, at most [`FDS_MAX`]: the kernel closes the others. 0 is the end.
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

//! Messages with descriptors on a blocking socket.

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::cmsg_space;
use rustix::io::retry_on_intr;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::protocol::{Frame, Header, MESSAGE_BYTES_MAX, frame};

/// Maximum number of descriptors with one message: Linux's limit (`SCM_MAX_FD`).
const DESCRIPTORS_MAX: usize = 253;

/// A request as received.
pub struct Request {
    /// The header of the request.
    pub header: Header,
    /// The payload, without the header.
    pub payload: Vec<u8>,
    /// The descriptors sent with the request.
    pub descriptors: Vec<OwnedFd>,
}

/// Blocks until a request arrives; returns `None` at the end of stream.
///
/// # Errors
/// Those of the socket; `InvalidData` for a malformed message, or for more than one at a time.
pub fn receive(socket: &UnixStream) -> io::Result<Option<Request>> {
    let (mut bytes, mut len) = ([0; MESSAGE_BYTES_MAX], 0);
    let mut descriptors = Vec::new();
    loop {
        match frame(&bytes[..len]) {
            Frame::Message { header, payload, rest: [] } => {
                let (header, payload) = (*header, payload.to_vec());
                return Ok(Some(Request { header, payload, descriptors }));
            }
            Frame::Incomplete(_) => {}
            Frame::TooLong(_) | Frame::Message { .. } => {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        match receive_some(socket, &mut bytes[len..], &mut descriptors)? {
            0 if len == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => len += more,
        }
        if descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

fn receive_some(
    socket: &UnixStream,
    bytes: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = retry_on_intr(|| recvmsg(socket.as_fd(), &mut parts, &mut control, flags))?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(those) = message {
            descriptors.extend(those);
        }
    }
    Ok(received.bytes)
}

/// Sends messages, and blocks until the socket has accepted them.
///
/// # Errors
/// Those of the socket.
pub fn send(mut socket: &UnixStream, message: &[u8]) -> io::Result<()> {
    socket.write_all(message)
}

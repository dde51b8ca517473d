//! Messages with descriptors on a blocking socket. The client socket takes no descriptors: there every read would have
//! to be a recvmsg(2).

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use crate::protocol::{Frame, Header, MESSAGE_BYTES_MAX, frame};
use crate::transport::descriptors::{self, DESCRIPTORS_MAX};

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
    let mut received = Vec::new();
    loop {
        match frame(&bytes[..len]) {
            // A connection has one request in flight (docs/MIGRATION.md), so nothing may follow it.
            Frame::Message { header, payload, rest: [] } => {
                let (header, payload) = (*header, payload.to_vec());
                return Ok(Some(Request { header, payload, descriptors: received }));
            }
            Frame::Incomplete(_) => {}
            Frame::TooLong(_) | Frame::Message { .. } => {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        match descriptors::receive(socket, &mut bytes[len..], &mut received)? {
            0 if len == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => len += more,
        }
        // Each receive may add descriptors, so their sum is compared.
        if received.len() > DESCRIPTORS_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// Sends messages, and blocks until the socket has accepted them.
///
/// # Errors
/// Those of the socket.
pub fn send(mut socket: &UnixStream, message: &[u8]) -> io::Result<()> {
    socket.write_all(message)
}

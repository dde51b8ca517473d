//! A client's part of the protocol: requests as bytes, and messages in the bytes that a daemon sent. `xenstored sim
//! guest`, `xsctl` and the load generator share it; the tests of the wire have a coder of their own.

use std::io;

use zerocopy::IntoBytes;

use super::frame::{Frame, HEADER_BYTES, Header, frame};
use super::operations::{ERROR, WATCH_EVENT};

/// Appends a request to `out`. `kind` is an [`Operation`](super::Operation), or any number for a message that the table
/// of operations lacks. A daemon closes the connection at a payload beyond
/// [`REQUEST_PAYLOAD_BYTES_MAX`](super::REQUEST_PAYLOAD_BYTES_MAX).
pub fn append_request(
    out: &mut Vec<u8>,
    kind: impl Into<u32>,
    req_id: u32,
    tx_id: u32,
    payload: &[u8],
) {
    let (kind, len) = (kind.into(), u32::try_from(payload.len()).unwrap_or(u32::MAX));
    let [kind, req_id, tx_id, len] = [kind, req_id, tx_id, len].map(u32::into);
    let header = Header { kind, req_id, tx_id, len };
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(payload);
}

/// Returns a request outside transactions as bytes.
pub fn request(kind: impl Into<u32>, req_id: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
    append_request(&mut out, kind, req_id, 0, payload);
    out
}

/// A message of a daemon: a reply or an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The number of the operation in a reply, or [`ERROR`] or [`WATCH_EVENT`].
    pub kind: u32,
    /// The id of the request.
    pub req_id: u32,
    /// The id of the transaction.
    pub tx_id: u32,
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Returns the payload of a reply.
    ///
    /// # Errors
    /// The name of the error that the reply is, without its NUL.
    pub fn outcome(&self) -> Result<&'a [u8], &'a [u8]> {
        match self.kind {
            ERROR => Err(self.payload.strip_suffix(b"\0").unwrap_or(self.payload)),
            _ => Ok(self.payload),
        }
    }

    /// Returns whether the message is an event, which belongs to no request.
    pub fn is_event(&self) -> bool {
        self.kind == WATCH_EVENT
    }
}

/// The bytes received from a daemon, from which messages are taken.
#[derive(Default)]
pub struct Input {
    bytes: Vec<u8>,
    taken: usize,
}

impl Input {
    /// Returns the buffer to which the caller appends received bytes. Cost: moves the bytes that are not taken.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        &mut self.bytes
    }

    /// Returns whether all bytes are taken.
    pub fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }

    /// Takes the next complete message, if there is one. Cost: constant.
    ///
    /// # Errors
    /// `InvalidData` if it exceeds the maximum length; the rest of the stream is unusable.
    pub fn take(&mut self) -> io::Result<Option<Message<'_>>> {
        match frame(&self.bytes[self.taken..]) {
            Frame::Incomplete(_) => Ok(None),
            Frame::TooLong(_) => Err(io::ErrorKind::InvalidData.into()),
            Frame::Message { header, payload, .. } => {
                self.taken += HEADER_BYTES + payload.len();
                let (kind, req_id, tx_id) =
                    (header.kind.get(), header.req_id.get(), header.tx_id.get());
                Ok(Some(Message { kind, req_id, tx_id, payload }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Operation;

    #[test]
    fn messages_are_taken_once_complete_and_in_order() {
        let mut sent = request(Operation::Read, 7, b"/a\0");
        append_request(&mut sent, ERROR, 8, 3, b"ENOENT\0");
        append_request(&mut sent, WATCH_EVENT, 0, 0, b"/a\0t\0");
        for step in [1, 5, sent.len()] {
            let (mut input, mut taken) = (Input::default(), Vec::new());
            for part in sent.chunks(step) {
                input.buffer().extend_from_slice(part);
                while let Some(message) = input.take().unwrap() {
                    let outcome = message.outcome().map_err(<[u8]>::to_vec);
                    let outcome = outcome.map(<[u8]>::to_vec);
                    taken.push((message.req_id, message.tx_id, message.is_event(), outcome));
                }
            }
            assert!(input.is_empty());
            let error = Err(b"ENOENT".to_vec());
            let event = Ok(b"/a\0t\0".to_vec());
            let read = Ok(b"/a\0".to_vec());
            assert_eq!(taken, [(7, 0, false, read), (8, 3, false, error), (0, 0, true, event)]);
        }
    }

    #[test]
    fn message_longer_than_the_maximum_is_an_error() {
        let mut input = Input::default();
        input.buffer().extend_from_slice(&request(Operation::Read, 0, &[0; 4097]));
        assert_eq!(input.take().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

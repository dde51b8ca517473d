//! Replies and events, written straight behind what is to be sent already.

use zerocopy::IntoBytes;

use super::frame::{HEADER_BYTES, Header};
use super::operations::{ERROR, WATCH_EVENT};
use crate::words::{Errno, PAYLOAD_BYTES_MAX};

/// A place for a reply whose payload is being written: the header goes in front of it at the end.
pub struct ReplySlot {
    start: usize,
    header: Header,
}

impl ReplySlot {
    /// Makes room in `out` for the header of the reply to `request`. The payload is then appended
    /// to `out`, and [`ReplySlot::finish`] completes it.
    pub fn begin(out: &mut Vec<u8>, request: &Header) -> ReplySlot {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        ReplySlot { start, header: *request }
    }

    /// Takes the reply back: it will come later.
    pub fn cancel(self, out: &mut Vec<u8>) {
        out.truncate(self.start);
    }

    /// Completes the reply: with the payload that was appended, or an error in its place. A payload
    /// too long for a reply becomes `E2BIG` (XSA-72). Answers where in `out` it begins.
    pub fn finish(mut self, out: &mut Vec<u8>, result: Result<(), Errno>) -> usize {
        let payload = self.start + HEADER_BYTES;
        let result = match result {
            Ok(()) if out.len() - payload > PAYLOAD_BYTES_MAX => Err(Errno::E2BIG),
            other => other,
        };
        if let Err(errno) = result {
            out.truncate(payload);
            out.extend_from_slice(errno.wire());
            self.header.kind.set(ERROR);
        }
        self.header.len.set(u32::try_from(out.len() - payload).unwrap_or(0));
        out[self.start..payload].copy_from_slice(self.header.as_bytes());
        self.start
    }
}

/// Appends a whole reply.
pub fn append_reply(out: &mut Vec<u8>, request: &Header, payload: &[u8]) {
    let slot = ReplySlot::begin(out, request);
    out.extend_from_slice(payload);
    slot.finish(out, Ok(()));
}

/// Appends an error reply.
pub fn append_error(out: &mut Vec<u8>, request: &Header, errno: Errno) {
    ReplySlot::begin(out, request).finish(out, Err(errno));
}

/// Appends an event (xenstore.txt, WATCH_EVENT): its req_id and tx_id are 0. Answers `false`,
/// having appended nothing, if it would be longer than a message may be: such an event is dropped
/// (XSA-324).
pub fn append_event(out: &mut Vec<u8>, path: &[u8], token: &[u8]) -> bool {
    let len = path.len() + token.len() + 2;
    if len > PAYLOAD_BYTES_MAX {
        return false;
    }
    let len = u32::try_from(len).unwrap_or(0).into();
    let header = Header { kind: WATCH_EVENT.into(), req_id: 0.into(), tx_id: 0.into(), len };
    out.extend_from_slice(header.as_bytes());
    for string in [path, token] {
        out.extend_from_slice(string);
        out.push(0);
    }
    true
}

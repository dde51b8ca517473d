//! Replies and events, appended directly to a connection's output buffer.

use zerocopy::IntoBytes;

use super::frame::{HEADER_BYTES, Header};
use super::operations::{ERROR, WATCH_EVENT};
use crate::types::{Errno, PAYLOAD_BYTES_MAX};

/// A reply under construction: its header is filled in once the payload is complete.
pub struct ReplySlot {
    start: usize,
    header: Header,
}

impl ReplySlot {
    /// Reserves space in `out` for the header of the reply to `request`. The caller then appends the payload to `out`
    /// and calls [`ReplySlot::finish`].
    pub fn begin(out: &mut Vec<u8>, request: &Header) -> ReplySlot {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        ReplySlot { start, header: *request }
    }

    /// Removes the reply from `out`, because it will be sent later.
    pub fn cancel(self, out: &mut Vec<u8>) {
        out.truncate(self.start);
    }

    /// Completes the reply, with the appended payload or with an error in its place. A payload too long for a reply
    /// becomes `E2BIG` (XSA-72). Returns the offset of the reply in `out`.
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

/// Appends a complete reply; a payload too long for a reply becomes `E2BIG`.
pub fn append_reply(out: &mut Vec<u8>, request: &Header, payload: &[u8]) {
    let slot = ReplySlot::begin(out, request);
    out.extend_from_slice(payload);
    slot.finish(out, Ok(()));
}

/// Appends an error reply.
pub fn append_error(out: &mut Vec<u8>, request: &Header, errno: Errno) {
    ReplySlot::begin(out, request).finish(out, Err(errno));
}

/// Appends an event (xenstore.txt, WATCH_EVENT) with req_id and tx_id 0. If the event would exceed the maximum payload,
/// appends nothing and returns `false`: the event is dropped (XSA-324).
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

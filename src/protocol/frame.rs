//! Message framing of a byte stream.

use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Size of a header in bytes.
pub const HEADER_BYTES: usize = 16;
/// Maximum payload of a request in bytes (xs_wire.h, `XENSTORE_PAYLOAD_MAX`); a longer one ends the connection.
pub const REQUEST_PAYLOAD_BYTES_MAX: usize = 4096;
/// Maximum size of any message in bytes, header included.
pub const MESSAGE_BYTES_MAX: usize = HEADER_BYTES + REQUEST_PAYLOAD_BYTES_MAX;

/// A message header (xs_wire.h, `struct xsd_sockmsg`). Little-endian, like every machine that runs Xen.
/// Unaligned, as a message begins at any byte of a stream.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// The operation, or the type of the reply.
    pub kind: U32,
    /// The client's request id, echoed in the reply.
    pub req_id: U32,
    /// The transaction id, 0 for none, echoed in the reply.
    pub tx_id: U32,
    /// Length of the payload that follows, in bytes.
    pub len: U32,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

/// The result of parsing the start of a stream.
#[derive(Debug)]
pub enum Frame<'a> {
    /// An incomplete message, and the minimum number of bytes that it will have.
    Incomplete(usize),
    /// The header of a payload of this length, which exceeds the maximum. The stream is unusable from here on.
    TooLong(u32),
    /// A complete message.
    Message {
        /// The message's header.
        header: &'a Header,
        /// The message's payload.
        payload: &'a [u8],
        /// The rest of the stream after the message.
        rest: &'a [u8],
    },
}

/// Parses the first message of `stream` without copying. Cost: constant.
pub fn frame(stream: &[u8]) -> Frame<'_> {
    let Ok((header, rest)) = Header::ref_from_prefix(stream) else {
        return Frame::Incomplete(HEADER_BYTES);
    };
    // Lengths are unsigned: one of 1 to 4 GiB is too long, never negative (XSA-420).
    let len = match usize::try_from(header.len.get()) {
        Ok(len) if len <= REQUEST_PAYLOAD_BYTES_MAX => len,
        _ => return Frame::TooLong(header.len.get()),
    };
    match rest.split_at_checked(len) {
        Some((payload, rest)) => Frame::Message { header, payload, rest },
        None => Frame::Incomplete(HEADER_BYTES + len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_parsed_once_it_is_complete() {
        let mut stream = vec![2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0];
        stream.extend(b"/a\0rest");
        for end in 0..HEADER_BYTES {
            assert!(matches!(frame(&stream[..end]), Frame::Incomplete(HEADER_BYTES)));
        }
        for end in HEADER_BYTES..HEADER_BYTES + 3 {
            assert!(matches!(frame(&stream[..end]), Frame::Incomplete(19)));
        }
        let Frame::Message { header, payload, rest } = frame(&stream) else { panic!("no message") };
        assert_eq!((header.kind.get(), header.req_id.get()), (2, 7));
        assert_eq!((payload, rest), (&b"/a\0"[..], &b"rest"[..]));
    }

    #[test]
    fn xsa_420_no_length_is_negative() {
        for len in [4097u32, 0x4000_0000, 0x8000_0000, u32::MAX] {
            let mut stream = vec![0; 12];
            stream.extend(len.to_le_bytes());
            stream.extend([0; 64]);
            assert!(matches!(frame(&stream), Frame::TooLong(found) if found == len));
        }
    }
}

//! Finding messages in a stream of bytes.

use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Size of a header.
pub const HEADER_BYTES: usize = 16;
/// Longest payload of a request (xs_wire.h, `XENSTORE_PAYLOAD_MAX`); a longer one ends the connection.
pub const REQUEST_PAYLOAD_BYTES_MAX: usize = 4096;
/// Longest message.
pub const MESSAGE_BYTES_MAX: usize = HEADER_BYTES + REQUEST_PAYLOAD_BYTES_MAX;

/// A message's header (xs_wire.h, `struct xsd_sockmsg`). Every machine that Xen runs on is
/// little-endian.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// The operation, or what kind of reply it is.
    pub kind: U32,
    /// The client's number for the request; echoed.
    pub req_id: U32,
    /// The transaction, 0 for none; echoed.
    pub tx_id: U32,
    /// Bytes of payload that follow.
    pub len: U32,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

/// What a stream begins with.
#[derive(Debug)]
pub enum Frame<'a> {
    /// Not a whole message yet. So many bytes it will have, as far as is known.
    Incomplete(usize),
    /// A payload of this length, longer than any may be: the stream cannot be followed any further.
    TooLong(u32),
    /// A message, and what comes after it.
    Message {
        /// Its header.
        header: &'a Header,
        /// Its payload.
        payload: &'a [u8],
        /// The rest of the stream.
        rest: &'a [u8],
    },
}

/// Looks at the beginning of `stream`. Cost: constant.
pub fn frame(stream: &[u8]) -> Frame<'_> {
    let Ok((header, rest)) = Header::ref_from_prefix(stream) else {
        return Frame::Incomplete(HEADER_BYTES);
    };
    // As unsigned numbers: a length of 1 to 4 GiB is too long, never negative (XSA-420).
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
    fn a_message_is_found_as_soon_as_it_is_whole() {
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

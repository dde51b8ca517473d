//! The record that the design of 2020 adds to libxl's migration stream (docs/specs/libxl-migration-stream.pandoc):
//! 0x00000007, DOMAIN_XENSTORE_DATA. Each record holds one object.
//!
//! ```text
//! v8, in the stream's byte order; lengths without NUL; "|4" pads to a multiple of 4
//!     1 node         u32 1 | u32 path_len | path |4 u32 perms | { letter, 0, u16 domid }* | u32 value_len | value |4
//!     2 watch        u32 2 | u32 wpath_len | wpath |4 u32 token_len | token |4
//!     3 transaction  u32 3 | u32 tx_id
//! v6, read only; "0" is a NUL; a value runs to the end of the body
//!     1 node         u32 1 | path 0 | count 0 | { letter domid 0 }* | value
//!     2 watch        u32 2 | wpath 0 | token 0
//!     3 transaction  u32 3 | count 0 | { tx_id 0 }*
//! ```
//!
//! The format cannot hold a watch's depth, quotas, features, or data in transit to and from the domain, so its writer
//! must report them as lost.

use super::fields::{Body, Order, Sink, StreamError};
use super::record::read_perm;
use crate::types::{ABS_PATH_MAX, Entry};

/// The record type in libxl's stream; the first one that libxl does not use.
pub const DOMAIN_XENSTORE_DATA: u32 = 7;

const NODE: u32 = 1;
const WATCH: u32 = 2;
const TRANSACTION: u32 = 3;

/// The content of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// A node: path, permissions (the owner's first), value.
    Node(Vec<u8>, Vec<Entry>, Vec<u8>),
    /// A watch: path as written by the client, token.
    Watch(Vec<u8>, Vec<u8>),
    /// The ids of open transactions; exactly one in v8.
    Transactions(Vec<u32>),
}

/// Appends the body of a v8 record. Each transaction needs its own record: only the first id is written.
///
/// # Errors
/// A field is too long for its length field.
pub fn write_v8(data: &Data, order: Order, out: &mut Vec<u8>) -> Result<(), StreamError> {
    let mut sink = Sink::new(out, order);
    match data {
        Data::Node(path, perms, value) => {
            sink.u32(NODE);
            write_sized(path, "path length", &mut sink)?;
            sink.u32(size("perm count", perms.len())?);
            for entry in perms {
                sink.bytes(&[entry.access.letter(), 0]).u16(entry.domid.0);
            }
            write_sized(value, "value length", &mut sink)
        }
        Data::Watch(path, token) => {
            sink.u32(WATCH);
            write_sized(path, "wpath length", &mut sink)?;
            write_sized(token, "token length", &mut sink)
        }
        Data::Transactions(ids) => {
            sink.u32(TRANSACTION).u32(ids.first().copied().unwrap_or(0));
            Ok(())
        }
    }
}

/// Reads the body of a v8 record.
///
/// # Errors
/// The first error found in the body.
pub fn read_v8(bytes: &[u8], order: Order) -> Result<Data, StreamError> {
    let mut body = Body::new(bytes, order);
    let data = match body.u32("type")? {
        NODE => {
            let path = sized(&mut body, "path length")?;
            let count = body.u32("perm count")?;
            // Collected, not reserved: the count is the stream's, and a wrong one fails at the first missing entry.
            let perms = (0..count).map(|_| perm(&mut body)).collect::<Result<_, _>>()?;
            Data::Node(path, perms, sized(&mut body, "value length")?)
        }
        WATCH => Data::Watch(sized(&mut body, "wpath length")?, sized(&mut body, "token length")?),
        TRANSACTION => match body.u32("tx_id")? {
            0 => return Err(StreamError::Value("tx_id", 0)),
            id => Data::Transactions(vec![id]),
        },
        kind => return Err(StreamError::Value("type", kind.into())),
    };
    // libxl pads records to eight bytes; a length that includes the padding is accepted.
    if body.left() < 8 { Ok(data) } else { Err(StreamError::Surplus(body.left())) }
}

/// Returns whether a body is that of a v6 node, which has the path where v8 has a length. The path begins with a
/// slash and, read as a length, exceeds that of any path.
pub fn is_v6_node(bytes: &[u8], order: Order) -> bool {
    let mut body = Body::new(bytes, order);
    let (kind, len) = (body.u32("type"), body.u32("path length"));
    let is_length = len.is_ok_and(|len| usize::try_from(len).is_ok_and(|len| len <= ABS_PATH_MAX));
    kind == Ok(NODE) && bytes.get(4) == Some(&b'/') && !is_length
}

/// Reads the body of a v6 record: text, in the notation of xenstore.txt.
///
/// # Errors
/// The first error found in the body.
pub fn read_v6(bytes: &[u8], order: Order) -> Result<Data, StreamError> {
    let mut body = Body::new(bytes, order);
    match body.u32("type")? {
        NODE => {
            let path = body.string_to_nul("path")?.to_vec();
            let count = number(&mut body, "perm-count")?;
            let perms = (0..count).map(|_| entry(&mut body)).collect::<Result<_, _>>()?;
            // The value is binary data (xenstore.txt, `<foo|>`), so a NUL at its end belongs to it. The body ends at
            // the record's length, which does not include the padding.
            let value = body.take(body.left(), "value")?.to_vec();
            Ok(Data::Node(path, perms, value))
        }
        WATCH => {
            let path = body.string_to_nul("path")?.to_vec();
            let token = body.string_to_nul("token")?.to_vec();
            ended(&body, Data::Watch(path, token))
        }
        TRANSACTION => {
            let count = number(&mut body, "transid-count")?;
            let id = |_| match number(&mut body, "transid")? {
                0 => Err(StreamError::Value("transid", 0)),
                id => Ok(id),
            };
            let ids = (0..count).map(id).collect::<Result<_, _>>()?;
            ended(&body, Data::Transactions(ids))
        }
        kind => Err(StreamError::Value("type", kind.into())),
    }
}

fn ended(body: &Body<'_>, data: Data) -> Result<Data, StreamError> {
    if body.left() == 0 { Ok(data) } else { Err(StreamError::Surplus(body.left())) }
}

fn write_sized(bytes: &[u8], field: &'static str, sink: &mut Sink<'_>) -> Result<(), StreamError> {
    sink.u32(size(field, bytes.len())?).bytes(bytes).align(4);
    Ok(())
}

fn sized(body: &mut Body<'_>, field: &'static str) -> Result<Vec<u8>, StreamError> {
    let len = usize::try_from(body.u32(field)?).unwrap_or(usize::MAX);
    let bytes = body.take(len, field)?.to_vec();
    body.align(4)?;
    Ok(bytes)
}

/// Reads a v8 permission. In place of the flags of a "xenstore" stream it has 0, so it cannot mark an entry as
/// ignored; any other value there has no known meaning and is rejected.
fn perm(body: &mut Body<'_>) -> Result<Entry, StreamError> {
    match read_perm(body)? {
        (entry, 0) => Ok(entry),
        (_, other) => Err(StreamError::Value("byte after perm", other.into())),
    }
}

fn size(field: &'static str, len: usize) -> Result<u32, StreamError> {
    u32::try_from(len).map_err(|_| StreamError::Value(field, len as u64))
}

fn entry(body: &mut Body<'_>) -> Result<Entry, StreamError> {
    let text = body.string_to_nul("perm-as-string")?;
    Entry::parse(text).map_err(|_| StreamError::Value("perm-as-string", 0))
}

fn number(body: &mut Body<'_>, field: &'static str) -> Result<u32, StreamError> {
    let digits = body.string_to_nul(field)?;
    let digits = std::str::from_utf8(digits).map_err(|_| StreamError::Unterminated(field))?;
    digits.parse().map_err(|_| StreamError::Value(field, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Access, Domid};

    fn entry(letter: u8, domid: u16) -> Entry {
        Entry { domid: Domid(domid), access: Access::from_letter(letter).unwrap(), ignored: false }
    }

    fn samples() -> [Data; 3] {
        [
            Data::Node(b"/a/bc".into(), vec![entry(b'n', 0), entry(b'r', 7)], b"v\0w".into()),
            Data::Watch(b"device".into(), b"t k".into()),
            Data::Transactions(vec![9]),
        ]
    }

    #[test]
    fn v8_records_round_trip_in_both_byte_orders() {
        for (data, order) in
            samples().iter().flat_map(|data| [(data, Order::Little), (data, Order::Big)])
        {
            let mut out = Vec::new();
            write_v8(data, order, &mut out).unwrap();
            assert_eq!(out.len() % 4, 0);
            assert_eq!(read_v8(&out, order).as_ref(), Ok(data));
            for cut in 0..out.len() {
                assert!(read_v8(&out[..cut], order).is_err(), "{data:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn v8_node_layout_matches_the_design() {
        let mut out = Vec::new();
        write_v8(&samples()[0], Order::Little, &mut out).unwrap();
        let expected = b"\x01\0\0\0\x05\0\0\0/a/bc\0\0\0\x02\0\0\0n\0\0\0r\0\x07\0\x03\0\0\0v\0w\0";
        assert_eq!(out, expected);
    }

    #[test]
    fn permission_with_flags_is_refused() {
        let mut out = Vec::new();
        write_v8(&samples()[0], Order::Little, &mut out).unwrap();
        let after_letter = out.windows(2).position(|pair| pair == b"n\0").unwrap() + 1;
        for flags in [1, 2, 0xff] {
            out[after_letter] = flags;
            let refused = Err(StreamError::Value("byte after perm", flags.into()));
            assert_eq!(read_v8(&out, Order::Little), refused);
        }
    }

    #[test]
    fn v6_value_is_the_rest_of_the_body_including_nuls() {
        for value in [&b""[..], b"\0", b"\0\0\0", b"v", b"v\0", b"\0v\0w\0\0"] {
            let body = [b"\x01\0\0\0/a\x001\0n0\0", value].concat();
            let node = Data::Node(b"/a".into(), vec![entry(b'n', 0)], value.into());
            assert_eq!(read_v6(&body, Order::Little), Ok(node), "{value:?}");
            assert!(is_v6_node(&body, Order::Little));
        }
    }

    #[test]
    fn v6_and_v8_nodes_are_distinguished_at_any_length() {
        // A length of 47 bytes contains a slash (0x2f).
        for len in [1, 46, 47, 48, 303, 0xb2f, ABS_PATH_MAX] {
            let path = [&b"/"[..], &vec![b'a'; len - 1]].concat();
            let node = Data::Node(path.clone(), vec![entry(b'n', 0)], Vec::new());
            for order in [Order::Little, Order::Big] {
                let mut v8 = Vec::new();
                write_v8(&node, order, &mut v8).unwrap();
                let v6 = [&order.u32(NODE)[..], &path, b"\x001\0n0\0"].concat();
                assert_eq!(read_v6(&v6, order).as_ref(), Ok(&node));
                assert!(!is_v6_node(&v8, order), "{len} {order:?}");
                assert!(is_v6_node(&v6, order), "{len} {order:?}");
            }
        }
    }

    #[test]
    fn v6_records_are_read() {
        let [node, watch, _] = samples();
        let read = |bytes| read_v6(bytes, Order::Little);
        assert_eq!(read(b"\x01\0\0\0/a/bc\x002\0n0\0r7\0v\0w"), Ok(node));
        assert_eq!(read(b"\x02\0\0\0device\0t k\0"), Ok(watch));
        assert_eq!(read(b"\x03\0\0\x002\x005\x009\0"), Ok(Data::Transactions(vec![5, 9])));
        assert_eq!(read(b"\x03\0\0\x002\x005\0"), Err(StreamError::Unterminated("transid")));
        assert_eq!(read(b"\x03\0\0\x001\x000\0"), Err(StreamError::Value("transid", 0)));
        assert!(read(b"\x01\0\0\0/a\x009999999999\0").is_err());
        assert_eq!(
            read(b"\x01\0\0\0/a\x001\0n0"),
            Err(StreamError::Unterminated("perm-as-string"))
        );
        assert!(read(b"\x02\0\0\0device\0t k\0x").is_err());
    }
}

//! A domain as records of libxl's migration stream (docs/specs/libxl-migration-stream.pandoc): the header, a
//! DOMAIN_XENSTORE_DATA for each node, watch and transaction, END.
//!
//! ```text
//!      0       4       8       12      16     0       4       8
//!     +-------+-------+-------+-------+      +-------+-------+--------- - - -+-----------+
//!     | "LibxlFmt"    |version|options|      | type  | length| body          | 0 to a    |
//!     +-------+-------+-------+-------+      |       |       | (length bytes)| multiple  |
//!      big-endian; options 1: records are    +-------+-------+--------- - - -+ of 8 -----+
//! ```

use std::fs::File;
use std::io::{self, Seek, Write};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::migration::stream::fields::{Body, Order, Sink, StreamError};
use crate::migration::stream::libxl_record::{
    DOMAIN_XENSTORE_DATA, Data, is_v6_node, read_v6, read_v8, write_v8,
};
use crate::migration::stream::state::{Client, State};
use crate::migration::stream::{Connection, Node, Record, Transport, VERSION, Watch, Writer};
use crate::types::Domid;

const IDENT: [u8; 8] = *b"LibxlFmt";
const LIBXL_VERSION: u32 = 2;
/// `options`: the records are big-endian.
const OPTION_BIG_ENDIAN: u32 = 1;
/// `options`: converted by a tool from a stream of a Xen before 4.6.
const OPTION_CONVERTED: u32 = 2;
const END: u32 = 0;
/// A record without a body. libxc's image of the domain follows, in records of the same form as libxl's.
const LIBXC_CONTEXT: u32 = 1;
/// Size of libxc's headers (docs/specs/libxc-migration-stream.pandoc): the image header, whose 17th and 18th bytes are
/// `options` as above, and the domain header.
const LIBXC_HEADER_BYTES: usize = 24 + 16;

/// Creates a file in memory.
pub fn memory() -> io::Result<File> {
    Ok(File::from(memfd_create("xsctl", MemfdFlags::CLOEXEC)?))
}

/// Creates a file in memory with these bytes, positioned at its start.
pub fn filled(bytes: &[u8]) -> io::Result<File> {
    let mut file = memory()?;
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// Encodes a domain's state. Also returns descriptions of the contents that the format cannot represent.
///
/// # Errors
/// A field is longer than its length field can encode.
pub fn write(state: &State, domid: Domid) -> Result<(Vec<u8>, Vec<String>), StreamError> {
    let mut out = IDENT.to_vec();
    out.extend([LIBXL_VERSION.to_be_bytes(), 0u32.to_be_bytes()].concat());
    let (mut stale, mut deep) = (0, 0);
    for node in state.nodes.values() {
        let perms: Vec<_> = node.perms.iter().filter(|entry| !entry.ignored).copied().collect();
        stale += node.perms.len() - perms.len();
        append(&Data::Node(node.path.clone(), perms, node.value.clone()), &mut out)?;
    }
    let client = state.client_of(domid);
    for watch in client.iter().flat_map(|client| &client.watches) {
        deep += usize::from(watch.depth.is_some());
        append(&Data::Watch(watch.path.clone(), watch.token.clone()), &mut out)?;
    }
    for &tx_id in client.iter().flat_map(|client| client.transactions.keys()) {
        append(&Data::Transactions(vec![tx_id]), &mut out)?;
    }
    record(END, &[], &mut out)?;
    let counted = [
        (stale, ["stale permission", "stale permissions"]),
        (deep, ["depth of a watch", "depths of watches"]),
        (state.domains.get(&domid).map_or(0, |domain| domain.quotas.len()), ["quota", "quotas"]),
        (
            client.map_or(0, |client| client.connection.input.len()),
            ["byte of a request", "bytes of requests"],
        ),
        (
            client.map_or(0, |client| client.connection.output.len()),
            ["byte of a reply or event", "bytes of replies and events"],
        ),
    ];
    let counted = counted.iter().filter(|(count, _)| *count > 0);
    let say = |(count, [one, many]): &(usize, [&str; 2])| {
        format!("{count} {}", if *count == 1 { one } else { many })
    };
    let mut left_out: Vec<_> = counted.map(say).collect();
    if state.domains.get(&domid).is_some_and(|domain| domain.features.is_some()) {
        left_out.push("the features".into());
    }
    if client.is_some_and(has_target) {
        left_out.push("the target".into());
    }
    Ok((out, left_out))
}

fn has_target(client: &Client) -> bool {
    matches!(client.connection.transport, Transport::Ring(_, Some(_), _))
}

fn append(data: &Data, out: &mut Vec<u8>) -> Result<(), StreamError> {
    let mut body = Vec::new();
    write_v8(data, Order::Little, &mut body)?;
    record(DOMAIN_XENSTORE_DATA, &body, out)
}

fn record(kind: u32, body: &[u8], out: &mut Vec<u8>) -> Result<(), StreamError> {
    let len = u32::try_from(body.len()).map_err(|_| StreamError::TooLong(u32::MAX))?;
    Sink::new(out, Order::Little).u32(kind).u32(len).bytes(body).align(8);
    Ok(())
}

/// Converts such records, also those of version 6 of the design, to a "xenstore" stream of a domain. Skips libxl's
/// other records. The version is determined by the nodes; without nodes, by the first version as which all records
/// parse.
///
/// # Errors
/// The defect, its offset, and the version as which the file was read.
pub fn read(bytes: &[u8], domid: Domid) -> Result<Vec<u8>, String> {
    let (order, bodies) = bodies(bytes).map_err(|(at, fault)| format!("at byte {at}: {fault}"))?;
    let all = |version: u8, read: fn(&[u8], Order) -> Result<Data, StreamError>| {
        let of_one = |(at, body): &(usize, &[u8])| {
            read(body, order).map_err(|fault| {
                format!("record at byte {at}, of version {version} of the design: {fault}")
            })
        };
        bodies.iter().map(of_one).collect::<Result<Vec<_>, _>>()
    };
    let data = if bodies.iter().any(|(_, body)| is_v6_node(body, order)) {
        all(6, read_v6)?
    } else {
        all(8, read_v8).or_else(|error| all(6, read_v6).map_err(|_| error))?
    };
    stream(data, domid).map_err(|error| error.to_string())
}

/// Bodies of records with the offsets of the records.
type Bodies<'b> = Vec<(usize, &'b [u8])>;

/// Returns the DOMAIN_XENSTORE_DATA records and their byte order.
fn bodies(bytes: &[u8]) -> Result<(Order, Bodies<'_>), (usize, StreamError)> {
    let mut header = Body::new(bytes, Order::Big);
    let begins = header.take(IDENT.len(), "ident").is_ok_and(|ident| ident == IDENT);
    if !begins {
        let begins = &bytes[..bytes.len().min(IDENT.len())];
        return Err((0, StreamError::NotAStream("libxl stream", begins.into())));
    }
    let of_header = |fault| (8, fault);
    match header.u32("version").map_err(of_header)? {
        LIBXL_VERSION => {}
        other => return Err((8, StreamError::Version(other))),
    }
    let order = match header.u32("options").map_err(of_header)? & !OPTION_CONVERTED {
        0 => Order::Little,
        OPTION_BIG_ENDIAN => Order::Big,
        other => return Err((12, StreamError::Flags(other))),
    };
    let mut found = Vec::new();
    let mut rest = Body::new(&bytes[bytes.len() - header.left()..], order);
    loop {
        let at = bytes.len() - rest.left();
        let of_record = |_| (at, StreamError::Truncated);
        match next(&mut rest).map_err(of_record)? {
            (END, _) => return Ok((order, found)),
            (DOMAIN_XENSTORE_DATA, body) => found.push((at, body)),
            (LIBXC_CONTEXT, _) => {
                let image = &bytes[bytes.len() - rest.left()..];
                let len = skip_image(image).map_err(|fault| (at, fault))?;
                rest.take(len, "image").map_err(of_record)?;
            }
            _ => {}
        }
    }
}

/// Reads a record's type and body.
fn next<'b>(records: &mut Body<'b>) -> Result<(u32, &'b [u8]), StreamError> {
    let kind = records.u32("type")?;
    let len = usize::try_from(records.u32("length")?).unwrap_or(usize::MAX);
    let body = records.take(len, "body")?;
    records.align(8)?;
    Ok((kind, body))
}

/// Returns the length of libxc's image.
fn skip_image(bytes: &[u8]) -> Result<usize, StreamError> {
    let mut image = Body::new(bytes, Order::Big);
    let headers = image.take(LIBXC_HEADER_BYTES, "headers")?;
    if !headers.starts_with(&[0xff; 8]) {
        return Err(StreamError::NotAStream("libxc image", headers[..8].into()));
    }
    let order = if headers[17] & 1 == 0 { Order::Little } else { Order::Big };
    let mut records = Body::new(&bytes[LIBXC_HEADER_BYTES..], order);
    while next(&mut records)?.0 != END {}
    Ok(bytes.len() - records.left())
}

fn stream(data: Vec<Data>, domid: Domid) -> io::Result<Vec<u8>> {
    let id = u32::from(domid.0);
    let mut writer = Writer::new(Vec::new(), VERSION, Order::Little)?;
    writer.write(&Record::Connection(Connection {
        id,
        // The format does not contain the event channel.
        transport: Transport::Ring(domid, None, 0),
        input: Vec::new(),
        output_begun: 0,
        output: Vec::new(),
        unique_id: None,
    }))?;
    let (mut nodes, mut others) = (Vec::new(), Vec::new());
    for data in data {
        match data {
            Data::Node(path, perms, value) => {
                nodes.push(Node { pending: None, path, value, perms });
            }
            Data::Watch(path, token) => {
                let watch = Watch { connection: id, path, token, depth: None };
                others.push(Record::Watch(watch));
            }
            Data::Transactions(ids) => {
                let transaction = |tx_id| Record::Transaction { connection: id, tx_id };
                others.extend(ids.into_iter().map(transaction));
            }
        }
    }
    // The format has no order; in the stream a node must follow its parent.
    nodes.sort_by(|a, b| a.path.cmp(&b.path));
    nodes.into_iter().try_for_each(|node| writer.write(&Record::Node(node)))?;
    others.iter().try_for_each(|record| writer.write(record))?;
    writer.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::stream::Reader;
    use crate::types::Entry;

    fn sample() -> Vec<u8> {
        let node = |path: &str, value: &str| {
            let perms = [&b"n5"[..], b"r0"].map(|text| Entry::parse(text).unwrap()).to_vec();
            Data::Node(path.into(), perms, value.into())
        };
        let data = vec![
            node("/local/domain/5/b", "\0of b"),
            node("/local/domain/5", ""),
            Data::Watch(b"b".into(), b"t".into()),
            Data::Transactions(vec![7, 9]),
        ];
        stream(data, Domid(5)).unwrap()
    }

    fn state(stream: &[u8]) -> State {
        State::read(&mut Reader::new(stream).unwrap()).unwrap()
    }

    #[test]
    fn written_records_are_read_back() {
        let (written, left_out) = write(&state(&sample()), Domid(5)).unwrap();
        assert_eq!(left_out, [""; 0]);
        assert_eq!(read(&written, Domid(5)).unwrap(), sample());
        for cut in 0..written.len() {
            assert!(read(&written[..cut], Domid(5)).is_err(), "cut at {cut}");
        }
    }

    fn file_of(bodies: &[&[u8]]) -> Vec<u8> {
        let mut out = [&IDENT[..], &LIBXL_VERSION.to_be_bytes(), &[0; 4]].concat();
        for body in bodies {
            record(DOMAIN_XENSTORE_DATA, body, &mut out).unwrap();
        }
        record(END, &[], &mut out).unwrap();
        out
    }

    const V6_ROOT: &[u8] = b"\x01\0\0\0/local/domain/5\x001\0n5\0";

    #[test]
    fn v6_values_keep_every_nul_and_no_padding() {
        for value in [&b""[..], b"\0", b"\0\0\0\0\0\0\0", b"v", b"v\0", b"\0v\0"] {
            let body = [V6_ROOT, value].concat();
            let read = state(&read(&file_of(&[&body]), Domid(5)).unwrap());
            let nodes: Vec<_> = read.nodes.values().map(|node| &node.value[..]).collect();
            assert_eq!(nodes, [value]);
        }
    }

    #[test]
    fn error_names_the_version_of_the_nodes() {
        let (mut v8, watch) = (Vec::new(), b"\x02\0\0\0a\0t");
        let perms = vec![Entry::parse(b"n5").unwrap()];
        let node = Data::Node(b"/local/domain/5".into(), perms, Vec::new());
        write_v8(&node, Order::Little, &mut v8).unwrap();
        for (root, version) in [(V6_ROOT, 6), (&v8[..], 8)] {
            for bodies in [[root, watch], [watch, root]] {
                let error = read(&file_of(&bodies), Domid(5)).unwrap_err();
                let said = format!(", of version {version} of the design: its ");
                assert!(error.contains(&said), "{error}");
            }
        }
        let error = read(&file_of(&[b"\x09\0\0\0"]), Domid(5)).unwrap_err();
        assert_eq!(error, "record at byte 16, of version 8 of the design: its type cannot be 9");
    }

    /// Any value of a length field yields an error or a parsed record.
    #[test]
    fn corrupted_file_never_panics() {
        let (written, _) = write(&state(&sample()), Domid(5)).unwrap();
        for at in 0..written.len() {
            for byte in [0, 1, 7, 0x7f, 0x80, 0xff] {
                let mut changed = written.clone();
                changed[at] = byte;
                let _ = read(&changed, Domid(5));
            }
        }
    }
}

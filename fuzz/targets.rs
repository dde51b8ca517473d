//! What must hold of everything that reads a client's bytes. Fuzzed by fuzz_targets, and run with
//! some random bytes by tests/fuzz.rs.

use xenstored::migration::store::place_domain::split_by_domain;
use xenstored::migration::stream::Reader;
use xenstored::migration::stream::fields::Order;
use xenstored::migration::stream::libxl_record;
use xenstored::migration::stream::state::State;
use xenstored::protocol::operations::{Form, Parser, TABLE, command};
use xenstored::protocol::{Frame, HEADER_BYTES, Operation, decimal, frame, one_string, strings};
use xenstored::types::{ABS_PATH_MAX, Domid, Entry, Layout, Path, PathSpace, REL_PATH_MAX};

/// A stream is cut into messages; each has its arguments read as every operation would.
pub fn stream(mut stream: &[u8]) {
    loop {
        match frame(stream) {
            Frame::Message { header, payload, rest } => {
                assert_eq!(HEADER_BYTES + payload.len() + rest.len(), stream.len());
                assert_eq!(header.len.get() as usize, payload.len());
                if let Some(kind) = Operation::from_wire(header.kind.get()) {
                    assert_eq!(kind as u32, header.kind.get());
                }
                arguments(payload);
                requests(payload);
                stream = rest;
            }
            Frame::Incomplete(len) => return assert!(len > stream.len()),
            Frame::TooLong(_) => return,
        }
    }
}

/// The payload is read as that of every operation.
fn requests(payload: &[u8]) {
    let words: Vec<_> = strings(payload).collect();
    for row in &TABLE {
        match row.parser {
            Parser::Payload(parse) => drop(parse(payload)),
            Parser::Arguments(parse) => {
                drop(parse(&words, Form::Strings));
                drop(parse(&words, Form::Text));
            }
            Parser::Migration(parse) => drop(parse(payload)),
        }
    }
    drop(command(&words));
}

fn arguments(payload: &[u8]) {
    let all: Vec<_> = strings(payload).collect();
    let bytes: usize = all.iter().map(|string| string.len() + 1).sum();
    assert!(bytes <= payload.len());
    assert_eq!(one_string(payload).is_ok(), all.len() == 1 && bytes == payload.len());
    for string in all {
        path(string);
        perms(string);
        if let Ok(number) = decimal::<u32>(string) {
            assert!(string.iter().all(u8::is_ascii_digit), "{string:?} is {number}");
        }
    }
}

/// A path is taken apart and put together again, and lies below its partition.
pub fn path(raw: &[u8]) {
    let mut space = PathSpace::new();
    let Ok(path) = Path::resolve(raw, Domid(7), REL_PATH_MAX, &mut space) else { return };
    assert!(path.bytes().len() <= ABS_PATH_MAX);
    assert_eq!(Path::parse(path.bytes()), Ok(path));
    let partition = Layout::new(3).partition(path);
    assert!(path.is_within(partition.root) && partition.shard.0 <= 3);
    if let Some(parent) = path.parent().filter(|_| !path.is_special()) {
        assert_eq!(parent.child(path.name()).as_path(), path);
        assert_eq!(parent.components().count() + 1, path.components().count());
    }
}

/// A permission entry is shown as it was written, but for leading zeros.
pub fn perms(text: &[u8]) {
    let Ok(entry) = Entry::parse(text) else { return };
    let shown = format!("{}{}", char::from(entry.access.letter()), entry.domid);
    let zeros = text[1..text.len() - 1].iter().take_while(|&&digit| digit == b'0').count();
    assert_eq!(shown.as_bytes(), [&text[..1], &text[1 + zeros..]].concat());
}

/// A "xenstore" stream says something as a whole or is refused; what it says of domains can be told
/// apart.
pub fn carried(stream: &[u8]) {
    let Ok(mut reader) = Reader::new(stream) else { return };
    let Ok(state) = State::read(&mut reader) else { return };
    let nodes = state.nodes.len();
    let (arrivals, left) = split_by_domain(state);
    let taken: usize = arrivals.iter().map(|arrival| arrival.nodes.len()).sum();
    assert_eq!(taken + left, nodes);
}

/// A record of libxl's is read, in the form of version 8 and written again alike.
pub fn libxl_record(bytes: &[u8]) {
    for order in [Order::Little, Order::Big] {
        let _ = libxl_record::read_v6(bytes, order);
        if let Ok(data) = libxl_record::read_v8(bytes, order) {
            let mut again = Vec::new();
            libxl_record::write_v8(&data, order, &mut again).unwrap();
            assert_eq!(libxl_record::read_v8(&again, order).as_ref(), Ok(&data));
        }
    }
}

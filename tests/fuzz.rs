//! The fuzz targets, with random input that resembles clients' messages.

#[path = "../fuzz/targets.rs"]
mod targets;

use proptest::collection::vec;
use proptest::prelude::*;
use xenstored::migration::stream::fields::Order;
use xenstored::migration::stream::libxl_record::{Data, write_v8};
use xenstored::types::Entry;

const GOLDEN: [&[u8]; 3] = [
    include_bytes!("golden/v1-big.stream"),
    include_bytes!("golden/v2-little.stream"),
    include_bytes!("golden/c-defects.stream"),
];

/// Generates payload bytes, most of them with a meaning in the protocol.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let meaningful = prop::sample::select(b"/@-_a0/57\0\0nrwb".to_vec());
    vec(prop_oneof![9 => meaningful, 1 => any::<u8>()], 0..40)
}

/// Generates messages, most of them with a correct length field.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let off = prop_oneof![8 => Just(0u32), 1 => 0..9u32, 1 => any::<u32>()];
    (0..30u32, payload(), off).prop_map(|(kind, payload, off)| {
        let len = u32::try_from(payload.len()).unwrap().wrapping_add(off);
        let header = [kind, 7, 0, len].map(u32::to_le_bytes).concat();
        [header, payload].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn messages_are_parsed_or_refused(messages in vec(message(), 0..5), cut in 0..60usize) {
        let mut stream = messages.concat();
        stream.truncate(stream.len().saturating_sub(cut / 3));
        targets::stream(&stream);
    }

    #[test]
    fn random_bytes_are_parsed_or_refused(stream in vec(any::<u8>(), 0..200)) {
        targets::stream(&stream);
    }

    #[test]
    fn paths_are_parsed_or_refused(
        raw in "[/@]?(local/domain/|libxl/|[a-z0-9]{1,3}/|/)?[a-z0-9/@_-]{0,30}",
    ) {
        targets::path(raw.as_bytes());
    }

    #[test]
    fn long_paths_are_parsed_or_refused(len in 2000..3100usize, absolute in any::<bool>()) {
        let mut raw = vec![b'a'; len];
        if absolute {
            raw[0] = b'/';
        }
        targets::path(&raw);
    }

    #[test]
    fn permissions_round_trip_or_are_refused(text in "[nrwbx]?[0-9+-]{0,7}") {
        targets::perms(text.as_bytes());
    }

    /// Golden streams, with some bytes changed or truncated.
    #[test]
    fn changed_golden_streams_are_parsed_or_refused(
        golden in prop::sample::select(&GOLDEN[..]),
        cut in any::<prop::sample::Index>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut stream = golden.to_vec();
        for (at, byte) in &changes {
            let at = at.index(stream.len());
            stream[at] = *byte;
        }
        if changes.len() > 2 {
            stream.truncate(cut.index(stream.len()));
        }
        targets::carried(&stream);
    }

    #[test]
    fn libxl_records_are_parsed_or_refused(
        kind in 0..5u8,
        len in 0..9u8,
        bytes in vec(prop_oneof![Just(0u8), any::<u8>()], 0..60),
    ) {
        let head = [kind, 0, 0, 0, len, 0, 0, 0];
        targets::libxl_record(&[&head[..], &bytes].concat());
        targets::libxl_record(&[&[0, 0, 0, kind][..], &bytes].concat());
    }

    /// A node's record with one byte changed: fully random bytes would rarely contain a valid permission.
    #[test]
    fn changed_libxl_nodes_are_parsed_or_refused(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        big in any::<bool>(),
    ) {
        let perms = [&b"n5"[..], b"r0"].map(|text| Entry::parse(text).unwrap()).to_vec();
        let node = Data::Node(b"/a/bc".into(), perms, b"v\0w".into());
        let mut record = Vec::new();
        write_v8(&node, if big { Order::Big } else { Order::Little }, &mut record).unwrap();
        let at = at.index(record.len());
        record[at] = byte;
        targets::libxl_record(&record);
    }
}

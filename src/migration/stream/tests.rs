use proptest::prelude::*;

use super::*;
use crate::migration::stream::digest::{Digest, TAIL_BYTES, ends_with_digest};
use crate::migration::stream::fields::{Order, StreamError};
use crate::types::{Access, Domid, Entry};

/// Returns a stream without a digest, as other programs write it.
fn stream(version: u32, order: Order, records: &[Record]) -> Vec<u8> {
    let mut bytes = with_digest(version, order, records);
    bytes.drain(bytes.len() - TAIL_BYTES..bytes.len() - 8);
    bytes
}

fn with_digest(version: u32, order: Order, records: &[Record]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), version, order).unwrap();
    records.iter().for_each(|record| writer.write(record).unwrap());
    writer.end().unwrap()
}

fn read_all(bytes: &[u8]) -> Result<Vec<Record>, ReadError> {
    let mut reader = Reader::new(bytes)?;
    let mut records = Vec::new();
    while let Some(record) = reader.next_record()? {
        records.push(record);
    }
    Ok(records)
}

fn fault(bytes: &[u8]) -> (u64, u64, StreamError) {
    match read_all(bytes) {
        Err(ReadError::Stream { record, offset, fault }) => (record, offset, fault),
        other => panic!("read: {other:?}"),
    }
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1u8.., 0..20)
}

fn quotas() -> impl Strategy<Value = Vec<QuotaValue>> {
    prop::collection::vec((text(), any::<u32>()), 0..4)
}

fn entry() -> impl Strategy<Value = Entry> {
    (prop::sample::select(&b"nrwb"[..]), any::<u16>(), any::<bool>()).prop_map(
        |(letter, domid, ignored)| Entry {
            access: Access::from_letter(letter).unwrap(),
            domid: Domid(domid),
            ignored,
        },
    )
}

fn connection() -> impl Strategy<Value = Connection> {
    let target = any::<u16>().prop_map(|domid| (domid != 0x7FF4).then_some(Domid(domid)));
    let transport = prop_oneof![
        (any::<u16>(), target, any::<u32>()).prop_map(|(domid, target, port)| Transport::Ring(
            Domid(domid),
            target,
            port
        )),
        any::<u32>().prop_map(Transport::Socket),
    ];
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    (1u32.., transport, bytes(), bytes(), any::<u16>(), any::<Option<u64>>()).prop_map(
        |(id, transport, input, output, begun, unique_id)| {
            let output_begun = u16::try_from(usize::from(begun) % (output.len() + 1)).unwrap();
            Connection { id, transport, input, output_begun, output, unique_id }
        },
    )
}

fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        any::<(i32, i32)>().prop_map(|(socket, evtchn)| Record::Global { socket, evtchn }),
        connection().prop_map(Record::Connection),
        (any::<u32>(), text(), text(), prop::option::of(..0xffffu16)).prop_map(
            |(connection, path, token, depth)| {
                Record::Watch(Watch { connection, path, token, depth })
            }
        ),
        any::<(u32, u32)>()
            .prop_map(|(connection, tx_id)| Record::Transaction { connection, tx_id }),
        (
            prop::option::of((1u32.., any::<u32>(), 0u16..4)),
            text(),
            prop::collection::vec(any::<u8>(), 0..20),
            prop::collection::vec(entry(), 0..4),
        )
            .prop_map(|(pending, path, value, perms)| {
                Record::Node(Node { pending, path, value, perms })
            }),
        (quotas(), quotas()).prop_map(|(domain, global)| Record::GlobalQuota(domain, global)),
        (any::<u16>(), any::<u32>(), quotas()).prop_map(|(domid, features, quotas)| {
            Record::Domain(Domain { domid: Domid(domid), features: Some(features), quotas })
        }),
    ]
}

fn order() -> impl Strategy<Value = Order> {
    prop::sample::select(&[Order::Little, Order::Big][..])
}

proptest! {
    #[test]
    fn written_records_are_read_back(records in prop::collection::vec(record(), 0..6), order in order()) {
        let read = read_all(&stream(2, order, &records)).unwrap();
        let (last, read) = read.split_last().unwrap();
        prop_assert_eq!(last, &Record::End);
        prop_assert_eq!(read, &records[..]);
        let read = contents(&with_digest(2, order, &records)).unwrap();
        prop_assert_eq!(&read[..read.len() - 1], &records[..]);
    }

    /// A truncated or changed stream yields an error or records within their limits.
    #[test]
    fn corrupted_stream_gives_an_error_or_valid_records(
        records in prop::collection::vec(record(), 1..4),
        order in order(),
        cut in any::<prop::sample::Index>(),
        changed in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut bytes = stream(2, order, &records);
        let whole = bytes.len();
        bytes.truncate(cut.index(whole + 1));
        if let Some((at, byte)) = changed.filter(|_| !bytes.is_empty()) {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let result = read_all(&bytes);
        if changed.is_none() {
            prop_assert_eq!(result.is_ok(), bytes.len() == whole);
        }
    }

    /// 256 streams, 40 flips of each.
    #[test]
    fn stream_with_a_flipped_bit_is_refused_or_reads_the_same(
        records in prop::collection::vec(record(), 0..6),
        version in 1..=VERSION,
        order in order(),
        flips in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let mut bytes = with_digest(version, order, &records);
        prop_assert!(ends_with_digest(bytes[bytes.len() - TAIL_BYTES..].try_into().unwrap()));
        let expected = contents(&bytes).unwrap();
        for flip in flips {
            let bit = flip.index(8 * bytes.len());
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = contents(&bytes) {
                prop_assert_eq!(&read, &expected, "bit {}", bit);
                prop_assert!(bit / 8 >= bytes.len() - TAIL_BYTES, "bit {} is covered", bit);
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

/// Returns the records that say something of a state.
fn contents(bytes: &[u8]) -> Result<Vec<Record>, ReadError> {
    let mut records = read_all(bytes)?;
    records.retain(|record| !matches!(record, Record::Digest(_) | Record::Unknown(_)));
    Ok(records)
}

#[test]
fn digest_is_the_record_before_end() {
    for order in [Order::Little, Order::Big] {
        let bytes = with_digest(1, order, &[watch(None)]);
        let records = read_all(&bytes).unwrap();
        let before = Digest::of_file(&bytes[..bytes.len() - TAIL_BYTES]).unwrap().0;
        assert_eq!(records, [watch(None), Record::Digest(before), Record::End]);
        let mut reader = Reader::new(&*bytes).unwrap();
        assert!(!reader.has_digest());
        while reader.next_record().unwrap().is_some() {}
        assert!(reader.has_digest());
    }
}

#[test]
fn truncated_stream_with_digest_is_refused_at_each_length() {
    let bytes = with_digest(2, Order::Little, &[watch(None), watch(Some(3))]);
    for len in 0..bytes.len() {
        read_all(&bytes[..len]).expect_err("it is truncated");
    }
}

#[test]
fn wrong_digest_is_an_error_of_its_record() {
    let mut bytes = with_digest(2, Order::Little, &[watch(None)]);
    bytes[24] ^= 2; // conn-id
    assert_eq!(fault(&bytes), (2, 40, StreamError::Digest(40)));
    // A record lost from the middle.
    let mut bytes = with_digest(2, Order::Little, &[watch(None), watch(None)]);
    bytes.drain(16..40);
    assert_eq!(fault(&bytes), (2, 40, StreamError::Digest(40)));
}

#[test]
fn record_after_the_digest_is_refused() {
    let mut bytes = with_digest(2, Order::Little, &[]);
    let record = bytes[16..40].to_vec();
    bytes.splice(40..40, record);
    let follows = StreamError::Contradicts("it follows the digest".into());
    assert_eq!(fault(&bytes), (2, 40, follows));
}

/// The last 8 bytes of the second record's length are the third's head.
#[test]
fn digest_covers_short_watch_records_of_c_once() {
    let mut bytes = stream(2, Order::Little, &[]);
    bytes.splice(16..16, short_extended("/a/b", "123"));
    let digest = Record::Digest(Digest::of_file(&bytes[..bytes.len() - 8]).unwrap().0);
    let mut record = Vec::new();
    append(&digest, 2, Order::Little, &mut record).unwrap();
    bytes.splice(bytes.len() - 8..bytes.len() - 8, record);
    assert_eq!(read_all(&bytes).unwrap().len(), 3);
    bytes[24] ^= 2;
    assert!(matches!(fault(&bytes).2, StreamError::Digest(_)));
}

fn watch(depth: Option<u16>) -> Record {
    Record::Watch(Watch { connection: 1, path: b"/a".into(), token: b"t".into(), depth })
}

#[test]
fn version_1_has_no_depth_and_no_features() {
    let domain = |features| Record::Domain(Domain { domid: Domid(3), features, quotas: vec![] });
    let bytes = stream(1, Order::Little, &[watch(Some(2)), domain(Some(7))]);
    assert_eq!(read_all(&bytes).unwrap(), [watch(None), domain(None), Record::End]);
}

/// With a longer length the next record would be sought 8 bytes later: behind a node's head, where it is END.
#[test]
fn counted_padding_that_moves_the_next_record_is_refused() {
    let mut bytes = stream(2, Order::Little, &[Record::Transaction { connection: 1, tx_id: 3 }]);
    bytes[20] = 10;
    assert_eq!(fault(&bytes), (1, 16, StreamError::Surplus(2)));
}

#[test]
fn counted_padding_of_c_xenstored_is_accepted() {
    let mut bytes = stream(2, Order::Little, &[watch(None)]);
    // conn-id, two lengths, "/a", "t": 13 bytes, which C xenstored counts as 16.
    assert_eq!(bytes[20], 13);
    bytes[20] = 16;
    assert_eq!(read_all(&bytes).unwrap(), [watch(None), Record::End]);
}

/// A watch with a depth as C xenstored writes it: without the depth, but with a length that includes it.
fn short_extended(path: &str, token: &str) -> Vec<u8> {
    let [plen, tlen] = [path, token].map(|text| u16::try_from(text.len() + 1).unwrap());
    let mut body = [&1u32.to_le_bytes()[..], &plen.to_le_bytes(), &tlen.to_le_bytes()].concat();
    body.extend(format!("{path}\0{token}\0").bytes());
    let claimed = u32::try_from(body.len() + 4).unwrap().next_multiple_of(8);
    body.resize(body.len().next_multiple_of(8), 0);
    [&kind::WATCH_DATA_EXTENDED.to_le_bytes()[..], &claimed.to_le_bytes(), &body].concat()
}

#[test]
fn short_watch_record_of_c_xenstored_is_read_without_depth() {
    for token in ["", "1", "12", "123", "1234", "12345", "123456", "1234567"] {
        let mut bytes = stream(2, Order::Little, &[]);
        let record = short_extended("/a/b", token);
        bytes.splice(16..16, [record.clone(), record].concat());
        let read = read_all(&bytes).unwrap_or_else(|error| panic!("{token}: {error}"));
        let expected = Record::Watch(Watch {
            connection: 1,
            path: b"/a/b".into(),
            token: token.into(),
            depth: None,
        });
        assert_eq!(read, [expected.clone(), expected, Record::End]);
    }
}

#[test]
fn unknown_records_are_skipped() {
    let mut bytes = stream(2, Order::Little, &[watch(None)]);
    bytes.splice(16..16, [&[99, 0, 0, 0, 3, 0, 0, 0][..], &[1; 8]].concat());
    assert_eq!(read_all(&bytes).unwrap(), [Record::Unknown(99), watch(None), Record::End]);
}

#[test]
fn errors_name_record_and_offset() {
    let bytes = stream(2, Order::Little, &[watch(None), watch(None)]);
    let cut = bytes.len() - 12;
    assert_eq!(fault(&bytes[..cut]), (2, 40, StreamError::Truncated));
    assert_eq!(fault(&bytes[..bytes.len() - 8]), (3, 64, StreamError::Truncated));
    let mut long = bytes.clone();
    long[47] = 0x7f;
    assert!(matches!(fault(&long), (2, 40, StreamError::TooLong(_))));
    let mut past = bytes.clone();
    past[28] = 200;
    assert_eq!(fault(&past), (1, 16, StreamError::PastTheEnd("wpath")));
    let other = |begins: &[u8]| StreamError::NotAStream("\"xenstore\" stream", begins.into());
    assert_eq!(fault(b"xenstor3\0\0\0\x02\0\0\0\0"), (0, 0, other(b"xenstor3")));
    assert_eq!(fault(b"xenst").2, other(b"xenst"));
    assert_eq!(fault(b"").2, other(b""));
    assert_eq!(fault(b"xenstore\0\0").2, StreamError::Truncated);
    assert_eq!(fault(b"xenstore\0\0\0\x03\0\0\0\0").2, StreamError::Version(3));
    assert_eq!(fault(b"xenstore\0\0\0\x02\0\0\0\x02").2, StreamError::Flags(2));
}

//! What a domain is after it arrived, beside what it was.

use xenstored::migrate::stream::{Connection, Reader, Record};

use super::moves::{each_pair, inhabit};
use super::*;

/// The header of a stream, which has one CONNECTION_DATA; that one; and the bytes of all other
/// records, in their order.
fn taken_apart(stream: &[u8]) -> (Connection, Vec<Vec<u8>>) {
    let number = |at: usize| u32::from_le_bytes(stream[at..at + 4].try_into().unwrap());
    let mut parts = vec![stream[..16].to_vec()];
    let mut at = 16;
    while at < stream.len() {
        let end = at + (8 + usize::try_from(number(at + 4)).unwrap()).next_multiple_of(8);
        if number(at) != 2 {
            parts.push(stream[at..end].to_vec());
        }
        at = end;
    }
    let mut reader = Reader::new(stream).unwrap();
    let mut connections = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        if let Record::Connection(connection) = record {
            connections.push(connection);
        }
    }
    assert_eq!(connections.len(), 1);
    (connections.remove(0), parts)
}

/// What the stream of a domain that waits for its UNQUIESCE would be is what came, byte for byte. Of
/// its connection the number of its life is another host's, and there is one event more.
#[test]
fn what_arrived_is_exported_as_the_same_bytes() {
    each_pair(|from, to| {
        inhabit(from, 5);
        from.guest(5).start().unwrap();
        from.admin.request(op::SET_QUOTA, 0, "5\0watches\x0077\0").unwrap();
        // Half a request, and an event that it has not been told of.
        let half = from.guest(5).compose(op::READ, 0, b"data\0");
        from.guest(5).ring().put(&half[..5]);
        from.guest(5).ring().notify();
        quiesce(from, "5").unwrap();
        from.admin.write("/local/domain/5/data/a", "x").unwrap();
        let (stream, _) = Bulk::connect(&from.daemon).export("5|");
        to.create(5);
        Bulk::connect(&to.daemon).import(&stream);
        to.introduce(5);
        let (again, _) = Bulk::connect(&to.daemon).export("5|");
        let ((was, parts), (mut is, parts_again)) = (taken_apart(&stream), taken_apart(&again));
        assert_eq!(parts_again, parts);
        assert!(was.input == half[..5] && !was.output.is_empty());
        // Which domains are there is another matter on this host.
        let event = is.output.split_off(was.output.len());
        assert_eq!(&event[16..], b"@releaseDomain\0r\0");
        is.unique_id = was.unique_id;
        assert_eq!(is, was);
    });
}

#[test]
fn quotas_features_and_target_arrive() {
    each_pair(|from, to| {
        let secret = "/local/domain/6/secret";
        for world in [&mut *from, &mut *to] {
            world.guest(6).write("secret", "v").unwrap();
            world.create(5);
        }
        from.admin.mkdir("/local/domain/5").unwrap();
        from.admin.set_perms("/local/domain/5", "n5").unwrap();
        from.admin.request(op::SET_FEATURE, 0, "5\x006\0").unwrap();
        from.introduce(5);
        inhabit(from, 5);
        from.admin.request(op::SET_TARGET, 0, "5\x006\0").unwrap();
        from.admin.set_quota(Some(5), "nodes", 123);
        assert_eq!(from.guest(5).read(secret).as_deref(), Ok(&b"v"[..]));

        let (stream, _) = Bulk::connect(&from.daemon).export("5|");
        assert!(Bulk::connect(&to.daemon).import(&stream).starts_with("5|OK|"));
        to.introduce(5);
        unquiesce(to, "5").unwrap();
        let mut ask = |kind, payload: &str| to.admin.request(kind, 0, payload);
        assert_eq!(ask(op::GET_QUOTA, "5\0nodes\0").as_deref(), Ok(&b"123\0"[..]));
        let watches = ask(op::GET_QUOTA, "watches\0").unwrap();
        assert_eq!(ask(op::GET_QUOTA, "5\0watches\0"), Ok(watches), "it has none of its own");
        assert_eq!(ask(op::GET_FEATURE, "5\0").as_deref(), Ok(&b"6\0"[..]));
        assert_eq!(to.guest(5).read(secret).as_deref(), Ok(&b"v"[..]));
        to.admin.set_perms(secret, "n0").unwrap();
        assert_eq!(to.guest(5).read(secret), Err("EACCES".to_owned()), "it is domain 6's no more");
    });
}

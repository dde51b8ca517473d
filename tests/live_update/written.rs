//! The state of Debian's C daemon when it writes a live-update stream, and the state of that stream's domains after
//! they arrive here.
//!
//! loadgen/tests/live_update.rs has the real daemon write one; tests/golden/c-4.17.stream is one that it wrote.

use std::collections::BTreeMap;

use xenstored::migration::store::place_domain::{ImportedDomain, place_domain, split_by_domain};
use xenstored::migration::stream::state::{Client, State};
use xenstored::migration::stream::{Reader, Transport};
use xenstored::store::Generations;
use xenstored::types::{Domid, Entry, domain_of_partition};

use crate::world::{World, at};

/// A guest, its device model's domain, which has its rights, and a driver domain for its disk.
pub const GUEST: Domid = Domid(5);
pub const DEVICE_MODEL: Domid = Domid(6);
pub const DRIVER: Domid = Domid(7);
pub const DOMIDS: [Domid; 3] = [GUEST, DEVICE_MODEL, DRIVER];

/// A value longer than the device model's ring: the daemon queues the bytes that do not fit.
pub const LONG: &str = "/local/domain/6/long";
pub const LONG_BYTES: usize = 1100;
/// The write that the device model makes before it takes the replies.
pub const LAST: (&str, &[u8]) = ("/local/domain/6/last", b"written");

/// A node: its path, its value, its permissions; a `!` marks stale permissions.
pub type Written = (&'static str, &'static [u8], &'static str);

/// All nodes of the domains except [`LONG`] and [`LAST`], parents first.
pub const NODES: [Written; 29] = [
    ("/local/domain/5", b"", "n5"),
    ("/local/domain/5/name", b"five", "n0 r5"),
    ("/local/domain/5/vm", b"/vm/5f1c1c8e-0000-4000-8000-000000000005", "n0 r5"),
    ("/local/domain/5/device", b"", "n0 r5"),
    ("/local/domain/5/device/vif", b"", "n0 r5"),
    ("/local/domain/5/device/vif/0", b"", "n5 r0"),
    ("/local/domain/5/device/vif/0/state", b"4", "n5 r0"),
    ("/local/domain/5/data", b"", "n5"),
    ("/local/domain/5/data/binary", b"\0\xff\"\\\n\x7f and text", "n5 w6 b7 r9!"),
    ("/local/domain/5/data/with-_@", b"", "b5"),
    ("/libxl/5", b"", "n0"),
    ("/libxl/5/type", b"hvm", "n0"),
    ("/vm/5f1c1c8e-0000-4000-8000-000000000005", b"", "n0 r5"),
    ("/vm/5f1c1c8e-0000-4000-8000-000000000005/name", b"five", "n0 r5"),
    ("/local/domain/0/backend/vif/5", b"", "n0 r5"),
    ("/local/domain/0/backend/vif/5/0", b"", "n0 r5"),
    ("/local/domain/0/backend/vif/5/0/frontend", b"/local/domain/5/device/vif/0", "n0 r5"),
    ("/local/domain/0/backend/vif/5/0/state", b"4", "n0 r5"),
    ("/local/domain/0/device-model/5", b"", "n0"),
    ("/local/domain/0/device-model/5/state", b"running", "n0 b6"),
    ("/local/domain/6", b"", "n6"),
    ("/local/domain/6/target", b"5", "n0 r6"),
    ("/local/domain/7", b"", "n7"),
    ("/local/domain/7/backend", b"", "n7"),
    ("/local/domain/7/backend/vbd", b"", "n7"),
    ("/local/domain/7/backend/vbd/5", b"", "n7 r5"),
    ("/local/domain/7/backend/vbd/5/0", b"", "n7 r5"),
    ("/local/domain/7/backend/vbd/5/0/state", b"4", "n7 r5"),
    ("/libxl/7", b"", "n0"),
];

/// A path that C xenstored lets a guest watch, and that is invalid here. No such event exists.
const NOWHERE: &[u8] = b"@no such/ event";

/// Watches in the order in which they are set: domain, path, token.
pub const WATCHES: [(Domid, &[u8], &[u8]); 10] = [
    (GUEST, b"device/vif/0/state", b"relative"),
    (GUEST, b"/local/domain/0/backend/vif/5", b"with a blank\tand a tab"),
    (GUEST, b"device/vif/0/state", b"\x01\xff\"\\"),
    (GUEST, NOWHERE, b"silent"),
    (GUEST, b"@releaseDomain", b""),
    (GUEST, b"/", b"all#5"),
    (DEVICE_MODEL, b"last", b"its own"),
    (DEVICE_MODEL, b"/local/domain/5/device", b"its target's"),
    (DRIVER, b"backend", b"/local/domain/7/backend"),
    (DRIVER, b"@introduceDomain", b"@"),
];

/// The value and the permissions of a node, in the form in which they are compared.
type Node = (Vec<u8>, Vec<Entry>);

/// Returns the nodes that the domains must arrive with, by path.
fn expected() -> BTreeMap<String, Node> {
    let long = vec![b'l'; LONG_BYTES];
    let last = [(LONG, long.as_slice(), "n6"), (LAST.0, LAST.1, "n6")];
    let node = |(path, value, perms): (&str, &[u8], &str)| {
        (path.to_owned(), (value.to_vec(), perms.split(' ').map(entry).collect()))
    };
    NODES.into_iter().chain(last).map(node).collect()
}

fn entry(text: &str) -> Entry {
    let entry = Entry::parse(text.trim_end_matches('!').as_bytes()).unwrap();
    Entry { ignored: text.ends_with('!'), ..entry }
}

/// Reads a stream of this state that a C daemon wrote, and checks the domains in it; imports the domains into a store,
/// and checks that exactly their nodes are there.
pub fn arrive(stream: &[u8]) {
    let mut reader = Reader::new(stream).unwrap();
    assert_eq!(reader.version(), 1);
    let (arrivals, left) = split_by_domain(State::read(&mut reader).unwrap());
    assert_eq!(arrivals.iter().map(|arrival| arrival.domid).collect::<Vec<_>>(), DOMIDS);
    assert!(left > 0, "nodes above partitions, special nodes and unowned ones are left");
    let world = World::new();
    DOMIDS.iter().for_each(|domid| drop(world.admit(domid.0)));
    for arrival in &arrivals {
        let client = arrival.client.as_ref().unwrap();
        check_client(arrival.domid, client);
        assert!(arrival.domain.is_none(), "version 1 of 4.17 has no DOMAIN_DATA");
        put_in_place(&world, arrival);
    }
    check_nodes(&world);
    let arrived = world.registry.get(DEVICE_MODEL).unwrap();
    assert_eq!(world.registry.subject(&arrived).target, Some(GUEST));
}

fn check_client(domid: Domid, client: &Client) {
    let watches = client.watches.iter();
    let watches: Vec<_> = watches.map(|watch| (domid, &watch.path[..], &watch.token[..])).collect();
    let expected = |(of, path, _): &_| *of == domid && *path != NOWHERE;
    let expected: Vec<_> = WATCHES.into_iter().filter(expected).collect();
    assert_eq!(watches, expected);
    assert!(client.watches.iter().all(|watch| watch.depth.is_none()));
    assert!(client.transactions.is_empty(), "C lists no transactions");
    let Transport::Ring(of, target, port) = client.connection.transport else {
        panic!("domain {domid} has no ring");
    };
    assert_eq!((of, target), (domid, (domid == DEVICE_MODEL).then_some(GUEST)));
    assert!(port > 0);
}

fn put_in_place(world: &World, arrival: &ImportedDomain) {
    let by = world.control();
    let (executed, _) =
        place_domain(&world.store, arrival, &by.caller, &mut Generations::default()).unwrap();
    assert!(world.store.settle(executed.removed).is_none());
    world.check();
}

fn check_nodes(world: &World) {
    let expected = expected();
    let mut arrived = BTreeMap::new();
    for (path, node) in world.nodes() {
        let text = path.as_path().to_string();
        let layout = world.store.layout();
        let of = domain_of_partition(layout.partition(path.as_path()).root);
        if of.is_some_and(|of| DOMIDS.contains(&of)) || text.starts_with("/vm/") {
            arrived.insert(text, (node.value().to_vec(), node.perms.entries().to_vec()));
        } else {
            let above = expected.keys().any(|other| at(other).is_within(path.as_path()));
            let begins = World::new().has(&text);
            assert!(above || begins, "{text} belongs to no domain");
        }
    }
    assert_eq!(arrived, expected);
}

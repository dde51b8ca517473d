//! A domain's state after its import, compared with that before its export; and the obstacles to an import.

use xenstored::migration::stream::fields::Order;
use xenstored::migration::stream::state::Client as Carried;
use xenstored::migration::stream::{Connection, Node, Reader, Record, VERSION, Writer, kind};
use xenstored::types::{Domid, Entry};

use super::moves::{each_pair, inhabit};
use super::*;

/// Returns the CONNECTION_DATA of a stream that has one; and the bytes of its header and of all other records, in
/// order, except the digest of them all.
fn taken_apart(stream: &[u8]) -> (Connection, Vec<Vec<u8>>) {
    let number = |at: usize| u32::from_le_bytes(stream[at..at + 4].try_into().unwrap());
    let mut parts = vec![stream[..16].to_vec()];
    let mut at = 16;
    while at < stream.len() {
        let end = at + (8 + usize::try_from(number(at + 4)).unwrap()).next_multiple_of(8);
        if ![kind::CONNECTION_DATA, kind::DIGEST].contains(&number(at)) {
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

/// The stream of an imported domain that waits for its UNQUIESCE equals the imported one, byte for byte. Only the
/// record of the connection differs: the incarnation is another host's, and there is one event more.
#[test]
fn imported_domain_is_exported_as_the_same_bytes() {
    each_pair(|from, to| {
        inhabit(from, 5);
        from.guest(5).start().unwrap();
        from.admin.request(op::SET_QUOTA, 0, "5\0watches\x0077\0").unwrap();
        // The stream has half a request, and an event that was not delivered yet.
        let half = from.guest(5).compose(op::READ, 0, b"data\0");
        from.guest(5).ring().put(&half[..5]);
        from.guest(5).ring().notify();
        passes(from, 5);
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
        // On this host other domains exist, so its `@releaseDomain` watch fires.
        let event = is.output.split_off(was.output.len());
        assert_eq!(&event[16..], b"@releaseDomain\0r\0");
        is.unique_id = was.unique_id;
        assert_eq!(is, was);
    });
}

#[test]
fn quotas_features_and_target_are_imported() {
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
        // Defaults of this host are for domains that begin here.
        to.admin.set_quota(None, "watches", 3);
        to.admin.set_quota(None, "soft-memory", 4);
        assert!(Bulk::connect(&to.daemon).import(&stream).starts_with("5|OK|"));
        to.introduce(5);
        unquiesce(to, "5").unwrap();
        let mut ask = |kind, payload: &str| to.admin.request(kind, 0, payload);
        assert_eq!(ask(op::GET_QUOTA, "5\0nodes\0").as_deref(), Ok(&b"123\0"[..]));
        assert_eq!(ask(op::GET_QUOTA, "5\0watches\0").as_deref(), Ok(&b"1024\0"[..]));
        assert_eq!(ask(op::GET_QUOTA, "5\0soft-memory\0").as_deref(), Ok(&b"2097152\0"[..]));
        assert_eq!(ask(op::GET_FEATURE, "5\0").as_deref(), Ok(&b"6\0"[..]));
        assert_eq!(to.guest(5).read(secret).as_deref(), Ok(&b"v"[..]));
        to.admin.set_perms(secret, "n0").unwrap();
        assert_eq!(to.guest(5).read(secret), Err("EACCES".to_owned()), "the target lost its right");
    });
}

/// Two domains of one virtual machine move in different batches: the second finds exactly the `/vm` nodes that it would
/// bring.
#[test]
fn vm_subtree_imported_with_another_domain_is_accepted() {
    each_pair(|from, to| {
        let vm = "/vm/uuid-5";
        for domid in [5, 6] {
            inhabit(from, domid);
            from.admin.write(&format!("/local/domain/{domid}/vm"), vm).unwrap();
            to.create(domid);
        }
        let mut bulk = Bulk::connect(&from.daemon);
        let streams = [5, 6].map(|domid| bulk.export(&format!("{domid}|")).0);
        let mut bulk = Bulk::connect(&to.daemon);
        assert!(bulk.import(&streams[0]).starts_with("5|OK|"));
        assert!(bulk.check(&streams[1]).starts_with("6|OK|"));
        // A different node, or one that was changed meanwhile, cannot be common to both.
        let name = format!("{vm}/name");
        to.admin.write(&name, "other").unwrap();
        let refused = bulk.import(&streams[1]);
        let sentence = "domid 6 is in use: node /vm/uuid-5";
        assert!(refused.starts_with(&format!("6|EEXIST|{sentence}")), "{refused}");
        to.admin.write(&name, "guest5").unwrap();
        to.admin.write(&format!("{vm}/more"), "").unwrap();
        assert!(bulk.import(&streams[1]).starts_with("6|EEXIST|"));
        to.admin.rm(&format!("{vm}/more")).unwrap();
        to.admin.set_perms(&name, "r0").unwrap();
        assert!(bulk.import(&streams[1]).starts_with("6|EEXIST|"));
        let perms = from.admin.request(op::GET_PERMS, 0, format!("{name}\0")).unwrap();
        let perms = String::from_utf8(perms).unwrap();
        to.admin.set_perms(&name, perms.trim_end_matches('\0')).unwrap();
        assert!(bulk.import(&streams[1]).starts_with("6|OK|"));
        assert_eq!(to.admin.directory(vm).unwrap(), ["name"]);
        // Both domains name the `/vm` subtree, so an export of either includes it, and discarding one import leaves the
        // subtree to the other.
        assert_eq!(bulk.ask(bulk::DISCARD, "6|", &[]), "6|OK|");
        assert_eq!(to.admin.read(&name).as_deref(), Ok(&b"guest5"[..]));
    });
}

/// A guest that may create nodes below its own `backend` can create one there for another domain. Such a node moves
/// with that domain, like the backends of a driver domain, and cannot be imported without its owner: the error names
/// the node, and once the node is removed the domain can be moved.
#[test]
fn import_of_a_backend_fails_without_the_owner_of_its_directory() {
    each_pair(|from, to| {
        inhabit(from, 5);
        from.guest(7).write("backend/x/5", "mine").unwrap();
        to.create(5);
        let (stream, _) = Bulk::connect(&from.daemon).export("5|");
        let said = Bulk::connect(&to.daemon).import(&stream);
        let path = "/local/domain/7/backend/x/5";
        let sentence = format!("{path} belongs to domain 7, which does not exist");
        assert_eq!(said, format!("5|EINVAL|domain 5: {sentence}|"));
        assert!(moves::nodes(to, 5).is_empty());
        // The node's creator can also change it, which invalidates a mark, so the creator must be quiesced, too.
        let said = Bulk::connect(&from.daemon).export("5|").1;
        quiesce(from, "7").unwrap();
        from.admin.rm(path).unwrap();
        let refused = moves::release(from, 5, bulk::mark(&said));
        assert_eq!(refused, Err("EAGAIN".to_owned()));
        let (stream, said) = Bulk::connect(&from.daemon).export("5|");
        assert!(Bulk::connect(&to.daemon).import(&stream).starts_with("5|OK|"));
        moves::release(from, 5, bulk::mark(&said)).unwrap();
    });
}

#[test]
fn death_before_introduce_keeps_the_control_domains_nodes() {
    each_pair(|from, to| {
        inhabit(from, 5);
        let (stream, _) = Bulk::connect(&from.daemon).export("5|");
        to.create(5);
        let mut bulk = Bulk::connect(&to.daemon);
        assert!(bulk.import(&stream).starts_with("5|OK|"));
        to.admin.watch("/local/domain/5", "t").unwrap();
        to.admin.next_event();
        to.destroy(5);
        // The backend's partition belongs to its own domain, and is removed with that domain.
        to.admin.next_event();
        let not = "5|EINVAL|it was not imported, or has been served since|";
        assert_eq!(bulk.ask(bulk::DISCARD, "5|", &[]), not);
        assert_eq!(to.admin.directory("/libxl/5").unwrap(), ["device"]);
        assert_eq!(to.admin.read("/local/domain/5"), Err("ENOENT".to_owned()));
        // The remaining nodes prevent an import of the next domain with the domid, until the toolstack has removed
        // them.
        to.create(5);
        assert!(bulk.import(&stream).starts_with("5|EEXIST|"));
        for path in ["/libxl/5", "/local/domain/0/backend/vif/5", "/vm/uuid-5"] {
            to.admin.rm(path).unwrap();
        }
        assert!(bulk.import(&stream).starts_with("5|OK|"));
    });
}

#[test]
fn discard_restores_the_settings_from_before_the_import() {
    each_pair(|from, to| {
        inhabit(from, 5);
        for world in [&mut *from, &mut *to] {
            world.guest(7).write("secret", "v").unwrap();
        }
        from.admin.set_quota(Some(5), "nodes", 123);
        from.admin.set_quota(Some(5), "watches", 77);
        from.admin.request(op::SET_TARGET, 0, "5\x007\0").unwrap();
        let (stream, _) = Bulk::connect(&from.daemon).export("5|");
        to.create(5);
        to.admin.set_quota(Some(5), "nodes", 44);
        to.admin.request(op::SET_FEATURE, 0, "5\x006\0").unwrap();
        let set = |to: &mut World| {
            let watches = to.admin.request(op::GET_QUOTA, 0, "watches\0").unwrap();
            let [nodes, own] = ["nodes", "watches"]
                .map(|quota| to.admin.request(op::GET_QUOTA, 0, format!("5\0{quota}\0")).unwrap());
            let features = show(&to.admin.request(op::GET_FEATURE, 0, "5\0").unwrap());
            (show(&nodes), own == watches, features)
        };
        let before = set(to);
        assert_eq!(before, ("44|".to_owned(), true, "6|".to_owned()));
        let mut bulk = Bulk::connect(&to.daemon);
        for introduced in [false, true] {
            assert!(bulk.import(&stream).starts_with("5|OK|"));
            assert_eq!(set(to), ("123|".to_owned(), false, "15|".to_owned()));
            if introduced {
                to.introduce(5);
            }
            assert_eq!(bulk.ask(bulk::DISCARD, "5|", &[]), "5|OK|");
            assert_eq!(set(to), before);
        }
        let port = to.ports[&5];
        to.admin.request(op::INTRODUCE, 0, format!("5\x001\0{port}\0")).unwrap();
        let read = to.guest(5).read("/local/domain/7/secret");
        assert_eq!(read, Err("EACCES".to_owned()), "DISCARD removes the imported target");
    });
}

/// C xenstored may have read requests that it has not begun to execute: whole ones, followed by a partial one.
#[test]
fn imported_requests_are_served_in_order() {
    each_world(|world| {
        let request = |value: &str| {
            let payload = format!("x\0{value}").into_bytes();
            let len = u32::try_from(payload.len()).unwrap();
            [common::wire::header(op::WRITE, 7, 0, len).to_vec(), payload].concat()
        };
        let all = ["first", "second", "third"].map(request).concat();
        let (read, rest) = all.split_at(all.len() - 9);
        let mut connection = Carried::new(Domid(5)).connection;
        connection.input = read.to_vec();
        let perms = vec![Entry::parse(b"n5").unwrap()];
        let home = Node { pending: None, path: b"/local/domain/5".into(), value: vec![], perms };
        let mut writer = Writer::new(Vec::new(), VERSION, Order::Little).unwrap();
        for record in [Record::Connection(connection), Record::Node(home)] {
            writer.write(&record).unwrap();
        }
        world.create(5);
        let said = Bulk::connect(&world.daemon).import(&writer.end().unwrap());
        assert!(said.starts_with("5|OK|"), "{said}");
        world.introduce(5);
        unquiesce(world, "5").unwrap();
        let until = |world: &mut World, value: &str| {
            let started = Instant::now();
            while world.admin.read("/local/domain/5/x").as_deref() != Ok(value.as_bytes()) {
                assert!(started.elapsed() < HANG, "{value}");
            }
        };
        until(world, "second");
        world.guest(5).ring().put(rest);
        world.guest(5).ring().notify();
        until(world, "third");
    });
}

/// Unlike with libxl, the guest can write its node `vm` here, and may name the `/vm/<uuid>` of another domain.
#[test]
fn vm_subtree_chosen_by_the_domain_is_left_out_and_named() {
    each_pair(|from, _| {
        for domid in [5, 6] {
            inhabit(from, domid);
        }
        let exported = |from: &mut World, domids| Bulk::connect(&from.daemon).export(domids).1;
        let words = |said: &str| said.trim_end_matches('|').split('|').count();
        assert_eq!(words(&exported(from, "5|")), 4, "/vm/uuid-5 is exported");
        let vm = "/local/domain/5/vm";
        for perms in ["n5", "n0\0w5", "b0"] {
            from.admin.set_perms(vm, perms).unwrap();
            let said = exported(from, "5|");
            assert!(said.ends_with("|/vm/uuid-5|"), "{perms}: {said}");
        }
        let log = from.log();
        let line = log.lines().find(|line| line.contains("left out of an export")).unwrap();
        assert!(line.contains("domid=5 path=/vm/uuid-5"), "{line}");
        // A missing `/vm` subtree is not reported as left out, nor is one that its owner takes along in the same
        // stream.
        from.admin.write(vm, "/vm/none").unwrap();
        assert_eq!(words(&exported(from, "5|")), 4);
        from.admin.write(vm, "/vm/uuid-6").unwrap();
        assert!(exported(from, "5|").ends_with("|/vm/uuid-6|"));
        assert!(!exported(from, "5-6|").contains("/vm/"));
        unquiesce(from, "5 6").unwrap();
    });
}

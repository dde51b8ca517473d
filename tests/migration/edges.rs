//! Events between the steps of a move: changed settings, other exports, another domain with the same domid, a restart.

use std::os::fd::AsFd;

use super::moves::{changed_after_export, release};
use super::*;

/// A change of something in the stream that is neither node nor watch invalidates a mark too.
#[test]
fn mark_is_valid_until_a_setting_changes() {
    type Change = (&'static str, bool, fn(&mut World));
    let changes: [Change; 6] = [
        ("another's quota", true, |world| world.admin.set_quota(Some(6), "watches", 9)),
        ("the quota of all", true, |world| world.admin.set_quota(None, "watches", 99)),
        ("its quota", false, |world| world.admin.set_quota(Some(5), "watches", 9)),
        ("its soft quota", false, |world| world.admin.set_quota(Some(5), "soft-memory", 9)),
        ("its target", false, |world| {
            world.admin.request(op::SET_TARGET, 0, "5\x006\0").unwrap();
        }),
        ("the /vm that it names", false, |world| {
            world.admin.write("/vm/later/name", "x").unwrap();
        }),
    ];
    for (what, stands, change) in changes {
        each_world(|world| {
            world.guest(5);
            world.guest(6);
            world.admin.write("/local/domain/5/vm", "/vm/later").unwrap();
            world.admin.set_perms("/local/domain/5/vm", "n0\0r5").unwrap();
            changed_after_export(world, stands, what, change);
        });
    }
}

/// A mark in a file may be from before a restart, and the clock may have been set back since: it does not enter.
#[test]
fn mark_is_not_reused_after_a_restart() {
    let mut marks: Vec<u64> = Vec::new();
    for _ in 0..2 {
        let mut world = World::new(Control::Socket, 1);
        world.guest(5);
        let said = Bulk::connect(&world.daemon).export("5|").1;
        marks.push(bulk::mark(&said).parse().unwrap());
    }
    // In nanoseconds this is a quarter of an hour. Random numbers are that close once in 2^23 times.
    assert!(marks[0].abs_diff(marks[1]) > 1 << 40, "{marks:?}");
}

/// Both exports begin while the domain is served, so the failure of either would end its quiesce.
#[test]
fn failed_export_keeps_the_mark_of_another_export() {
    each_world(|world| {
        world.guest(5);
        for number in 0..100 {
            world.admin.write(&format!("/local/domain/5/big/{number}"), &"v".repeat(2000)).unwrap();
        }
        let (reader, writer) = std::io::pipe().unwrap();
        let mut stuck = Bulk::connect(&world.daemon);
        stuck.send(bulk::EXPORT, "5|", &[writer.as_fd()]);
        drop(writer);
        // The export has quiesced the domain when it writes, and blocks as its pipe is full.
        std::io::Read::read_exact(&mut &reader, &mut [0; 16]).unwrap();
        let said = Bulk::connect(&world.daemon).export("5|").1;
        assert!(said.starts_with("5|OK|"), "{said}");
        drop(reader);
        assert_eq!(stuck.replies(), "EIO|");
        assert_eq!(release(world, 5, bulk::mark(&said)).as_deref(), Ok(OK));
    });
}

/// Returns a little-endian stream of version 2 with these records.
fn stream(records: &[(u32, &[u8])]) -> Vec<u8> {
    let mut bytes = b"xenstore\0\0\0\x02\0\0\0\0".to_vec();
    for (kind, body) in records.iter().chain(&[(0, &b""[..])]) {
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes
}

/// A domain that was not introduced at the source, as C xenstored writes it.
#[test]
fn domain_without_a_connection_is_imported() {
    each_world(|world| {
        let node = b"\0\0\0\0\0\0\0\0\x10\0\x01\0\0\0\x01\0n\0\0\0/local/domain/5\0v";
        let stream = stream(&[(7, b"\x05\0\0\0\0\0\0\0"), (5, node)]);
        world.create(5);
        let mut bulk = Bulk::connect(&world.daemon);
        assert_eq!(bulk.import(&stream), "5|OK|0|1|");
        assert_eq!(bulk.ask(bulk::DISCARD, "5|", &[]), "5|OK|");
        assert_eq!(world.admin.read("/local/domain/5"), Err("ENOENT".to_owned()));
        assert_eq!(bulk.import(&stream), "5|OK|0|1|");
        world.introduce(5);
        world.guest(5).send(op::TRANSACTION_START, 0, "\0");
        world.guest(5).ring().notify();
        passes(world, 5);
        assert!(!world.guest(5).has_reply(), "served before UNQUIESCE");
        unquiesce(world, "5").unwrap();
        world.guest(5).reply().unwrap();
    });
}

#[test]
fn discard_of_a_range_affects_only_imported_domains() {
    each_world(|world| {
        let node = b"\0\0\0\0\0\0\0\0\x10\0\x01\0\0\0\x01\0n\0\0\0/local/domain/5\0v";
        let stream = stream(&[(7, b"\x05\0\0\0\0\0\0\0"), (5, node)]);
        world.create(5);
        world.guest(6);
        let mut bulk = Bulk::connect(&world.daemon);
        bulk.import(&stream);
        assert_eq!(bulk.ask(bulk::DISCARD, "4-9|", &[]), "5|OK|");
        assert_eq!(bulk.ask(bulk::DISCARD, "4-9|", &[]), "");
        assert_eq!(world.guest(6).write("x", "v").as_deref(), Ok(OK));
    });
}

/// A reset of a ring is not reported to the guest as complete while half a request of its former stream is still there.
#[test]
fn reconnect_waits_for_unquiesce_at_the_destination() {
    each_world(|from| {
        let mut to = World::new(Control::Socket, 1);
        from.guest(5).watch("data", "t").unwrap();
        from.guest(5).next_event();
        let half = from.guest(5).compose(op::READ, 0, b"data\0");
        from.guest(5).ring().put(&half[..7]);
        from.guest(5).ring().notify();
        passes(from, 5);
        let (stream, _) = Bulk::connect(&from.daemon).export("5|");
        to.create(5);
        Bulk::connect(&to.daemon).import(&stream);
        let port = to.ports[&5];
        to.connect_guest(5);
        to.guest(5).ring().page().store(at::CONNECTION, 1);
        to.admin.request(op::INTRODUCE, 0, format!("5\x001\0{port}\0")).unwrap();
        passes(&mut to, 5);
        assert_eq!(to.guest(5).ring().page().load(at::CONNECTION), 1);
        unquiesce(&mut to, "5").unwrap();
        let started = Instant::now();
        while to.guest(5).ring().page().load(at::CONNECTION) != 0 {
            assert!(started.elapsed() < HANG);
        }
        assert_eq!(list(&mut to, 5), [""; 0]);
        assert_eq!(to.guest(5).write("x", "v").as_deref(), Ok(OK));
    });
}

/// The daemon may not have been notified yet that the former domain with the domid died.
#[test]
fn imported_domain_is_not_taken_for_a_dead_incarnation() {
    each_world(|world| {
        world.guest(6);
        let (stream, _) = {
            let mut from = World::new(Control::Socket, 1);
            from.guest(5).write("data", "v").unwrap();
            Bulk::connect(&from.daemon).export("5|")
        };
        let mut bulk = Bulk::connect(&world.daemon);
        for round in 0..200 {
            world.create(5);
            assert!(bulk.import(&stream).starts_with("5|OK|"), "{round}");
            let port = world.ports[&5];
            world.admin.request(op::INTRODUCE, 0, format!("5\x001\0{port}\0")).unwrap();
            let value = world.admin.read("/local/domain/5/data");
            assert_eq!(value.as_deref(), Ok(&b"v"[..]), "{round}");
            world.host.destroy(xenstored::types::Domid(5)).unwrap();
        }
    });
}

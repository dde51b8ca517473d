//! Events that guests cause and do not read.

use std::collections::HashSet;

use super::common::{Control, World, op};
use super::{all_ok, watch_all};

/// Same value as `REPORTED_MAX` of the store.
const REPORTED_MAX: usize = 16;

/// Creates a guest whose partition has this many nodes and is readable by domain 6.
fn readable_partition(world: &mut World, nodes: usize) {
    world.guest(6);
    let guest = world.guest(5);
    let writes = (0..nodes).map(|i| (op::WRITE, 0, format!("d/{i}\0v").into_bytes()));
    all_ok(&guest.pipeline(&writes.collect::<Vec<_>>()));
    let paths = (0..nodes).map(|i| format!("/local/domain/5/d/{i}"));
    let all =
        ["/local/domain/5".to_owned(), "/local/domain/5/d".to_owned()].into_iter().chain(paths);
    let perms = all.map(|path| (op::SET_PERMS, 0, format!("{path}\0n5\0r6\0").into_bytes()));
    all_ok(&world.admin.pipeline(&perms.collect::<Vec<_>>()));
}

#[test]
fn commit_with_many_changes_is_one_event_for_another_guest() {
    for (control, shards) in [(Control::Socket, 1), (Control::Socket, 4), (Control::Ring, 4)] {
        let mut world = World::new(control, shards);
        readable_partition(&mut world, 40);
        world.guest(6).watch("/local/domain/5/d", "of6").unwrap();
        world.client("dom0").watch("/local/domain/5/d", "of0").unwrap();
        world.events_until_now("dom6");
        world.events_until_now("dom0");
        let guest = world.guest(5);
        let tx = guest.start().unwrap();
        let writes = (0..40).map(|i| (op::WRITE, tx, format!("d/{i}\0w").into_bytes()));
        all_ok(&guest.pipeline(&writes.collect::<Vec<_>>()));
        guest.commit(tx).unwrap();
        let named = |token: &str, count: usize| {
            (0..count).map(|i| format!("/local/domain/5/d/{i}|{token}")).collect::<Vec<_>>()
        };
        let mut expected = named("of6", REPORTED_MAX);
        expected.push("/local/domain/5/d|of6".to_owned());
        assert_eq!(world.events_until_now("dom6"), expected);
        // The control domain's kernel finds a backend only by the name in an event.
        assert_eq!(world.events_until_now("dom0"), named("of0", 40));
    }
}

/// For a watch with a depth, an event that stands for many changes counts as the nearest of them.
#[test]
fn many_changes_within_the_depth_of_a_watch_are_one_event() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        readable_partition(&mut world, 40);
        for (token, depth) in [("near", 1), ("far", 2)] {
            world.guest(6).send(op::WATCH, 0, format!("/local/domain/5\0{token}\0{depth}\0"));
            world.guest(6).reply().unwrap();
        }
        world.events_until_now("dom6");
        let mut commit = |last: &str| {
            let guest = world.guest(5);
            let tx = guest.start().unwrap();
            let writes = (0..40).map(|i| (op::WRITE, tx, format!("d/{i}\0w").into_bytes()));
            all_ok(&guest.pipeline(&writes.collect::<Vec<_>>()));
            guest.request(op::WRITE, tx, last).unwrap();
            guest.commit(tx).unwrap();
            world.events_until_now("dom6")
        };
        let named = (0..REPORTED_MAX).map(|i| format!("/local/domain/5/d/{i}|far"));
        let of_far: Vec<_> = named.chain(["/local/domain/5|far".to_owned()]).collect();
        assert_eq!(commit("d/0\0v"), of_far);
        let of_both: Vec<_> = of_far[..REPORTED_MAX].to_vec();
        let own = ["near", "far"].map(|token| format!("/local/domain/5|{token}"));
        assert_eq!(commit("d\0v"), [of_both, own.to_vec()].concat());
    }
}

#[test]
fn unreadable_changes_do_not_count_towards_the_event_limit() {
    let mut world = World::new(Control::Socket, 2);
    readable_partition(&mut world, 40);
    for i in 0..39 {
        world.admin.set_perms(&format!("/local/domain/5/d/{i}"), "n5").unwrap();
    }
    world.guest(6).watch("/local/domain/5/d", "t").unwrap();
    world.events_until_now("dom6");
    let guest = world.guest(5);
    let tx = guest.start().unwrap();
    let writes = (0..40).map(|i| (op::WRITE, tx, format!("d/{i}\0w").into_bytes()));
    all_ok(&guest.pipeline(&writes.collect::<Vec<_>>()));
    guest.commit(tx).unwrap();
    assert_eq!(world.events_until_now("dom6"), ["/local/domain/5/d|t"]);
}

/// Each of the guest's watches fires once more, with its own path, when there is room again.
#[test]
fn events_beyond_the_limit_are_deferred_and_none_is_lost() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        readable_partition(&mut world, 100);
        let token = "t".repeat(1500);
        let watches = (0..300).map(|i| ("/local/domain/5/d".to_owned(), format!("{i}{token}")));
        assert_eq!(watch_all(world.guest(6), watches), 300);
        for i in 0..100 {
            world.admin.write(&format!("/local/domain/5/d/{i}"), "w").unwrap();
        }
        world.admin.rm("/local/domain/5/d/99").unwrap();
        // Unread events take no more than the limit, instead of 1,500 bytes for each watch, times a hundred changes.
        let used = world.accounted(6, "memory");
        assert!(used < 300 * 2200 + (64 << 10) + 8192, "{used} bytes");
        let own = |i: u32| format!("/local/domain/5/d|{i}{token}");
        let mut waited_for: HashSet<_> = (0..300).map(own).collect();
        while !waited_for.is_empty() {
            waited_for.remove(&world.next_event("dom6"));
        }
        world.check_store();
    }
}

/// A guest at its quota is still notified of changes, one event at a time.
#[test]
fn guest_without_room_for_events_gets_them_one_by_one() {
    let mut world = World::new(Control::Socket, 2);
    readable_partition(&mut world, 4);
    let guest = world.guest(6);
    for i in 0..4 {
        guest.watch(&format!("/local/domain/5/d/{i}"), "t").unwrap();
    }
    world.events_until_now("dom6");
    let used = world.accounted(6, "memory");
    world.admin.set_quota(Some(6), "memory", used);
    for i in 0..4 {
        world.admin.write(&format!("/local/domain/5/d/{i}"), "w").unwrap();
    }
    let expected: Vec<_> = (0..4).map(|i| format!("/local/domain/5/d/{i}|t")).collect();
    let events: Vec<_> = (0..4).map(|_| world.next_event("dom6")).collect();
    assert_eq!(events, expected);
}

/// A stopped process of the control domain with a broad watch blocks no guest.
#[test]
fn a_stopped_socket_client_does_not_hold_back_a_guest() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        world.client("dom0");
        let mut stopped = world.take("dom0");
        // Long, so that the events exceed the socket's buffer.
        stopped.watch("/local/domain", &"t".repeat(1000)).unwrap();
        let guest = world.guest(5);
        for round in 0..50 {
            let writes = (0..100)
                .map(|i| (op::WRITE, 0, format!("{i}/{round}\0{}", "v".repeat(10)).into_bytes()));
            guest.pipeline(&writes.collect::<Vec<_>>());
        }
        assert_eq!(guest.read("0/0").as_deref(), Ok(&b"vvvvvvvvvv"[..]));
    }
}

/// A thread that is slow to deliver puts back-pressure on the guests that cause its events: a guest has at most the
/// limit and one request of events undelivered. All others precede the reply to a request that is made after its last.
#[test]
fn undelivered_events_put_back_pressure_on_their_guest() {
    const WATCHES: usize = 1000;
    // The events stay below the megabyte at which unread events collapse.
    const WRITES: usize = 20;
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        world.guest(5);
        // The quota `outstanding` would hold the guest back first, so it is lifted.
        world.admin.set_quota(Some(5), "outstanding", 0);
        let watches = (0..WATCHES).map(|i| ("/local/domain/5".to_owned(), i.to_string()));
        assert_eq!(watch_all(world.client("dom0"), watches), WATCHES);
        let writes = (0..WRITES).map(|i| (op::WRITE, 0, format!("n{i}\0v").into_bytes()));
        all_ok(&world.guest(5).pipeline(&writes.collect::<Vec<_>>()));
        let client = world.client("dom0");
        client.read("/tool").unwrap();
        let events = client.take_events().len();
        println!("{shards} shards: {events} events delivered");
        assert!(events >= (WRITES - 3) * WATCHES, "only {events} events delivered");
    }
}

/// The control domain's kernel is notified of a guest's changes by name, but not of enough names to leave no room for
/// those of other changes.
#[test]
fn commit_of_a_guest_fills_a_bounded_part_of_the_kernels_ring() {
    const NAMED_BYTES_MAX: usize = 64 << 10;
    for shards in [1, 4] {
        let mut world = World::new(Control::Ring, shards);
        world.guest(5);
        world.client("dom0").watch("/local/domain/5", "t").unwrap();
        world.events_until_now("dom0");
        let guest = world.guest(5);
        let tx = guest.start().unwrap();
        let name = "n".repeat(780);
        let writes = (0..130).map(|i| (op::WRITE, tx, format!("{i}/{name}\0").into_bytes()));
        all_ok(&guest.pipeline(&writes.collect::<Vec<_>>()));
        guest.commit(tx).unwrap();
        let events = world.events_until_now("dom0");
        let bytes: usize = events.iter().map(|event| event.len()).sum();
        let most = NAMED_BYTES_MAX + (2 * REPORTED_MAX + 2) * 900;
        println!(
            "{} events, {bytes} bytes, last {:?}",
            events.len(),
            events.last().map(|e| e.len())
        );
        assert!(bytes > NAMED_BYTES_MAX && bytes < most, "{bytes} bytes");
        assert_eq!(events.last().map(String::as_str), Some("/local/domain/5|t"));
    }
}

/// Events that a guest causes and the kernel does not read hold the guest back before they fill the ring's buffer.
#[test]
fn unread_events_put_back_pressure_on_their_guest() {
    const UNREAD_BYTES_MAX: usize = 32 << 10;
    const WRITES: usize = 80;
    for shards in [1, 4] {
        let mut world = World::new(Control::Ring, shards);
        world.guest(5);
        world.admin.set_quota(Some(5), "outstanding", 0);
        world.client("dom0").watch("/local/domain/5", "t").unwrap();
        world.events_until_now("dom0");
        let name = "n".repeat(780);
        let mut served = 0;
        while is_served(&mut world, &format!("{served}/{name}\0")) {
            served += 1;
            assert!(served < WRITES, "no back-pressure");
        }
        let bytes = served * name.len();
        assert!(bytes > UNREAD_BYTES_MAX / 2 && bytes < UNREAD_BYTES_MAX + 4096, "{bytes} bytes");
        // The guest's requests are served again once the kernel reads, and no event is lost.
        let events = world.events_until_now("dom0").len();
        assert!(events >= served, "{events} events for {served} writes");
        world.guest(5).reply().unwrap();
    }
}

/// Sends domain 5's WRITE; returns whether it is served while others' requests are.
fn is_served(world: &mut World, payload: &str) -> bool {
    world.guest(5).send(op::WRITE, 0, payload);
    for i in 0..100 {
        if world.guest(5).has_reply() {
            return world.guest(5).reply().is_ok();
        }
        world.admin.write("/tool/beside", &i.to_string()).unwrap();
    }
    false
}

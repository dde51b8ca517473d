//! The operations that move domains (docs/PROTOCOL-EXTENSIONS.md).

mod common;

use std::time::{Duration, Instant};

use common::client::Link;
use common::ring::at;
use common::wire::show;
use common::{Client, Control, Daemon, HANG, World, check, op};

const OK: &[u8] = b"OK\0";
/// All that the daemon and the guest share (xenstore-ring.txt).
const SHARED_BYTES: usize = at::EVTCHN_PORT + 4;

fn each_world(test: impl Fn(&mut World)) {
    for shards in [1, 4] {
        test(&mut World::new(Control::Socket, shards));
    }
}

fn quiesce(world: &mut World, domids: &str) -> common::Reply {
    world.admin.request(op::QUIESCE, 0, domids.replace(' ', "\0") + "\0")
}

fn unquiesce(world: &mut World, domids: &str) -> common::Reply {
    world.admin.request(op::UNQUIESCE, 0, domids.replace(' ', "\0") + "\0")
}

/// A page of a domain's watches: the generation of the list, and each watch as `path|token`.
fn page(world: &mut World, domid: u16, index: usize) -> (u64, Vec<String>) {
    let reply = world.admin.request(op::GET_DOMAIN_WATCHES, 0, format!("{domid}\0{index}\0"));
    let reply = show_all(&reply.unwrap());
    let mut strings = reply.split_terminator('|').map(str::to_owned);
    let generation = strings.next().unwrap().parse().unwrap();
    let rest: Vec<_> = strings.collect();
    assert!(rest.len().is_multiple_of(2), "{reply}");
    (generation, rest.chunks(2).map(|pair| pair.join("|")).collect())
}

/// All pages, in one generation.
fn list(world: &mut World, domid: u16) -> Vec<String> {
    let (generation, mut watches) = page(world, domid, 0);
    loop {
        let (again, more) = page(world, domid, watches.len());
        assert_eq!(again, generation);
        if more.is_empty() {
            return watches;
        }
        watches.extend(more);
    }
}

/// Bytes with `|` for a NUL, all of them.
fn show_all(bytes: &[u8]) -> String {
    bytes.chunks(100).map(show).collect()
}

fn whole_page(world: &mut World, domid: u16) -> Vec<u8> {
    let mut bytes = vec![0; SHARED_BYTES];
    world.guest(domid).ring().page().copy_out(0, &mut bytes);
    bytes
}

/// Waits until whatever the domain's thread was told is done, and a pass after it.
fn passes(world: &mut World, domid: u16) {
    for _ in 0..2 {
        page(world, domid, 0);
    }
}

#[test]
fn what_is_asked_wrongly() {
    check(
        "
        dom5 QUIESCE 5| -> EACCES
        dom5 UNQUIESCE 5| -> EACCES
        dom5 GET_DOMAIN_WATCHES 5|0 -> EACCES
        dom5 ADD_DOMAIN_WATCHES 5|x|t| -> EACCES
        dom5 START_DOMAIN_TRANSACTION 5|1| -> EACCES
        dom5 GET_DOMAIN_WATCHES_DEPTH 5|0 -> EACCES
        dom5 ADD_DOMAIN_WATCHES_DEPTH 5|x|t|| -> EACCES
        dom0 TYPE65535 5| -> ENOSYS
        dom0 TYPE65543 5| -> ENOSYS
        dom0 #1 QUIESCE 5| -> ENOENT

        dom0 QUIESCE -> EINVAL
        dom0 QUIESCE | -> EINVAL
        dom0 QUIESCE x| -> EINVAL
        dom0 QUIESCE 5|x| -> EINVAL
        dom0 QUIESCE 5|| -> EINVAL
        dom0 QUIESCE 0| -> EINVAL
        dom0 QUIESCE 65536| -> EINVAL
        dom0 QUIESCE 77| -> ENOENT
        dom0 QUIESCE 32752| -> ENOENT
        dom0 UNQUIESCE x| -> EINVAL
        dom0 UNQUIESCE 0| -> EINVAL
        dom0 UNQUIESCE 77| -> ENOENT

        dom0 GET_DOMAIN_WATCHES 5| -> EINVAL
        dom0 GET_DOMAIN_WATCHES 5|x| -> EINVAL
        dom0 GET_DOMAIN_WATCHES 5|-1| -> EINVAL
        dom0 GET_DOMAIN_WATCHES 5|0|0| -> EINVAL
        dom0 GET_DOMAIN_WATCHES 0|0 -> EINVAL
        dom0 GET_DOMAIN_WATCHES 77|0 -> ENOENT

        dom0 ADD_DOMAIN_WATCHES 5| -> EINVAL
        dom0 ADD_DOMAIN_WATCHES 5|x| -> EINVAL
        dom0 ADD_DOMAIN_WATCHES 5|x|t|y| -> EINVAL
        dom0 ADD_DOMAIN_WATCHES 5|a//b|t| -> EINVAL
        dom0 ADD_DOMAIN_WATCHES 5||t| -> EINVAL
        dom0 ADD_DOMAIN_WATCHES 0|x|t| -> EINVAL
        dom0 ADD_DOMAIN_WATCHES 77|x|t| -> ENOENT
        dom0 ADD_DOMAIN_WATCHES_DEPTH 5|x|t| -> EINVAL
        dom0 ADD_DOMAIN_WATCHES_DEPTH 5|x|t|no| -> EINVAL
        dom0 ADD_DOMAIN_WATCHES_DEPTH 5|x|t||y|t| -> EINVAL

        dom0 START_DOMAIN_TRANSACTION 5| -> EINVAL
        dom0 START_DOMAIN_TRANSACTION 5|0| -> EINVAL
        dom0 START_DOMAIN_TRANSACTION 5|x| -> EINVAL
        dom0 START_DOMAIN_TRANSACTION 5|4294967296| -> EINVAL
        dom0 START_DOMAIN_TRANSACTION 5|1|2| -> EINVAL
        dom0 START_DOMAIN_TRANSACTION 0|1| -> EINVAL
        dom0 START_DOMAIN_TRANSACTION 77|1| -> ENOENT
        ",
    );
}

#[test]
fn a_domain_that_is_not_introduced_has_nothing_to_move() {
    check(
        "
        host create 7
        dom0 QUIESCE 7| -> ENOENT
        dom0 UNQUIESCE 7| -> ENOENT
        dom0 GET_DOMAIN_WATCHES 7|0 -> ENOENT
        dom0 ADD_DOMAIN_WATCHES 7|x|t| -> ENOENT
        dom0 START_DOMAIN_TRANSACTION 7|1| -> ENOENT
        ",
    );
}

#[test]
fn the_operations_are_found_below_tool() {
    check(
        "
        dom0 READ /tool/xenstored/operations/QUIESCE| -> 65536
        dom0 READ /tool/xenstored/operations/UNQUIESCE| -> 65537
        dom0 READ /tool/xenstored/operations/GET_DOMAIN_WATCHES| -> 65538
        dom0 READ /tool/xenstored/operations/ADD_DOMAIN_WATCHES| -> 65539
        dom0 READ /tool/xenstored/operations/START_DOMAIN_TRANSACTION| -> 65540
        dom0 READ /tool/xenstored/operations/GET_DOMAIN_WATCHES_DEPTH| -> 65541
        dom0 READ /tool/xenstored/operations/ADD_DOMAIN_WATCHES_DEPTH| -> 65542
        dom0 GET_PERMS /tool/xenstored/operations/QUIESCE| -> n0|
        dom5 READ /tool/xenstored/operations/QUIESCE| -> EACCES
        dom5 DIRECTORY /tool/xenstored| -> EACCES
        ",
    );
}

#[test]
fn quiesced_twice_and_unquiesced_twice() {
    check(
        "
        dom5 READ x| -> ENOENT
        dom0 UNQUIESCE 5| -> OK
        dom0 QUIESCE 5| -> OK
        dom0 QUIESCE 5| -> OK
        dom0 QUIESCE 5|5| -> OK
        dom0 UNQUIESCE 5| -> OK
        dom5 READ x| -> ENOENT
        dom0 UNQUIESCE 5| -> OK
        dom5 READ x| -> ENOENT
        ",
    );
}

#[test]
fn many_domains_in_one_request() {
    check(
        "
        dom5 READ x| -> ENOENT
        dom6 READ x| -> ENOENT
        dom7 READ x| -> ENOENT
        dom0 QUIESCE 7|5|6|5 -> OK
        dom0 QUIESCE 78|5|77|7| -> OK|77|ENOENT|78|ENOENT|
        dom0 QUIESCE 78|77| -> ENOENT
        dom0 UNQUIESCE 77|5|6| -> OK|77|ENOENT|
        dom5 READ x| -> ENOENT
        dom6 READ x| -> ENOENT
        dom0 CONTROL quiesce|78|5|77| -> 77 ENOENT\\x0a78 ENOENT\\x0a|
        dom0 CONTROL quiesce|78|77| -> ENOENT
        dom0 CONTROL unquiesce|7|5| -> OK
        dom5 READ x| -> ENOENT
        dom7 READ x| -> ENOENT
        ",
    );
}

#[test]
fn as_many_domains_as_a_reply_can_name() {
    each_world(|world| {
        world.guest(5);
        let many = |last: u16| (10_000..=last).map(|domid| domid.to_string()).collect::<Vec<_>>();
        let reply = quiesce(world, &format!("5 {}", many(10_254).join(" "))).unwrap();
        let expected: String =
            many(10_254).iter().map(|domid| format!("{domid}|ENOENT|")).collect();
        assert_eq!(show_all(&reply), format!("OK|{expected}"));
        unquiesce(world, "5").unwrap();
        let too_many = format!("5 {}", many(10_255).join(" "));
        assert_eq!(quiesce(world, &too_many), Err("E2BIG".to_owned()));
        // Nothing of it was done.
        assert_eq!(world.guest(5).write("x", "v").as_deref(), Ok(OK));
    });
}

#[test]
fn no_request_is_taken_until_unquiesce_and_others_do_not_notice() {
    each_world(|world| {
        // With four shards 9 is of the same one, 6 of another.
        for domid in [5, 6, 9] {
            world.guest(domid).write("x", "old").unwrap();
        }
        quiesce(world, "5").unwrap();
        let guest = world.guest(5);
        for value in ["1", "2", "3"] {
            guest.send(op::WRITE, 0, format!("x\0{value}"));
        }
        guest.ring().notify();
        let waiting = whole_page(world, 5);
        for round in 0..50 {
            for domid in [6, 9] {
                assert_eq!(world.guest(domid).write("x", &round.to_string()).as_deref(), Ok(OK));
            }
        }
        passes(world, 5);
        assert_eq!(world.admin.read("/local/domain/5/x").as_deref(), Ok(&b"old"[..]));
        assert_eq!(whole_page(world, 5), waiting, "unread bytes stay in the ring");
        unquiesce(world, "5").unwrap();
        for _ in 0..3 {
            assert_eq!(world.guest(5).reply().as_deref(), Ok(OK));
        }
        assert_eq!(world.admin.read("/local/domain/5/x").as_deref(), Ok(&b"3"[..]));
        world.check_store();
    });
}

#[test]
fn half_a_request_is_kept() {
    for cut in [1, 15, 16, 17, 30, 1000, 1500] {
        each_world(|world| {
            let value = "v".repeat(1990);
            let guest = world.guest(5);
            let request = guest.compose(op::WRITE, 0, format!("x\0{value}").as_bytes());
            guest.send_raw(&request[..cut]);
            quiesce(world, "5").unwrap();
            // As much of the other half as there is room for.
            let sent = world.guest(5).ring().try_send(&request[cut..]);
            passes(world, 5);
            assert_eq!(world.admin.read("/local/domain/5/x"), Err("ENOENT".to_owned()));
            unquiesce(world, "5").unwrap();
            let guest = world.guest(5);
            guest.send_raw(&request[cut + sent..]);
            assert_eq!(guest.reply().as_deref(), Ok(OK), "cut at {cut}");
            assert_eq!(world.admin.read("/local/domain/5/x").unwrap().len(), 1990);
        });
    }
}

#[test]
fn a_daemon_that_stops_does_not_write_to_the_page() {
    each_world(|world| {
        quiesced_watcher(world);
        world.admin.write("/shared", "v").unwrap();
        passes(world, 5);
        let before = whole_page(world, 5);
        world.daemon.stop();
        assert_eq!(whole_page(world, 5), before);
    });
}

/// Domain 5 watches what it can read and does not own, and is quiesced.
fn quiesced_watcher(world: &mut World) {
    world.guest(5);
    world.admin.mkdir("/shared").unwrap();
    world.admin.set_perms("/shared", "n0 r5").unwrap();
    world.guest(5).watch("/shared", "t").unwrap();
    assert_eq!(world.next_event("dom5"), "/shared|t");
    quiesce(world, "5").unwrap();
}

#[test]
fn the_page_is_not_written_while_events_wait() {
    each_world(|world| {
        quiesced_watcher(world);
        let (before, charged) = (whole_page(world, 5), world.accounted(5, "memory"));
        for i in 0..100 {
            world.admin.write(&format!("/shared/{i}"), "v").unwrap();
            // Equal ones merge as always.
            world.admin.write("/shared", "v").unwrap();
        }
        world.guest(5).ring().notify();
        passes(world, 5);
        // Nor by another QUIESCE.
        quiesce(world, "5").unwrap();
        assert_eq!(whole_page(world, 5), before);
        // A header, `/shared/0`, `t` and two NULs each.
        assert!(world.accounted(5, "memory") > charged + 100 * 28, "what waits is charged");
        unquiesce(world, "5").unwrap();
        let events = world.events_until_now("dom5");
        assert_eq!(events.len(), 101, "{events:?}");
        assert_eq!(&events[..3], ["/shared/0|t", "/shared|t", "/shared/1|t"]);
    });
}

#[test]
fn events_of_a_quiesced_domain_are_bounded() {
    each_world(|world| {
        quiesced_watcher(world);
        let path = "p".repeat(1000);
        let writes: Vec<_> = (0..1000)
            .map(|i| (op::WRITE, 0, format!("/shared/{path}/{i}\0v").into_bytes()))
            .collect();
        let charged = world.accounted(5, "memory");
        world.admin.pipeline(&writes);
        passes(world, 5);
        let waits = world.accounted(5, "memory") - charged;
        assert!((60 << 10..70 << 10).contains(&waits), "{waits} bytes wait");
        unquiesce(world, "5").unwrap();
        let events = world.events_until_now("dom5");
        assert_eq!(events.first(), Some(&format!("/shared/{path}/0|t")));
        assert_eq!(events.last(), Some(&"/shared|t".to_owned()), "the rest is one");
    });
}

#[test]
fn quiesce_does_not_wait_for_the_guest() {
    each_world(|world| {
        let value = "v".repeat(1000);
        world.guest(5).write("x", &value).unwrap();
        world.guest(5).watch("x", "t").unwrap();
        let guest = world.guest(5);
        for _ in 0..10 {
            guest.send(op::READ, 0, "x\0");
        }
        // Nothing of the replies is taken: the first fills the ring.
        while guest.ring().page().load(at::RSP_PROD) - guest.ring().page().load(at::RSP_CONS)
            < common::ring::RING_BYTES
        {
            std::thread::yield_now();
        }
        quiesce(world, "5").unwrap();
        world.admin.write("/local/domain/5/x", &value).unwrap();
        let before = whole_page(world, 5);
        // What it takes now makes room, which is not used.
        let taken = world.guest(5).ring().take(500);
        world.guest(5).ring().notify();
        passes(world, 5);
        let mut expected = before;
        expected[at::RSP_CONS..at::RSP_CONS + 4]
            .copy_from_slice(&world.guest(5).ring().page().load(at::RSP_CONS).to_le_bytes());
        assert_eq!(whole_page(world, 5), expected);
        unquiesce(world, "5").unwrap();
        let guest = world.guest(5);
        guest.received(&taken);
        for _ in 0..10 {
            assert_eq!(guest.reply().unwrap().len(), 1000);
        }
        assert_eq!(guest.next_event(), "x|t");
        assert_eq!(guest.next_event(), "x|t");
    });
}

/// Makes a domain's request to remove so much that the reaper does it, and sees it taken.
fn long_removal(world: &mut World) {
    world.guest(5);
    world.admin.set_quota(Some(5), "nodes", 1 << 20);
    world.admin.set_quota(Some(5), "memory", 1 << 28);
    let writes: Vec<_> = (0..20_000)
        .map(|i| (op::WRITE, 0, format!("/local/domain/5/many/{}/{i}\0", i % 100).into_bytes()))
        .collect();
    world.admin.pipeline(&writes);
    world.admin.set_perms("/local/domain/5/many", "n5").unwrap();
    world.guest(5).send(op::RM, 0, "many\0");
    let page = world.guest(5).ring().page();
    while page.load(at::REQ_CONS) != page.load(at::REQ_PROD) {
        std::thread::yield_now();
    }
}

#[test]
fn quiesce_waits_for_the_domains_last_request() {
    each_world(|world| {
        long_removal(world);
        world.guest(5).send(op::WRITE, 0, "after\0v");
        assert_eq!(quiesce(world, "5").as_deref(), Ok(OK));
        let guest = world.guest(5);
        guest.poll();
        let arrived = guest.arrived.clone();
        assert_eq!(guest.reply().as_deref(), Ok(OK));
        world.check_store();
        // Mostly only RM, which takes long; its reply is in the ring, and so is each one's that ran.
        assert!(arrived == [op::RM] || arrived == [op::RM, op::WRITE], "{arrived:?}");
        assert_eq!(world.admin.read("/local/domain/5/after").is_ok(), arrived.len() == 2);
        unquiesce(world, "5").unwrap();
        assert_eq!(world.guest(5).reply().as_deref(), Ok(OK));
    });
}

#[test]
fn a_quiesce_that_waits_may_be_overtaken() {
    each_world(|world| {
        // Whichever comes first, each is answered, and as it must be.
        for end in [op::UNQUIESCE, op::RELEASE, op::CONTROL] {
            long_removal(world);
            let mut toolstack = Client::new("toolstack", Link::Socket(world.daemon.connect()));
            toolstack.send(op::QUIESCE, 0, "5\0");
            match end {
                op::CONTROL => world.until_released(5),
                end => drop(world.admin.request(end, 0, "5\0").unwrap()),
            }
            match toolstack.reply() {
                Ok(ok) => assert_eq!(ok, OK),
                Err(error) if end == op::UNQUIESCE => assert_eq!(error, "EAGAIN"),
                Err(error) => assert_eq!(error, "ENOENT"),
            }
            match end {
                op::UNQUIESCE => {
                    // Quiesced after that, if it was.
                    unquiesce(world, "5").unwrap();
                    assert_eq!(world.guest(5).reply().as_deref(), Ok(OK));
                    assert_eq!(world.guest(5).write("x", "v").as_deref(), Ok(OK));
                    world.until_released(5);
                }
                op::RELEASE => {
                    let port = world.ports[&5];
                    let again = format!("5\x001\0{port}\0");
                    assert_eq!(world.admin.request(op::INTRODUCE, 0, again).as_deref(), Ok(OK));
                    assert_eq!(world.guest(5).reply().as_deref(), Ok(OK));
                    world.until_released(5);
                }
                _ => {}
            }
            world.check_store();
        }
    });
}

#[test]
fn a_request_at_a_guard_stays_unread() {
    each_world(|world| {
        world.guest(5).write("hot", "0").unwrap();
        for _ in 0..20 {
            for _ in 0..2 {
                let toolstack = world.client("dom0.t");
                let tx = toolstack.start().unwrap();
                let before = toolstack.request(op::READ, tx, "/local/domain/5/hot\0").unwrap();
                let value = if before == b"a" { "b" } else { "a" };
                world.admin.write("/local/domain/5/hot", value).unwrap();
                assert_eq!(world.client("dom0.t").commit(tx), Err("EAGAIN".to_owned()));
            }
            let toolstack = world.client("dom0.t");
            let tx = toolstack.start().unwrap();
            let value = toolstack.request(op::READ, tx, "/local/domain/5/hot\0").unwrap();
            world.guest(5).send(op::WRITE, 0, "hot\0new");
            quiesce(world, "5").unwrap();
            // It was written before the guard was set, or is still to be written.
            let now = world.admin.read("/local/domain/5/hot").unwrap();
            std::thread::sleep(Duration::from_millis(60));
            assert_eq!(world.admin.read("/local/domain/5/hot").unwrap(), now);
            assert!(now == b"new" || now == value);
            world.client("dom0.t").request(op::TRANSACTION_END, tx, "F\0").unwrap();
            unquiesce(world, "5").unwrap();
            assert_eq!(world.guest(5).reply().as_deref(), Ok(OK));
            assert_eq!(world.admin.read("/local/domain/5/hot").as_deref(), Ok(&b"new"[..]));
        }
    });
}

#[test]
fn nobody_waits_for_a_quiesced_domain_to_take_its_events() {
    for quiesced_first in [true, false] {
        each_world(|world| {
            world.guest(5);
            world.guest(6).write("shared", "v").unwrap();
            world.guest(6).set_perms("shared", "n6 r5").unwrap();
            let token = "t".repeat(400);
            world.guest(5).watch("/local/domain/6/shared", &token).unwrap();
            world.guest(5).next_event();
            if quiesced_first {
                quiesce(world, "5").unwrap();
            }
            let guest = world.guest(6);
            for i in 0..40 {
                guest.send(op::WRITE, 0, format!("shared/{i}\0v"));
            }
            if !quiesced_first {
                // Its requests are outstanding until domain 5 takes its events.
                while world.accounted(6, "outstanding") < 20 {
                    world.guest(6).poll();
                }
                quiesce(world, "5").unwrap();
            }
            for _ in 0..40 {
                assert_eq!(world.guest(6).reply().as_deref(), Ok(OK));
            }
            world.admin.rm("/local/domain/6/shared").unwrap();
            unquiesce(world, "5").unwrap();
            let last = format!("/local/domain/6/shared|{token}");
            while world.guest(5).next_event() != last {}
        });
    }
}

#[test]
fn events_that_a_quiesced_domain_cannot_take_are_not_dropped() {
    let daemon = Daemon::start_with(&["--shards", "2", "-w", "watch-event=3"]);
    let mut world = World::around(daemon, Control::Socket);
    world.guest(5).watch("data", "t").unwrap();
    world.next_event("dom5");
    quiesce(&mut world, "5").unwrap();
    for i in 0..100 {
        world.admin.write(&format!("/local/domain/5/data/{i}"), "").unwrap();
    }
    std::thread::sleep(Duration::from_millis(3500));
    unquiesce(&mut world, "5").unwrap();
    // Nor does the time count afterwards in which it could not: the ring holds forty of them.
    std::thread::sleep(Duration::from_millis(400));
    for i in 0..100 {
        assert_eq!(world.next_event("dom5"), format!("data/{i}|t"));
    }
    assert!(!world.daemon.log().contains("not taken"));
}

#[test]
fn release_and_death_end_a_quiesce() {
    check(
        "
        dom5 WRITE x|1 -> OK
        dom0 QUIESCE 5| -> OK
        dom0 RELEASE 5| -> OK
        dom0 UNQUIESCE 5| -> ENOENT
        dom0 INTRODUCE 5|1|{port5}| -> OK
        dom5 WRITE x|2 -> OK
        dom0 QUIESCE 5| -> OK
        host destroy 5
        ",
    );
    each_world(|world| {
        world.guest(5);
        quiesce(world, "5").unwrap();
        world.until_released(5);
        assert_eq!(unquiesce(world, "5"), Err("ENOENT".to_owned()));
        assert_eq!(world.guest(5).write("x", "v").as_deref(), Ok(OK), "the next life is served");
        world.destroy(5);
    });
}

#[test]
fn release_and_introduce_carry_what_a_quiesced_domain_had() {
    each_world(|world| {
        world.guest(5).watch("data", "t").unwrap();
        world.next_event("dom5");
        quiesce(world, "5").unwrap();
        world.admin.write("/local/domain/5/data", "v").unwrap();
        let guest = world.guest(5);
        let request = guest.compose(op::WRITE, 0, b"x\0v");
        guest.send_raw(&request[..10]);
        let port = world.ports[&5];
        world.admin.request(op::RELEASE, 0, "5\0").unwrap();
        world.admin.request(op::INTRODUCE, 0, format!("5\x001\0{port}\0")).unwrap();
        world.guest(5).send_raw(&request[10..]);
        assert_eq!(world.guest(5).reply().as_deref(), Ok(OK));
        assert_eq!(world.next_event("dom5"), "data|t");
    });
}

#[test]
fn a_quiesced_domain_is_not_introduced_again() {
    check(
        "
        dom5 WATCH data|t| -> OK
        event dom5 data|t
        dom0 QUIESCE 5| -> OK
        dom0 CONTROL quiesce|5| -> OK
        dom0 IS_DOMAIN_INTRODUCED 5| -> T|
        dom0.b INTRODUCE 5|1|{port5}| -> EBUSY
        dom0 UNQUIESCE 5| -> OK
        dom0 WRITE /local/domain/5/data|v -> OK
        event dom5 data|t
        ",
    );
}

#[test]
fn a_reconnection_waits_for_unquiesce() {
    each_world(|world| {
        world.guest(5).watch("data", "t").unwrap();
        world.next_event("dom5");
        quiesce(world, "5").unwrap();
        let page = world.guest(5).ring().page();
        page.store(at::CONNECTION, 1);
        world.guest(5).ring().notify();
        passes(world, 5);
        assert_eq!(world.guest(5).ring().page().load(at::CONNECTION), 1);
        assert_eq!(list(world, 5), ["data|t"]);
        unquiesce(world, "5").unwrap();
        let started = Instant::now();
        while world.guest(5).ring().page().load(at::CONNECTION) != 0 {
            assert!(started.elapsed() < HANG);
        }
        assert_eq!(list(world, 5), [""; 0]);
        world.guest(5).forget();
        assert_eq!(world.guest(5).write("x", "v").as_deref(), Ok(OK));
    });
}

#[test]
fn a_ring_that_was_given_up_can_be_quiesced() {
    each_world(|world| {
        let page = world.guest(5).ring().page();
        page.store(at::REQ_PROD, page.load(at::REQ_CONS).wrapping_add(5000));
        world.guest(5).ring().notify();
        let started = Instant::now();
        while world.guest(5).ring().page().load(at::ERROR) == 0 {
            assert!(started.elapsed() < HANG);
        }
        assert_eq!(quiesce(world, "5").as_deref(), Ok(OK));
        assert_eq!(unquiesce(world, "5").as_deref(), Ok(OK));
        // Indices that make no sense are found by QUIESCE too.
        world.guest(6);
        let page = world.guest(6).ring().page();
        page.store(at::RSP_CONS, page.load(at::RSP_PROD).wrapping_add(5000));
        assert_eq!(quiesce(world, "6").as_deref(), Ok(OK));
        assert_ne!(world.guest(6).ring().page().load(at::ERROR), 0);
        world.check_store();
    });
}

#[test]
fn a_report_names_who_is_quiesced() {
    each_world(|world| {
        for domid in [5, 6, 7] {
            world.guest(domid);
        }
        let report = |world: &mut World| {
            let file = world.daemon.path("report");
            let _ = std::fs::remove_file(&file);
            world.admin.control(&format!("memreport {}", file.display())).unwrap();
            let text = std::fs::read_to_string(file).unwrap();
            text.lines().find(|line| line.starts_with("quiesced")).unwrap().to_owned()
        };
        assert_eq!(report(world), "quiesced domains: 0");
        quiesce(world, "5 7").unwrap();
        assert_eq!(report(world), "quiesced domains: 2: 5, 7");
        world.admin.request(op::RELEASE, 0, "5\0").unwrap();
        unquiesce(world, "7").unwrap();
        assert_eq!(report(world), "quiesced domains: 0");
    });
}

#[test]
fn watches_are_listed_as_the_domain_wrote_them() {
    each_world(|world| {
        world.guest(5);
        assert_eq!(list(world, 5), [""; 0]);
        let watches = [
            ("@releaseDomain", "special"),
            ("data", "relative"),
            ("/local/domain/5/data", "absolute"),
            ("/local/domain/0/backend", "upper"),
            ("/", "all"),
            ("/elsewhere", ""),
            ("data", " odd\\\n\x01\x7f"),
        ];
        for (path, token) in watches {
            world.guest(5).watch(path, token).unwrap();
        }
        let reply = world.admin.request(op::GET_DOMAIN_WATCHES, 0, "5\x000").unwrap();
        let at = reply.iter().position(|&byte| byte == 0).unwrap();
        let expected = watches.map(|(path, token)| format!("{path}\0{token}\0")).concat();
        assert_eq!(show_all(&reply[at + 1..]), show_all(expected.as_bytes()));
        // As a text every token is a word.
        let text = show(&world.admin.control("get-domain-watches 5 5").unwrap());
        let (generation, _) = page(world, 5, 0);
        let odd = "data \\x20odd\\x5c\\x0a\\x01\\x7f\n";
        assert_eq!(text, format!("{generation}\n/elsewhere \n{odd}|"));
        // Setting them took events that are of no interest here.
        world.guest(5).poll();
        world.guest(5).take_events();
    });
}

#[test]
fn the_generation_changes_with_the_list() {
    each_world(|world| {
        world.guest(5);
        let mut seen = vec![page(world, 5, 0).0];
        let mut changed = |world: &mut World, expected: &[&str]| {
            let (generation, watches) = page(world, 5, 0);
            assert_eq!(watches, expected);
            assert_eq!(page(world, 5, 1).0, generation, "of every page");
            assert!(!seen.contains(&generation), "{generation} is used again");
            seen.push(generation);
        };
        for path in ["a", "b", "c"] {
            world.guest(5).watch(path, "t").unwrap();
        }
        changed(world, &["a|t", "b|t", "c|t"]);
        world.guest(5).unwatch("b", "t").unwrap();
        changed(world, &["a|t", "c|t"]);
        // In the place of the one that is gone, and behind those that are not.
        world.guest(5).watch("d", "t").unwrap();
        changed(world, &["a|t", "c|t", "d|t"]);
        world.guest(5).request(op::RESET_WATCHES, 0, "\0").unwrap();
        changed(world, &[]);
        world.guest(5).watch("e", "t").unwrap();
        changed(world, &["e|t"]);
        let port = world.ports[&5];
        world.admin.request(op::RELEASE, 0, "5\0").unwrap();
        world.admin.request(op::INTRODUCE, 0, format!("5\x001\0{port}\0")).unwrap();
        changed(world, &[]);
    });
}

#[test]
fn a_list_longer_than_a_payload_is_cut_between_watches() {
    each_world(|world| {
        let expected: Vec<_> =
            (0..200).map(|i| format!("w{i}|{}", "t".repeat(i * 7 % 300))).collect();
        for watch in &expected {
            let (path, token) = watch.split_once('|').unwrap();
            world.guest(5).watch(path, token).unwrap();
            world.guest(5).next_event();
        }
        assert_eq!(list(world, 5), expected);
        let (_, first) = page(world, 5, 0);
        assert!(first.len() < 200 && first.len() > 20, "{}", first.len());
        for index in [1, 57, 199] {
            let (_, part) = page(world, 5, index);
            assert_eq!(part[..], expected[index..index + part.len()]);
        }
        for index in [200, 201, 4_000_000_000] {
            assert_eq!(page(world, 5, index).1, [""; 0]);
        }
        // As a text too, of which odd bytes take more.
        let text = show_all(&world.admin.control("get-domain-watches 5 0").unwrap());
        let lines: Vec<_> = text.lines().skip(1).filter(|line| *line != "|").collect();
        assert!(lines.len() > 20);
        for (line, watch) in lines.iter().zip(&expected) {
            assert_eq!(*line, watch.replace('|', " "));
        }
    });
}

#[test]
fn a_watch_that_no_reply_holds_is_e2big() {
    each_world(|world| {
        world.guest(5).watch("a", "short").unwrap();
        world.guest(5).watch("b", &"t".repeat(4092)).unwrap();
        world.guest(5).watch("c", &"\n".repeat(1100)).unwrap();
        let get = |world: &mut World, index: usize| {
            world.admin.request(op::GET_DOMAIN_WATCHES, 0, format!("5\0{index}\0"))
        };
        assert_eq!(page(world, 5, 0).1, ["a|short"]);
        assert_eq!(get(world, 1).err().as_deref(), Some("E2BIG"));
        assert_eq!(get(world, 2).unwrap().len() - page(world, 5, 3).0.to_string().len(), 1104);
        let text = world.admin.control("get-domain-watches 5 2");
        assert_eq!(text.err().as_deref(), Some("E2BIG"), "four bytes for each");
        world.guest(5).poll();
        world.guest(5).take_events();
    });
}

#[test]
fn depths_are_listed_and_added_by_an_operation_of_their_own() {
    check(
        "
        dom5 WATCH a|t| -> OK
        dom5 WATCH b|t|2| -> OK
        dom5 WATCH c|t|0| -> OK
        dom0 ADD_DOMAIN_WATCHES_DEPTH 5|d|t||e|t|1|f||0| -> OK
        events dom5 a|t b|t c|t d|t e|t f|
        dom0 WRITE /local/domain/5/e/1|v -> OK
        dom0 WRITE /local/domain/5/e/1/2|v -> OK
        event dom5 e/1|t
        no events dom5
        ",
    );
    each_world(|world| {
        for watch in ["a\0t\0", "b\0t\x002\0", "c\0t\x000\0"] {
            world.guest(5).request(op::WATCH, 0, watch).unwrap();
            world.guest(5).next_event();
        }
        let reply = world.admin.request(op::GET_DOMAIN_WATCHES_DEPTH, 0, "5\x001").unwrap();
        assert!(show(&reply).ends_with("|b|t|2|c|t|0|"), "{}", show(&reply));
        let reply = world.admin.request(op::GET_DOMAIN_WATCHES_DEPTH, 0, "5\x000\0").unwrap();
        assert!(show(&reply).contains("|a|t||b|t|2|"), "{}", show(&reply));
        let text = show(&world.admin.control("get-domain-watches -d 5 0").unwrap());
        assert!(text.ends_with("\na t \nb t 2\nc t 0\n|"), "{text}");
    });
}

#[test]
fn watches_are_added_as_if_the_domain_had() {
    check(
        "
        dom0 ADD_DOMAIN_WATCHES 5|data|rel|/local/domain/5/data|abs|@releaseDomain|s|/hidden|h| -> OK
        events dom5 data|rel /local/domain/5/data|abs @releaseDomain|s /hidden|h
        dom0 WRITE /local/domain/5/data/x|v -> OK
        events dom5 data/x|rel /local/domain/5/data/x|abs
        # Permissions are the domain's.
        dom0 WRITE /hidden/x|v -> OK
        no events dom5
        dom5 UNWATCH data|rel| -> OK
        dom0 WRITE /local/domain/5/data/x|v -> OK
        event dom5 /local/domain/5/data/x|abs
        # Without the last NUL, and an empty token.
        dom0 ADD_DOMAIN_WATCHES 5|one|t -> OK
        dom0 ADD_DOMAIN_WATCHES 5|two|| -> OK
        events dom5 one|t two|
        # As commands.
        dom0 CONTROL add-domain-watches|5|data|odd\\x5cx41word|data|t| -> OK
        events dom5 data|oddAword data|t
        dom0 CONTROL add-domain-watches|5|data|bad\\x5c| -> EINVAL
        dom0 CONTROL add-domain-watches|-d|5|deep|t|1| -> OK
        event dom5 deep|t
        ",
    );
}

#[test]
fn watches_are_added_all_or_none() {
    check(
        "
        dom5 WATCH known|t| -> OK
        event dom5 known|t
        dom0 ADD_DOMAIN_WATCHES 5|known|t| -> EEXIST
        dom0 ADD_DOMAIN_WATCHES 5|new|t|known|t| -> EEXIST
        dom0 ADD_DOMAIN_WATCHES 5|new|t|new|t| -> EEXIST
        dom0 ADD_DOMAIN_WATCHES 5|new|t|/local/domain/5/new|t| -> EEXIST
        dom0 ADD_DOMAIN_WATCHES 5|new|t|a//b|t| -> EINVAL
        dom0 SET_QUOTA 5|watches|3| -> OK
        dom0 ADD_DOMAIN_WATCHES 5|1|t|2|t|3|t| -> ENOSPC
        no events dom5
        dom0 WRITE /local/domain/5/new|v -> OK
        dom0 WRITE /local/domain/5/1|v -> OK
        no events dom5
        dom0 ADD_DOMAIN_WATCHES 5|1|t| -> OK
        event dom5 1|t
        ",
    );
}

#[test]
fn the_watches_of_one_daemon_are_set_in_another() {
    for shards in [1, 4] {
        let mut from = World::new(Control::Socket, shards);
        for i in 0..300 {
            let path = ["data", "/local/domain/5/data", "@introduceDomain", "/"][i % 4];
            let token: Vec<u8> = (0..i % 50).map(|j| 1 + u8::try_from(j * 5).unwrap()).collect();
            let number = i.to_string();
            let payload = [path.as_bytes(), b"\0", number.as_bytes(), &token, b"\0"];
            from.guest(5).request(op::WATCH, 0, payload.concat()).unwrap();
            from.guest(5).poll();
        }
        quiesce(&mut from, "5").unwrap();
        let mut to = World::new(Control::Socket, shards);
        to.guest(5);
        let pages = pages_with_depth(&mut from);
        assert!(pages.len() > 2);
        for page in &pages {
            let add = [b"5\0", &page[..]].concat();
            to.admin.request(op::ADD_DOMAIN_WATCHES_DEPTH, 0, add).unwrap();
            to.guest(5).poll();
        }
        assert_eq!(pages_with_depth(&mut to).concat(), pages.concat());
    }
}

/// All watches of domain 5 as they go into ADD_DOMAIN_WATCHES_DEPTH, page by page.
fn pages_with_depth(world: &mut World) -> Vec<Vec<u8>> {
    let (mut index, mut pages) = (0, Vec::new());
    loop {
        let get = format!("5\0{index}\0");
        let mut reply = world.admin.request(op::GET_DOMAIN_WATCHES_DEPTH, 0, get).unwrap();
        let at = reply.iter().position(|&byte| byte == 0).unwrap();
        let watches = reply.split_off(at + 1);
        if watches.is_empty() {
            return pages;
        }
        index += watches.iter().filter(|&&byte| byte == 0).count() / 3;
        pages.push(watches);
    }
}

#[test]
fn a_quiesced_domain_is_given_watches_and_told_later() {
    each_world(|world| {
        world.guest(5);
        quiesce(world, "5").unwrap();
        let before = whole_page(world, 5);
        world.admin.request(op::ADD_DOMAIN_WATCHES, 0, "5\0data\0t\0").unwrap();
        world.admin.request(op::START_DOMAIN_TRANSACTION, 0, "5\x0077\0").unwrap();
        passes(world, 5);
        assert_eq!(whole_page(world, 5), before);
        assert_eq!(list(world, 5), ["data|t"]);
        unquiesce(world, "5").unwrap();
        assert_eq!(world.next_event("dom5"), "data|t");
        assert_eq!(world.guest(5).commit(77), Err("EAGAIN".to_owned()));
    });
}

#[test]
fn a_reserved_transaction_goes_on_and_ends_in_eagain() {
    check(
        "
        dom5 WRITE x|old -> OK
        dom5 #77 READ x| -> ENOENT
        dom0 START_DOMAIN_TRANSACTION 5|77| -> OK
        dom0 START_DOMAIN_TRANSACTION 5|4294967295| -> OK
        dom5 #77 READ x| -> old
        dom5 #77 WRITE x|new -> OK
        dom5 #77 READ x| -> new
        dom5 #77 DIRECTORY | -> EINVAL
        dom5 #77 RM none/at/all| -> ENOENT
        dom5 READ x| -> old
        dom5 #77 END T| -> EAGAIN
        dom5 #77 END T| -> ENOENT
        dom5 READ x| -> old
        dom5 #4294967295 READ x| -> old
        dom5 #4294967295 END F| -> OK
        # Nothing was done in it, and it cannot be said that nothing was elsewhere.
        dom0 CONTROL start-domain-transaction|5|78| -> OK
        dom5 #78 END T| -> EAGAIN
        # It is nobody else's.
        dom0 START_DOMAIN_TRANSACTION 5|79| -> OK
        dom6 #79 READ x| -> ENOENT
        dom0 #79 READ /| -> ENOENT
        dom5 RESET_WATCHES | -> OK
        dom5 #79 READ x| -> ENOENT
        ",
    );
}

#[test]
fn an_identifier_in_use() {
    check(
        "
        dom5 START t1
        dom5 t1 WRITE x|v -> OK
        dom0 START_DOMAIN_TRANSACTION 5|1| -> EEXIST
        dom0 START_DOMAIN_TRANSACTION 5|2| -> OK
        dom0 START_DOMAIN_TRANSACTION 5|2| -> EEXIST
        # What the daemon gives out is free.
        dom5 START t3
        dom5 t3 WRITE y|v -> OK
        dom5 #2 WRITE z|v -> OK
        dom5 t1 END T| -> OK
        dom5 t3 END T| -> OK
        dom5 #2 END T| -> EAGAIN
        dom5 READ z| -> ENOENT
        dom0 SET_QUOTA 5|transactions|1| -> OK
        dom0 START_DOMAIN_TRANSACTION 5|1| -> OK
        dom0 START_DOMAIN_TRANSACTION 5|2| -> ENOSPC
        dom5 TYPE6 | -> ENOSPC
        dom5 #1 END F| -> OK
        dom0 START_DOMAIN_TRANSACTION 5|2| -> OK
        ",
    );
}

/// Snapshots are given up after a second: the log is run again, and what was decided stays.
#[test]
fn a_reserved_transaction_may_take_its_time() {
    each_world(|world| {
        world.guest(5).write("x", "old").unwrap();
        world.admin.request(op::START_DOMAIN_TRANSACTION, 0, "5\x009\0").unwrap();
        let guest = world.guest(5);
        assert_eq!(guest.request(op::READ, 9, "x\0").as_deref(), Ok(&b"old"[..]));
        std::thread::sleep(Duration::from_millis(1300));
        world.admin.write("/local/domain/5/other", "v").unwrap();
        let guest = world.guest(5);
        assert_eq!(guest.request(op::READ, 9, "other\0").as_deref(), Ok(&b"v"[..]));
        assert_eq!(guest.commit(9), Err("EAGAIN".to_owned()));
    });
}

/// A domain's open transactions are neither ended nor held up by a quiesce.
#[test]
fn transactions_are_open_after_a_quiesce() {
    check(
        "
        dom5 START t
        dom5 t WRITE x|v -> OK
        dom0 QUIESCE 5| -> OK
        dom0 UNQUIESCE 5| -> OK
        dom5 t WRITE y|v -> OK
        dom5 t END T| -> OK
        dom5 READ x| -> v
        ",
    );
}

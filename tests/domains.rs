//! Operations about domains, and what the host says of them.

mod common;

use std::sync::atomic::Ordering;
use std::time::Instant;

use common::ring::at;
use common::{Control, HANG, World, check, op};

#[test]
fn introduce_and_release() {
    check(
        "
        dom0 IS_DOMAIN_INTRODUCED 0| -> T|
        dom0 IS_DOMAIN_INTRODUCED 7| -> F|
        dom0 IS_DOMAIN_INTRODUCED 32752| -> T|
        dom0 IS_DOMAIN_INTRODUCED x| -> EINVAL
        dom0 IS_DOMAIN_INTRODUCED 65536| -> EINVAL
        dom0 IS_DOMAIN_INTRODUCED 7 -> EINVAL
        host create 7
        dom0 IS_DOMAIN_INTRODUCED 7| -> F|
        dom0 INTRODUCE 7|1| -> EINVAL
        dom0 INTRODUCE 7|1|0| -> EINVAL
        dom0 INTRODUCE x|1|1| -> EINVAL
        dom0 INTRODUCE 65536|1|1| -> EINVAL
        dom0 INTRODUCE 7|1|{port7}| -> OK
        dom0 IS_DOMAIN_INTRODUCED 7| -> T|
        dom7 GET_DOMAIN_PATH 7| -> /local/domain/7|
        dom0 RELEASE 7| -> OK
        dom0 IS_DOMAIN_INTRODUCED 7| -> F|
        dom0 RELEASE 7| -> ENOENT
        dom0 RELEASE 0| -> EINVAL
        dom0 RELEASE x| -> EINVAL
        dom0 RELEASE 7 -> EINVAL
        dom0 RELEASE 77| -> ENOENT
        close dom7
        ",
    );
}

#[test]
fn introducing_a_domain_that_does_not_exist_fails() {
    for control in [Control::Socket, Control::Ring] {
        let mut world = World::new(control, 4);
        let client = world.client("dom0");
        client.request(op::INTRODUCE, 0, "99\x001\x001\0").unwrap_err();
        let reply = client.request(op::IS_DOMAIN_INTRODUCED, 0, "99\0");
        assert_eq!(reply.as_deref(), Ok(&b"F\0"[..]));
    }
}

#[test]
fn domain_paths() {
    check(
        "
        dom0 GET_DOMAIN_PATH 0| -> /local/domain/0|
        dom0 GET_DOMAIN_PATH 5| -> /local/domain/5|
        dom0 GET_DOMAIN_PATH 007| -> /local/domain/7|
        dom0 GET_DOMAIN_PATH x| -> EINVAL
        dom0 GET_DOMAIN_PATH 65536| -> EINVAL
        dom0 GET_DOMAIN_PATH 5 -> EINVAL
        dom0 GET_DOMAIN_PATH 5|6| -> EINVAL
        ",
    );
}

#[test]
fn resume_and_set_target() {
    check(
        "
        dom0 RESUME 0| -> EINVAL
        dom0 RESUME 77| -> ENOENT
        dom0 RESUME x| -> EINVAL
        dom0 RESUME 5| -> OK
        dom0 SET_TARGET 5| -> EINVAL
        dom0 SET_TARGET 0|5| -> EINVAL
        dom0 SET_TARGET 77|5| -> ENOENT
        dom0 SET_TARGET 5|77| -> ENOENT
        dom0 SET_TARGET x|5| -> EINVAL
        dom6 WRITE mine|v -> OK
        dom0 WRITE /for6|v -> OK
        dom0 SET_PERMS /for6|n0|r6| -> OK
        dom5 READ /local/domain/6/mine| -> EACCES
        dom0 SET_TARGET 5|6| -> OK
        # What domain 6 may do, domain 5 may now do too.
        dom5 READ /local/domain/6/mine| -> v
        dom5 WRITE /local/domain/6/mine|w -> OK
        dom5 READ /for6| -> v
        dom5 SET_PERMS /local/domain/6/mine|n6|r7| -> OK
        dom5 WRITE /local/domain/6/made|v -> OK
        dom0 GET_PERMS /local/domain/6/made| -> n5|
        dom6 READ mine| -> w
        dom6 READ /local/domain/5| -> EACCES
        ",
    );
}

#[test]
fn shutdown_is_reported_once_until_resumed() {
    check(
        "
        dom0 WATCH @releaseDomain|r|1| -> OK
        event dom0 @releaseDomain|r
        dom0 WATCH @releaseDomain/8|eight| -> OK
        event dom0 @releaseDomain/8|eight
        host create 7
        host introduce 7
        host create 8
        host introduce 8
        host shutdown 7
        event dom0 @releaseDomain/7|r
        dom0 IS_DOMAIN_INTRODUCED 7| -> T|
        dom7 WRITE x|v -> EACCES
        # Not again without RESUME: domain 8's comes next.
        host resume 7
        dom0 RESUME 7| -> OK
        host shutdown 8
        events dom0 @releaseDomain/8|r @releaseDomain/8|eight
        host shutdown 7
        event dom0 @releaseDomain/7|r
        host destroy 7
        event dom0 @releaseDomain/7|r
        dom0 IS_DOMAIN_INTRODUCED 7| -> F|
        dom0 RESUME 7| -> ENOENT
        ",
    );
}

#[test]
fn release_keeps_the_nodes_of_a_living_domain() {
    check(
        "
        host create 7
        dom0 MKDIR /local/domain/7| -> OK
        dom0 SET_PERMS /local/domain/7|n7| -> OK
        host introduce 7
        dom7 WRITE x|v -> OK
        dom7 WATCH x|t| -> OK
        event dom7 x|t
        dom0 WATCH @releaseDomain|r| -> OK
        event dom0 @releaseDomain|r
        dom0 RELEASE 7| -> OK
        event dom0 @releaseDomain|r
        dom0 READ /local/domain/7/x| -> v
        dom0 GET_PERMS /local/domain/7/x| -> n7|
        dom0 INTRODUCE 7|1|{port7}| -> OK
        dom7 READ x| -> v
        dom7 WATCH x|t| -> OK
        event dom7 x|t
        ",
    );
}

#[test]
fn a_dead_domains_nodes_are_removed_wherever_they_are() {
    check(
        "
        dom0 MKDIR /local/domain/7| -> OK
        dom0 MKDIR /shared/by7| -> OK
        dom0 WRITE /local/domain/0/backend/vif/7/0|v -> OK
        dom0 WRITE /others/seven|v -> OK
        dom0 WRITE /others/zero|v -> OK
        host create 7
        dom0 SET_PERMS /local/domain/7|n7| -> OK
        dom0 SET_PERMS /shared/by7|n7| -> OK
        dom0 SET_PERMS /local/domain/0/backend/vif/7/0|n7| -> OK
        dom0 SET_PERMS /others/seven|n7| -> OK
        dom0 SET_PERMS /others/zero|n0|r7| -> OK
        host introduce 7
        dom7 WRITE /local/domain/7/a/b|v -> OK
        dom7 WRITE /shared/by7/deep/er|v -> OK
        dom0 WATCH @releaseDomain|r| -> OK
        event dom0 @releaseDomain|r
        host destroy 7
        event dom0 @releaseDomain|r
        # By the time the event is seen, they are gone.
        dom0 READ /local/domain/7| -> ENOENT
        dom0 READ /shared/by7/deep/er| -> ENOENT
        dom0 DIRECTORY /shared| -> \"\"
        dom0 READ /local/domain/0/backend/vif/7/0| -> ENOENT
        dom0 DIRECTORY /others| -> zero|
        dom0 READ /others/zero| -> v
        dom0 IS_DOMAIN_INTRODUCED 7| -> F|
        ",
    );
}

#[test]
fn watchers_are_told_of_a_dead_domains_nodes() {
    check(
        "
        host create 7
        dom0 MKDIR /local/domain/7| -> OK
        dom0 SET_PERMS /local/domain/7|n7| -> OK
        host introduce 7
        dom7 WRITE x|v -> OK
        dom0 WATCH /local/domain/7|home| -> OK
        event dom0 /local/domain/7|home
        dom0 WATCH /local/domain/7/x|leaf| -> OK
        event dom0 /local/domain/7/x|leaf
        dom0 WATCH @releaseDomain|r| -> OK
        event dom0 @releaseDomain|r
        host destroy 7
        events dom0 /local/domain/7|home /local/domain/7/x|leaf
        event dom0 @releaseDomain|r
        ",
    );
}

#[test]
fn a_reused_domid_begins_anew() {
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            let mut world = World::new(control, shards);
            world.admin.write("/keep", "v").unwrap();
            for round in 0..20 {
                let guest = world.guest(7);
                assert_eq!(guest.read("old"), Err("ENOENT".to_owned()), "round {round}");
                guest.write("old", "v").unwrap();
                guest.watch("old", "t").unwrap();
                assert_eq!(guest.next_event(), "old|t");
                guest.start().unwrap();
                assert_eq!(world.nodes_of(7), 2);
                world.admin.set_perms("/keep", "n0 r7").unwrap();
                assert!(world.guest(7).read("/keep").is_ok());
                world.until_released(7);
                world.close("dom7");
                world.guest(7);
                assert_eq!(world.guest(7).read("/keep"), Err("EACCES".to_owned()));
                world.until_released(7);
                world.close("dom7");
            }
            world.check_store();
        }
    }
}

/// The host may give a number again before the death of its former domain was heard of. Who
/// introduces the new one first, and then makes its home, is not robbed of it.
#[test]
fn introduce_is_answered_when_nothing_is_left_of_a_former_life() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        for round in 0..50 {
            world.create(7);
            world.introduce(7);
            assert_eq!(world.admin.read("/local/domain/7"), Err("ENOENT".into()), "round {round}");
            world.admin.write("/local/domain/7", "").unwrap();
            world.admin.set_perms("/local/domain/7", "n7").unwrap();
            assert_eq!(
                world.guest(7).write("a", "1").as_deref(),
                Ok(&b"OK\0"[..]),
                "round {round}"
            );
            world.destroy(7);
        }
    }
}

#[test]
fn a_second_introduce_resets_the_connection_without_an_event() {
    check(
        "
        dom0 WATCH @introduceDomain|i| -> OK
        event dom0 @introduceDomain|i
        dom5 WRITE x|v -> OK
        dom5 WATCH x|t| -> OK
        event dom5 x|t
        dom5 START t1
        dom5 t1 READ x| -> v
        dom0 INTRODUCE 5|1|{port5}| -> OK
        no events dom0
        dom5 t1 END T| -> ENOENT
        dom0 WRITE /local/domain/5/x|w -> OK
        no events dom5
        dom5 READ x| -> w
        dom5 WATCH x|t| -> OK
        event dom5 x|t
        ",
    );
}

#[test]
fn release_and_introduce_finish_half_a_request() {
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            for cut in [0, 1, 7, 15, 16, 17, 30] {
                let mut world = World::new(control, shards);
                let guest = world.guest(5);
                guest.write("x", "old").unwrap();
                let request = guest.compose(op::READ, 0, b"/local/domain/5/x\0");
                guest.send_raw(&request[..cut]);
                let port = world.ports[&5];
                // Whether it was read before or not, it is finished after the pair.
                let client = world.client("dom0");
                client.request(op::RELEASE, 0, "5\0").unwrap();
                client.request(op::INTRODUCE, 0, format!("5\x001\0{port}\0")).unwrap();
                let guest = world.guest(5);
                guest.send_raw(&request[cut..]);
                assert_eq!(guest.reply().as_deref(), Ok(&b"old"[..]), "cut at {cut}");
                assert_eq!(guest.write("x", "new").as_deref(), Ok(&b"OK\0"[..]));
            }
        }
    }
}

/// Introduces domain 5 again, with or without a RELEASE before.
fn introduce_again(world: &mut World, release: bool) {
    let port = world.ports[&5];
    if release {
        world.admin.request(op::RELEASE, 0, "5\0").unwrap();
    }
    world.admin.request(op::INTRODUCE, 0, format!("5\x001\0{port}\0")).unwrap();
}

#[test]
fn release_and_introduce_send_the_rest_of_a_reply() {
    for pairs in [&[true, true][..], &[true, false], &[false, true], &[true, false, true]] {
        let mut world = World::new(Control::Socket, 2);
        let value = "0123456789abcdef".repeat(200);
        world.guest(5);
        world.admin.write("/local/domain/5/long", &value).unwrap();
        let guest = world.guest(5);
        let requests = [guest.compose(op::READ, 0, b"long\0"), guest.compose(op::READ, 0, b"\0")];
        guest.send_raw(&requests.concat());
        for &release in pairs {
            // The ring is full, and the client in the middle of a message.
            let full = |world: &mut World| {
                let page = world.guest(5).ring().page();
                page.load(at::RSP_PROD).wrapping_sub(page.load(at::RSP_CONS)) == 1024
            };
            let started = Instant::now();
            while !full(&mut world) {
                assert!(started.elapsed() < HANG, "the ring is not filled");
                std::thread::yield_now();
            }
            introduce_again(&mut world, release);
            world.guest(5).poll();
        }
        let guest = world.guest(5);
        assert_eq!(guest.reply().as_deref(), Ok(value.as_bytes()), "{pairs:?}");
        assert_eq!(guest.reply(), Err("EINVAL".to_owned()), "{pairs:?}");
        guest.write("x", "v").unwrap();
    }
}

#[test]
fn release_and_introduce_answer_a_removal_that_is_being_settled() {
    for shards in [1, 4] {
        for release in [true, false] {
            let mut world = World::new(Control::Socket, shards);
            world.guest(5);
            world.admin.set_quota(Some(5), "memory", 0);
            // More than a thread settles itself.
            let make = |i| (op::MKDIR, 0, format!("/local/domain/5/big/{i}\0").into_bytes());
            let requests: Vec<_> = (0..30_000).map(make).collect();
            assert!(world.admin.pipeline(&requests).iter().all(Result::is_ok));
            let guest = world.guest(5);
            guest.send(op::RM, 0, "big\0");
            while world.admin.read("/local/domain/5/big").is_ok() {}
            introduce_again(&mut world, release);
            let guest = world.guest(5);
            assert_eq!(guest.reply().as_deref(), Ok(&b"OK\0"[..]));
            guest.write("x", "v").unwrap();
            world.check_store();
        }
    }
}

#[test]
fn release_and_introduce_do_not_write_the_indices() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        world.guest(5).write("x", "v").unwrap();
        let indices = |world: &mut World| {
            let page = world.guest(5).ring().page();
            [at::REQ_CONS, at::REQ_PROD, at::RSP_CONS, at::RSP_PROD].map(|offset| page.load(offset))
        };
        let before = indices(&mut world);
        assert_ne!(before[0], 0);
        let port = world.ports[&5];
        world.admin.request(op::RELEASE, 0, "5\0").unwrap();
        assert_eq!(indices(&mut world), before);
        world.admin.request(op::INTRODUCE, 0, format!("5\x001\0{port}\0")).unwrap();
        assert_eq!(indices(&mut world), before);
        assert_eq!(world.guest(5).read("x").as_deref(), Ok(&b"v"[..]));
    }
}

#[test]
fn requests_written_before_introduce_are_answered() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        world.create(7);
        let request =
            common::Message { kind: op::GET_DOMAIN_PATH, req: 1, tx: 0, payload: b"7\0".to_vec() };
        // Through the page alone: nobody is there to be notified yet.
        let ring = common::ring::Ring { guest: world.guests.remove(&7).unwrap() };
        assert_eq!(ring.put(&request.encode()), 18);
        world.introduce(7);
        let mut bytes = Vec::new();
        while bytes.len() < 16 + "/local/domain/7|".len() {
            bytes.extend(ring.try_recv());
            assert!(bytes.len() > 16 || ring.wait(HANG), "no answer");
        }
        assert!(bytes.ends_with(b"/local/domain/7\0"));
    }
}

#[test]
fn ring_indices_wrap_around() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        world.create(7);
        let guest = &world.guests[&7];
        // Neither side may assume that indices begin at zero.
        for (cons, prod) in [(at::REQ_CONS, at::REQ_PROD), (at::RSP_CONS, at::RSP_PROD)] {
            guest.page.word(cons).store(u32::MAX - 300, Ordering::Release);
            guest.page.word(prod).store(u32::MAX - 300, Ordering::Release);
        }
        world.admin.mkdir("/local/domain/7").unwrap();
        world.admin.set_perms("/local/domain/7", "n7").unwrap();
        world.introduce(7);
        let value = "v".repeat(700);
        for _ in 0..20 {
            let guest = world.guest(7);
            guest.write("x", &value).unwrap();
            assert_eq!(guest.read("x").as_deref(), Ok(value.as_bytes()));
        }
    }
}

#[test]
fn messages_longer_than_the_ring() {
    let quota = |world: &mut World| world.admin.set_quota(Some(5), "node-size", 0);
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            let mut world = World::new(control, shards);
            world.guest(5);
            quota(&mut world);
            for (name, path) in [("dom5", "/local/domain/5/x"), ("dom0", "/x")] {
                let value = "v".repeat(4096 - path.len() - 1);
                let client = world.client(name);
                client.write(path, &value).unwrap();
                assert_eq!(client.read(path).as_deref(), Ok(value.as_bytes()));
            }
        }
    }
}

#[test]
fn features_are_written_to_the_page() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        assert_eq!(world.guest(5).ring().page().load(at::FEATURES), 15);
        world.create(7);
        world.admin.request(op::SET_FEATURE, 0, "7\x006\0").unwrap();
        world.introduce(7);
        assert_eq!(world.guest(7).ring().page().load(at::FEATURES), 6);
    }
}

#[test]
fn a_guest_reconnects() {
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            let mut world = World::new(control, shards);
            let guest = world.guest(5);
            guest.write("x", "v").unwrap();
            guest.watch("x", "t").unwrap();
            assert_eq!(guest.next_event(), "x|t");
            let tx = guest.start().unwrap();
            // Half a request and an unread reply are dropped with the rest.
            let half = guest.compose(op::READ, 0, b"x\0");
            guest.send_raw(&half[..10]);
            reconnect(&mut world, 5);
            let guest = world.guest(5);
            let ring = guest.ring().page();
            assert_eq!(ring.load(at::RSP_CONS), ring.load(at::RSP_PROD), "the queues are empty");
            assert_eq!(ring.load(at::REQ_CONS), ring.load(at::REQ_PROD), "the queues are empty");
            assert_eq!(guest.commit(tx), Err("ENOENT".to_owned()));
            assert_eq!(guest.write("x", "w").as_deref(), Ok(&b"OK\0"[..]));
            assert!(world.events_until_now("dom5").is_empty());
            assert_eq!(world.guest(5).watch("x", "t").as_deref(), Ok(&b"OK\0"[..]));
        }
    }
}

/// Asks for a reset of the ring as xenstore-ring.txt says, and waits for it.
fn reconnect(world: &mut World, domid: u16) {
    let name = format!("dom{domid}");
    let guest = world.client(&name);
    guest.ring().page().store(at::CONNECTION, 1);
    guest.ring().notify();
    while guest.ring().page().load(at::CONNECTION) != 0 {
        assert!(guest.ring().wait(HANG), "no reconnection");
    }
    guest.forget();
    world.watches_were_reset(&name);
}

#[test]
fn a_broken_ring_is_mended_by_reconnecting_or_introducing() {
    for shards in [1, 4] {
        for by_introduce in [false, true] {
            let mut world = World::new(Control::Socket, shards);
            let guest = world.guest(5);
            guest.write("x", "v").unwrap();
            let prod = guest.ring().page().load(at::REQ_PROD);
            guest.ring().page().store(at::REQ_PROD, prod.wrapping_add(5000));
            guest.ring().notify();
            while guest.ring().page().load(at::ERROR) == 0 {
                assert!(guest.ring().wait(HANG), "no error is indicated");
            }
            assert_eq!(guest.ring().page().load(at::ERROR), 2);
            if by_introduce {
                // The toolstack's part: indices that hold, then INTRODUCE.
                guest.ring().page().store(at::REQ_PROD, prod);
                let port = world.ports[&5];
                world.admin.request(op::INTRODUCE, 0, format!("5\x001\0{port}\0")).unwrap();
                world.guest(5).forget();
            } else {
                reconnect(&mut world, 5);
            }
            let guest = world.guest(5);
            assert_eq!(guest.read("x").as_deref(), Ok(&b"v"[..]), "by INTRODUCE: {by_introduce}");
            assert_eq!(guest.ring().page().load(at::ERROR), 0);
        }
    }
}

#[test]
fn a_port_in_the_page_overrides_that_of_introduce() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        world.create(7);
        let port = world.ports[&7];
        world.guests[&7].page.store(at::EVTCHN_PORT, port);
        world.admin.request(op::INTRODUCE, 0, format!("7\x001\0{}\0", port + 1000)).unwrap();
        world.connect_guest(7);
        let path = world.guest(7).request(op::GET_DOMAIN_PATH, 0, "7\0");
        assert_eq!(path.as_deref(), Ok(&b"/local/domain/7\0"[..]));
    }
}

#[test]
fn a_toolstacks_order_of_things() {
    // libxl sets permissions for a domain that exists before it introduces it.
    check(
        "
        host create 7
        dom0 WATCH @introduceDomain|i| -> OK
        event dom0 @introduceDomain|i
        dom0 START t1
        dom0 t1 MKDIR /local/domain/7| -> OK
        dom0 t1 SET_PERMS /local/domain/7|n0|r7| -> OK
        dom0 t1 MKDIR /local/domain/7/data| -> OK
        dom0 t1 SET_PERMS /local/domain/7/data|n7| -> OK
        dom0 t1 WRITE /local/domain/7/name|seven -> OK
        dom0 t1 END T| -> OK
        host introduce 7
        event dom0 @introduceDomain|i
        dom7 READ name| -> seven
        dom7 WRITE name|other -> EACCES
        dom7 WRITE data/x|v -> OK
        dom0 GET_PERMS /local/domain/7/data/x| -> n7|
        ",
    );
}

//! Connections that are reset, by INTRODUCE and RELEASE or by the guest.

use super::*;

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
                // The request is completed after RELEASE and INTRODUCE, whether or not its first half was read before.
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
            // The ring is full, and the client has read half a message.
            let full = |world: &mut World| {
                let page = world.guest(5).ring().page();
                page.load(at::RSP_PROD).wrapping_sub(page.load(at::RSP_CONS)) == 1024
            };
            let started = Instant::now();
            while !full(&mut world) {
                assert!(started.elapsed() < HANG, "timed out waiting for a full ring");
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
fn release_and_introduce_reply_to_an_unsettled_removal() {
    for shards in [1, 4] {
        for release in [true, false] {
            let mut world = World::new(Control::Socket, shards);
            world.guest(5);
            world.admin.set_quota(Some(5), "memory", 0);
            // The tree has more nodes than a thread settles itself.
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
fn requests_written_before_introduce_are_served() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        world.create(7);
        let request =
            common::Message { kind: op::GET_DOMAIN_PATH, req: 1, tx: 0, payload: b"7\0".to_vec() };
        // The guest only writes its page: there is no daemon yet that it could notify.
        let ring = common::ring::Ring { guest: world.guests.remove(&7).unwrap() };
        assert_eq!(ring.put(&request.encode()), 18);
        world.introduce(7);
        let mut bytes = Vec::new();
        while bytes.len() < 16 + "/local/domain/7|".len() {
            bytes.extend(ring.try_recv());
            assert!(bytes.len() > 16 || ring.wait(HANG), "no reply");
        }
        assert!(bytes.ends_with(b"/local/domain/7\0"));
    }
}

#[test]
fn reconnect_empties_the_ring_and_ends_transactions() {
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            let mut world = World::new(control, shards);
            let guest = world.guest(5);
            guest.write("x", "v").unwrap();
            guest.watch("x", "t").unwrap();
            assert_eq!(guest.next_event(), "x|t");
            let tx = guest.start().unwrap();
            // Half a request and an unread reply are dropped with everything else.
            let half = guest.compose(op::READ, 0, b"x\0");
            guest.send_raw(&half[..10]);
            reconnect(&mut world, 5);
            let guest = world.guest(5);
            let ring = guest.ring().page();
            assert_eq!(
                ring.load(at::RSP_CONS),
                ring.load(at::RSP_PROD),
                "the rings are empty after a reconnection"
            );
            assert_eq!(
                ring.load(at::REQ_CONS),
                ring.load(at::REQ_PROD),
                "the rings are empty after a reconnection"
            );
            assert_eq!(guest.commit(tx), Err("ENOENT".to_owned()));
            assert_eq!(guest.write("x", "w").as_deref(), Ok(&b"OK\0"[..]));
            assert!(world.events_until_now("dom5").is_empty());
            assert_eq!(world.guest(5).watch("x", "t").as_deref(), Ok(&b"OK\0"[..]));
        }
    }
}

/// Requests a reset of the ring as xenstore-ring.txt specifies, and waits until it is done.
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
fn broken_ring_recovers_by_reconnect_or_introduce() {
    for shards in [1, 4] {
        for by_introduce in [false, true] {
            let mut world = World::new(Control::Socket, shards);
            let guest = world.guest(5);
            guest.write("x", "v").unwrap();
            let prod = guest.ring().page().load(at::REQ_PROD);
            guest.ring().page().store(at::REQ_PROD, prod.wrapping_add(5000));
            guest.ring().notify();
            while guest.ring().page().load(at::ERROR) == 0 {
                assert!(guest.ring().wait(HANG), "the ring indicates no error");
            }
            assert_eq!(guest.ring().page().load(at::ERROR), 2);
            if by_introduce {
                // The toolstack repairs the ring: it writes valid indices, then sends INTRODUCE.
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

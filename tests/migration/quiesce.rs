//! QUIESCE as a barrier, and the treatment of quiesced domains.

use super::*;

#[test]
fn quiesce_and_unquiesce_are_idempotent() {
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
fn quiesce_of_many_domains_names_those_that_failed() {
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
fn quiesce_takes_as_many_domains_as_a_reply_can_name() {
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
        // No domain was quiesced.
        assert_eq!(world.guest(5).write("x", "v").as_deref(), Ok(OK));
    });
}

#[test]
fn quiesced_domain_is_not_served_and_others_are() {
    each_world(|world| {
        // With four shards, 9 is in the same one as 5, and 6 in another.
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
fn partial_request_survives_a_quiesce() {
    for cut in [1, 15, 16, 17, 30, 1000, 1500] {
        each_world(|world| {
            let value = "v".repeat(1990);
            let guest = world.guest(5);
            let request = guest.compose(op::WRITE, 0, format!("x\0{value}").as_bytes());
            guest.send_raw(&request[..cut]);
            quiesce(world, "5").unwrap();
            // The guest writes as much of the other half as fits.
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
fn stop_does_not_write_to_a_quiesced_page() {
    each_world(|world| {
        quiesced_watcher(world);
        world.admin.write("/shared", "v").unwrap();
        passes(world, 5);
        let before = whole_page(world, 5);
        world.daemon.stop();
        assert_eq!(whole_page(world, 5), before);
    });
}

/// Makes domain 5 watch nodes that it can read but does not own, and quiesces it.
fn quiesced_watcher(world: &mut World) {
    world.guest(5);
    world.admin.mkdir("/shared").unwrap();
    world.admin.set_perms("/shared", "n0 r5").unwrap();
    world.guest(5).watch("/shared", "t").unwrap();
    assert_eq!(world.next_event("dom5"), "/shared|t");
    quiesce(world, "5").unwrap();
}

#[test]
fn pending_events_are_not_written_to_a_quiesced_page() {
    each_world(|world| {
        quiesced_watcher(world);
        let (before, charged) = (whole_page(world, 5), world.accounted(5, "memory"));
        for i in 0..100 {
            world.admin.write(&format!("/shared/{i}"), "v").unwrap();
            // Equal events merge as always.
            world.admin.write("/shared", "v").unwrap();
        }
        world.guest(5).ring().notify();
        passes(world, 5);
        // Another QUIESCE does not deliver the events either.
        quiesce(world, "5").unwrap();
        assert_eq!(whole_page(world, 5), before);
        // Each event has a header, `/shared/0`, `t` and two NULs.
        assert!(world.accounted(5, "memory") > charged + 100 * 28, "pending events are charged");
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
        // The limit is 64 KiB plus one event; each event is a kilobyte, plus a tenth of that for its entries in the
        // tables.
        assert!((64 << 10..75 << 10).contains(&waits), "{waits} bytes pending");
        unquiesce(world, "5").unwrap();
        let events = world.events_until_now("dom5");
        assert_eq!(events.first(), Some(&format!("/shared/{path}/0|t")));
        assert_eq!(events.last(), Some(&"/shared|t".to_owned()), "events over the limit collapse");
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
        // The guest reads no reply, and the first one fills the ring.
        while guest.ring().page().load(at::RSP_PROD) - guest.ring().page().load(at::RSP_CONS)
            < common::ring::RING_BYTES
        {
            std::thread::yield_now();
        }
        quiesce(world, "5").unwrap();
        world.admin.write("/local/domain/5/x", &value).unwrap();
        let before = whole_page(world, 5);
        // The guest makes room in the ring, but the daemon does not use it.
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

/// Makes a domain's request remove enough nodes for the reaper, and waits until the daemon has consumed it.
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
        // Usually only RM was executed, which takes long; the ring holds its reply, and that of each other executed
        // request.
        assert!(arrived == [op::RM] || arrived == [op::RM, op::WRITE], "{arrived:?}");
        assert_eq!(world.admin.read("/local/domain/5/after").is_ok(), arrived.len() == 2);
        unquiesce(world, "5").unwrap();
        assert_eq!(world.guest(5).reply().as_deref(), Ok(OK));
    });
}

#[test]
fn pending_quiesce_may_be_overtaken() {
    each_world(|world| {
        // QUIESCE and UNQUIESCE may be handled in either order; each gets the reply that fits the order.
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
                    // QUIESCE may have come after the first UNQUIESCE.
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
fn request_waiting_for_a_reserved_path_stays_unread() {
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
            // The node was written before the reservation began, or is still unwritten.
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
fn undelivered_events_of_a_quiesced_domain_block_no_other() {
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
                // The other domain's requests are outstanding until domain 5 reads its events.
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
        assert_eq!(
            world.guest(5).write("x", "v").as_deref(),
            Ok(OK),
            "the next incarnation is served"
        );
        world.destroy(5);
    });
}

#[test]
fn release_and_introduce_keep_the_state_of_a_quiesced_domain() {
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

/// RELEASE overtakes other domains' events, because a pass delivers only a bounded number of events.
#[test]
fn release_delivers_the_domains_queued_events_first() {
    each_world(|world| {
        world.guest(5).watch("data", "t").unwrap();
        world.next_event("dom5");
        quiesce(world, "5").unwrap();
        for token in 0..1100 {
            world.admin.watch("/busy", &token.to_string()).unwrap();
        }
        let port = world.ports[&5];
        let mut batch = Vec::new();
        for path in ["/busy", "/busy", "/local/domain/5/data"] {
            batch.extend(world.admin.compose(op::WRITE, 0, format!("{path}\0v").as_bytes()));
        }
        batch.extend(world.admin.compose(op::RELEASE, 0, b"5\0"));
        batch.extend(world.admin.compose(op::INTRODUCE, 0, format!("5\x001\0{port}\0").as_bytes()));
        world.admin.send_raw(&batch);
        for _ in 0..5 {
            assert_eq!(world.admin.reply().as_deref(), Ok(OK));
        }
        assert_eq!(world.next_event("dom5"), "data|t");
    });
}

#[test]
fn introduce_of_a_quiesced_domain_is_ebusy() {
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
fn reconnect_waits_for_unquiesce() {
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
fn broken_ring_can_be_quiesced() {
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
        // QUIESCE detects invalid indices, too.
        world.guest(6);
        let page = world.guest(6).ring().page();
        page.store(at::RSP_CONS, page.load(at::RSP_PROD).wrapping_add(5000));
        assert_eq!(quiesce(world, "6").as_deref(), Ok(OK));
        assert_ne!(world.guest(6).ring().page().load(at::ERROR), 0);
        world.check_store();
    });
}

#[test]
fn report_names_quiesced_domains() {
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

//! State that a dead domain leaves behind, and its effect on the next domain with the same domid.

use super::*;

#[test]
fn xsa_233_a_stub_domain_and_its_target_die_together() {
    each_world(|world| {
        // Equal events merge until the first is sent. With this many watches to notify, a second report of a death
        // comes some milliseconds after the first, which dom0 has by then: it never stops reading.
        for token in 0..2000 {
            world.client("dom0.crowd").watch("@releaseDomain", &token.to_string()).unwrap();
        }
        for (path, token) in
            [("@releaseDomain", "r"), ("@releaseDomain/8", "eight"), ("@releaseDomain/9", "nine")]
        {
            world.client("dom0").watch(path, token).unwrap();
            assert_eq!(world.client("dom0").next_event(), format!("{path}|{token}"));
        }
        for round in 0..10 {
            world.guest(8);
            world.guest(9).write("x", "v").unwrap();
            world.admin.request(op::SET_TARGET, 0, "8\x009\0").unwrap();
            world.guest(8).write("/local/domain/9/by8", "v").unwrap();
            let together = round % 2 == 0;
            world.destroy(9);
            let mut events = if together { Vec::new() } else { events_of_deaths(world, &[9]) };
            world.destroy(8);
            events.extend(events_of_deaths(world, if together { &[8, 9] } else { &[8] }));
            // Each death is cleaned up once.
            let reports = events.iter().filter(|event| *event == "@releaseDomain|r").count();
            let expected = if together { 1..=2 } else { 2..=2 };
            assert!(expected.contains(&reports), "round {round}: {events:?}");
            events.retain(|event| event != "@releaseDomain|r");
            events.sort();
            let once = ["@releaseDomain/8|eight", "@releaseDomain/9|nine"];
            assert_eq!(events, once, "round {round}");
            let names = world.admin.directory("/local/domain").unwrap();
            assert!(!names.iter().any(|name| name == "8" || name == "9"), "{names:?}");
        }
    });
}

/// Returns the events that dom0 receives, reading all the time, until these domains are dead and their deaths are
/// reported.
fn events_of_deaths(world: &mut World, domids: &[u16]) -> Vec<String> {
    let started = Instant::now();
    let mut events = Vec::new();
    let dom0 = world.client("dom0");
    for domid in domids {
        let report = format!("@releaseDomain/{domid}|");
        while !events.iter().any(|event: &String| event.starts_with(&report)) {
            dom0.read("/tool").unwrap();
            events.extend(dom0.take_events());
            assert!(started.elapsed() < HANG, "no {report}: {events:?}");
        }
    }
    for domid in domids {
        // The thread that reports a death replies after all of its reports.
        let reply = dom0.request(op::RESUME, 0, format!("{domid}\0"));
        assert_eq!(reply, Err("ENOENT".to_owned()));
    }
    events.extend(world.events_until_now("dom0"));
    events
}

#[test]
fn xsa_322_a_reused_domid_has_no_permissions() {
    check(
        "
        dom0 WRITE /shared|v -> OK
        dom0 WATCH @releaseDomain/7|r| -> OK
        event dom0 @releaseDomain/7|r
        host create 7
        dom0 SET_PERMS /shared|n0|b7| -> OK
        dom0 SET_PERMS @releaseDomain|n0|r7| -> OK
        host introduce 7
        dom7 READ /shared| -> v
        dom7 WATCH @releaseDomain|r| -> OK
        event dom7 @releaseDomain|r
        host destroy 7
        event dom0 @releaseDomain/7|r
        host create 7
        host introduce 7
        dom7 READ /shared| -> EACCES
        dom7 WRITE /shared|w -> EACCES
        dom7 WATCH @releaseDomain|r| -> OK
        event dom7 @releaseDomain|r
        dom7 WATCH /shared|t| -> OK
        event dom7 /shared|t
        host create 8
        host introduce 8
        dom0 WATCH @releaseDomain/8|r| -> OK
        event dom0 @releaseDomain/8|r
        host destroy 8
        event dom0 @releaseDomain/8|r
        dom0 WRITE /shared|x -> OK
        no events dom7
        # Entries set now apply to the new incarnation.
        dom0 SET_PERMS /shared|n0|r7| -> OK
        event dom7 /shared|t
        dom7 READ /shared| -> x
        ",
    );
}

#[test]
fn xsa_322_transaction_across_a_death_grants_nothing_to_the_next() {
    each_world(|world| {
        world.admin.write("/shared", "v").unwrap();
        world.guest(7);
        let tx = world.client("dom0").start().unwrap();
        world.client("dom0").request(op::SET_PERMS, tx, "/shared\0n0\0b7\0").unwrap();
        world.until_released(7);
        world.close("dom7");
        world.guest(7);
        // The daemon may commit it or not; the new domain may not read the node.
        let _ = world.client("dom0").commit(tx);
        assert_eq!(world.guest(7).read("/shared"), Err("EACCES".to_owned()));
    });
}

#[test]
fn xsa_325_a_misbehaving_domain_stays_known_until_it_is_dead() {
    each_world(|world| {
        world.guest(5).write("x", "v").unwrap();
        world.guest(5).send_header(op::WRITE, 100_000);
        error_is(world, 5, 3);
        let known = world.admin.request(op::IS_DOMAIN_INTRODUCED, 0, "5\0");
        assert_eq!(known.as_deref(), Ok(&b"T\0"[..]));
        assert!(world.admin.read("/local/domain/5/x").is_ok());
        // `@releaseDomain` still fires.
        world.until_released(5);
        assert_eq!(world.admin.read("/local/domain/5/x"), Err("ENOENT".to_owned()));
    });
}

#[test]
fn xsa_417_stale_permissions_are_not_revived() {
    check(
        "
        dom0 MKDIR /old| -> OK
        dom0 WATCH @releaseDomain/7|r| -> OK
        event dom0 @releaseDomain/7|r
        # Naming a domain that does not exist grants nothing in advance.
        dom0 WRITE /advance|v -> OK
        dom0 SET_PERMS /advance|n0|r7| -> OK
        host create 7
        dom0 SET_PERMS /old|b0|b7|b6| -> OK
        host introduce 7
        dom7 READ /advance| -> EACCES
        host destroy 7
        event dom0 @releaseDomain/7|r
        # Nodes created below, also in a transaction, inherit the entry with its dead incarnation.
        dom0 WRITE /old/control|v -> OK
        dom0 SET_PERMS /old|n0|b7|b6| -> OK
        dom6 WRITE /old/guest|v -> OK
        dom0 WRITE /old|v -> OK
        dom0 START t1
        dom0 t1 WRITE /old/transaction|v -> OK
        dom0 t1 END T| -> OK
        dom6 START t2
        dom6 t2 WRITE /old/over-the-birth|v -> OK
        host create 7
        host introduce 7
        dom6 t2 END T| -> OK
        # Nodes that others create below it now are newer than the new incarnation.
        dom6 WRITE /old/later/guest|v -> OK
        dom6 START t3
        dom6 t3 WRITE /old/later-transaction|v -> OK
        dom6 t3 END T| -> OK
        dom0 WRITE /old/later-control|v -> OK
        dom7 READ /old| -> EACCES
        dom7 READ /old/guest| -> EACCES
        dom7 READ /old/transaction| -> EACCES
        dom7 READ /old/over-the-birth| -> EACCES
        dom7 READ /old/later| -> EACCES
        dom7 READ /old/later/guest| -> EACCES
        dom7 WRITE /old/later/guest|w -> EACCES
        dom7 READ /old/later-transaction| -> EACCES
        dom7 READ /old/later-control| -> EACCES
        dom7 READ /advance| -> EACCES
        ",
    );
}

#[test]
fn xsa_419_a_dead_domains_nodes_are_not_kept() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        world.admin.mkdir("/public").unwrap();
        world.admin.set_perms("/public", "b0").unwrap();
        let mut sizes = Vec::new();
        let rounds = rounds(1000, 150);
        for round in 0..rounds {
            let guest = world.guest(7);
            for i in 0..20 {
                guest.write(&format!("/public/{round}-{i}/x"), "v").unwrap();
                guest.write(&format!("n{i}/x"), "v").unwrap();
            }
            world.until_released(7);
            world.close("dom7");
            assert_eq!(world.admin.directory("/public").unwrap(), Vec::<String>::new());
            assert_eq!(world.admin.read("/local/domain/7"), Err("ENOENT".to_owned()));
            sizes.push(world.daemon.resident_bytes());
        }
        world.check_store();
        let grown = sizes[rounds - 1].saturating_sub(sizes[50]);
        assert!(grown < 2 << 20, "grew by {grown} bytes after {} domains", rounds - 50);
    }
}

#[test]
fn xsa_425_release_during_the_domains_own_request_is_safe() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let mut toolstack = Client::new("toolstack", Link::Socket(world.daemon.connect()));
        world.guest(5).watch("x", "t").unwrap();
        let port = world.ports[&5];
        let guest = world.guest(5);
        let request =
            Message { kind: op::WRITE, req: 1, tx: 0, payload: b"x\0v".to_vec() }.encode();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..200 {
                    toolstack.request(op::RELEASE, 0, "5\0").unwrap();
                    let again = format!("5\x001\0{port}\0");
                    toolstack.request(op::INTRODUCE, 0, again).unwrap();
                }
            });
            for _ in 0..20_000 {
                // Whole requests only: the daemon would wait forever for the rest of a partial one.
                let page = guest.ring().page();
                let used = page.load(at::REQ_PROD).wrapping_sub(page.load(at::REQ_CONS));
                if used < 900 {
                    guest.ring().put(&request);
                }
                guest.ring().notify();
                guest.ring().try_recv();
            }
        });
        assert!(world.admin.read("/local/domain/5/x").is_ok());
        world.check_store();
    }
}

#[test]
fn xsa_483_reused_domid_starts_with_no_nodes() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        for round in 0..rounds(10_000, 200) {
            let guest = world.guest(7);
            guest.write("a/b", "v").unwrap();
            assert_eq!(world.nodes_of(7), 3, "round {round}");
            world.until_released(7);
            world.close("dom7");
        }
        world.check_store();
    }
}

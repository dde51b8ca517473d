//! Xen's security advisories on its two daemons, as behaviour: one test or more for each.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::client::Link;
use common::ring::at;
use common::{Client, Control, HANG, Message, World, check, check_with, op};

fn each_world(test: impl Fn(&mut World)) {
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            let mut world = World::new(control, shards);
            test(&mut world);
            world.check_store();
        }
    }
}

/// How often to repeat: as the advisory's row asks with `XENSTORED_FULL_ROWS` in the environment,
/// as `.ci/run rows` has it for an optimised build; else as often as a debug build does in seconds.
fn rounds(full: usize, short: usize) -> usize {
    if std::env::var_os("XENSTORED_FULL_ROWS").is_some() { full } else { short }
}

fn error_is(world: &mut World, domid: u16, error: u32) {
    let guest = world.guest(domid);
    while guest.ring().page().load(at::ERROR) == 0 {
        assert!(guest.ring().wait(HANG), "no error is indicated");
    }
    assert_eq!(guest.ring().page().load(at::ERROR), error);
}

#[test]
fn xsa_038_indices_out_of_range_end_that_ring_only() {
    each_world(|world| {
        for (domid, offset) in [(10, at::REQ_PROD), (11, at::RSP_PROD)] {
            let guest = world.guest(domid);
            guest.write("x", "v").unwrap();
            let page = guest.ring().page();
            let cons = if offset == at::REQ_PROD { at::REQ_CONS } else { at::RSP_CONS };
            let request = Message { kind: op::READ, req: 1, tx: 0, payload: b"x\0".to_vec() };
            if offset == at::RSP_PROD {
                guest.ring().put(&request.encode());
            }
            page.store(offset, page.load(cons).wrapping_add(1025));
            // Nothing behind the words that the protocol names may be touched.
            page.copy_in(2080, &[0xA5; 2016]);
            guest.ring().notify();
            error_is(world, domid, 2);
            let mut tail = [0; 2016];
            world.guest(domid).ring().page().copy_out(2080, &mut tail);
            assert_eq!(tail, [0xA5; 2016]);
        }
        world.guest(6).write("x", "v").unwrap();
    });
}

#[test]
fn xsa_072_reply_over_4096_is_e2big() {
    each_world(|world| {
        for i in 0..30 {
            world.admin.mkdir(&format!("/many/{i}{}", "n".repeat(150))).unwrap();
        }
        let client = world.client("dom0");
        assert_eq!(client.directory("/many"), Err("E2BIG".to_owned()));
        client.read("/tool").unwrap();
    });
}

#[test]
fn xsa_072_request_over_4096_ends_the_connection() {
    each_world(|world| {
        let mut bad = Client::new("bad", Link::Socket(world.daemon.connect()));
        bad.send_header(op::WRITE, 4097);
        assert!(bad.is_closed_by_daemon());
        let guest = world.guest(5);
        guest.send_header(op::WRITE, 4097);
        error_is(world, 5, 3);
        world.client("dom0").read("/tool").unwrap();
    });
}

#[test]
fn xsa_115_events_are_permission_checked() {
    check(
        "
        dom5 WATCH /|t| -> OK
        event dom5 /|t
        dom5 WATCH @introduceDomain|i| -> OK
        event dom5 @introduceDomain|i
        dom0 WRITE /secret/x|v -> OK
        dom0 SET_PERMS /secret/x|n0|r6| -> OK
        dom0 RM /secret| -> OK
        dom6 WRITE mine|v -> OK
        host create 7
        host introduce 7
        no events dom5
        ",
    );
}

#[test]
fn xsa_115_privileged_operations_are_eacces() {
    check(
        "
        dom5 CONTROL print|x| -> EACCES
        dom5 INTRODUCE 7|1|1| -> EACCES
        dom5 RELEASE 7| -> EACCES
        dom5 RESUME 7| -> EACCES
        dom5 SET_TARGET 5|7| -> EACCES
        dom5 IS_DOMAIN_INTRODUCED 7| -> EACCES
        dom5 SET_FEATURE 5|15| -> EACCES
        dom5 SET_QUOTA 5|nodes|0| -> EACCES
        dom5 GET_QUOTA 5|nodes| -> EACCES
        ",
    );
}

#[test]
fn xsa_115_a_failed_create_gives_its_quota_back() {
    each_world(|world| {
        world.guest(5);
        world.admin.set_quota(Some(5), "nodes", 4);
        let guest = world.guest(5);
        for _ in 0..100 {
            guest.write("a/b/c/d", "v").unwrap_err();
        }
        guest.write("a/b/c", "v").unwrap();
        assert_eq!(world.nodes_of(5), 4);
    });
}

#[test]
fn xsa_206_a_guest_cannot_starve_the_control_domains_transactions() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        world.guest(5).write("hot", "0").unwrap();
        let mut toolstack = Client::new("toolstack", Link::Socket(world.daemon.connect()));
        let stop = &AtomicBool::new(false);
        std::thread::scope(|scope| {
            let guest = world.guest(5);
            scope.spawn(move || {
                let mut i = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    i += 1;
                    guest.write("hot", &i.to_string()).unwrap();
                }
            });
            // Elsewhere: at once.
            for round in 0..20 {
                let tx = toolstack.start().unwrap();
                for i in 0..50 {
                    let write = format!("/local/domain/6/{round}/{i}\0v");
                    toolstack.request(op::WRITE, tx, write).unwrap();
                }
                assert_eq!(toolstack.commit(tx).as_deref(), Ok(&b"OK\0"[..]));
            }
            // Where it writes: after a bounded number of tries.
            for _ in 0..20 {
                let tries = (1..=16).find(|_| {
                    let tx = toolstack.start().unwrap();
                    toolstack.request(op::READ, tx, "/local/domain/5/hot\0").unwrap();
                    for i in 0..10 {
                        let write = format!("/local/domain/5/by0/{i}\0v");
                        toolstack.request(op::WRITE, tx, write).unwrap();
                    }
                    toolstack.commit(tx).is_ok()
                });
                assert!(tries.is_some(), "sixteen tries were not enough");
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}

/// Fails a transaction over and over, until the next one guards `path`.
fn guard(world: &mut World, path: &str) -> u32 {
    for _ in 0..2 {
        let toolstack = world.client("dom0.t");
        let tx = toolstack.start().unwrap();
        let before = toolstack.request(op::READ, tx, format!("{path}\0")).unwrap();
        let changed = [&before[..], b"."].concat();
        world.admin.write(path, std::str::from_utf8(&changed).unwrap()).unwrap();
        assert_eq!(world.client("dom0.t").commit(tx), Err("EAGAIN".to_owned()));
    }
    let toolstack = world.client("dom0.t");
    let tx = toolstack.start().unwrap();
    toolstack.request(op::READ, tx, format!("{path}\0")).unwrap();
    tx
}

#[test]
fn xsa_206_a_guest_goes_on_as_soon_as_a_guard_is_over() {
    let mut world = World::new(Control::Socket, 2);
    world.guest(5).write("hot", "0").unwrap();
    let waited = (0..5).map(|_| {
        let tx = guard(&mut world, "/local/domain/5/hot");
        let started = Instant::now();
        world.guest(5).write("hot", "1").unwrap();
        let waited = started.elapsed();
        world.client("dom0.t").request(op::TRANSACTION_END, tx, "F\0").unwrap();
        waited
    });
    // Not at the next look at everything that waits, which comes four times a second.
    let least = waited.min().unwrap();
    assert!(least < Duration::from_millis(200), "{least:?}");
}

#[test]
fn xsa_233_a_stub_domain_and_its_target_die_together() {
    each_world(|world| {
        for _ in 0..10 {
            world.guest(8);
            world.guest(9);
            world.guest(9).write("x", "v").unwrap();
            world.admin.request(op::SET_TARGET, 0, "8\x009\0").unwrap();
            world.guest(8).write("/local/domain/9/by8", "v").unwrap();
            world.admin.watch("@releaseDomain", "r").unwrap();
            assert_eq!(world.admin.next_event(), "@releaseDomain|r");
            world.admin.watch("@releaseDomain/8", "eight").unwrap();
            world.admin.watch("@releaseDomain/9", "nine").unwrap();
            let mut events = vec![world.admin.next_event(), world.admin.next_event()];
            world.destroy(9);
            world.destroy(8);
            // One clean-up each.
            for _ in 0..2 {
                loop {
                    let event = world.admin.next_event();
                    if event != "@releaseDomain|r" {
                        events.push(event);
                        break;
                    }
                }
            }
            events[2..].sort();
            assert_eq!(events[2..], ["@releaseDomain/8|eight", "@releaseDomain/9|nine"]);
            for (path, token) in [
                ("@releaseDomain", "r"),
                ("@releaseDomain/8", "eight"),
                ("@releaseDomain/9", "nine"),
            ] {
                world.admin.unwatch(path, token).unwrap();
            }
            world.admin.take_events();
            world.close("dom8");
            world.close("dom9");
            let names = world.admin.directory("/local/domain").unwrap();
            assert!(
                !names.contains(&"8".to_owned()) && !names.contains(&"9".to_owned()),
                "{names:?}"
            );
        }
    });
}

#[test]
fn xsa_272_writes_stop_at_exactly_the_quota() {
    each_world(|world| {
        world.guest(5);
        // The names of the children would be too many for their parent.
        world.admin.set_quota(Some(5), "node-size", 0);
        let requests: Vec<_> =
            (0..1100).map(|i| (op::WRITE, 0, format!("n{i}\0").into_bytes())).collect();
        let replies = world.guest(5).pipeline(&requests);
        assert_eq!(replies.iter().filter(|reply| reply.is_ok()).count(), 999);
        assert!(replies[999..].iter().all(|reply| *reply == Err("ENOSPC".to_owned())));
        assert_eq!(world.nodes_of(5), 1000);
    });
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
        # What is set now holds.
        dom0 SET_PERMS /shared|n0|r7| -> OK
        event dom7 /shared|t
        dom7 READ /shared| -> x
        ",
    );
}

#[test]
fn xsa_322_nor_by_a_transaction_over_the_death() {
    each_world(|world| {
        world.admin.write("/shared", "v").unwrap();
        world.guest(7);
        let tx = world.client("dom0").start().unwrap();
        world.client("dom0").request(op::SET_PERMS, tx, "/shared\0n0\0b7\0").unwrap();
        world.until_released(7);
        world.close("dom7");
        world.guest(7);
        // Whether it commits is the daemon's choice; that the new domain may not read is not.
        let _ = world.client("dom0").commit(tx);
        assert_eq!(world.guest(7).read("/shared"), Err("EACCES".to_owned()));
    });
}

#[test]
fn xsa_323_what_is_accepted_can_be_named_by_the_control_domain() {
    each_world(|world| {
        world.guest(5);
        world.admin.set_quota(Some(5), "node-size", 0);
        for len in [2020, 2030, 2047, 2048, 2049, 2100, 3000] {
            let relative = "a".repeat(len);
            let absolute = format!("/local/domain/5/{relative}");
            match world.guest(5).write(&relative, "v") {
                Ok(_) => {
                    assert!(len <= 2048);
                    let control = world.client("dom0");
                    assert_eq!(control.read(&absolute).as_deref(), Ok(&b"v"[..]), "{len}");
                    assert_eq!(control.directory("/local/domain/5").unwrap(), [relative]);
                    control.rm(&absolute).unwrap();
                }
                Err(error) => assert_eq!((error.as_str(), len > 2048), ("EINVAL", true), "{len}"),
            }
        }
    });
}

#[test]
fn xsa_324_an_event_over_4096_is_dropped() {
    // A token may be as long as a request: with a longer path of an event it does not fit.
    for name in ["dom0", "dom5"] {
        each_world(|world| {
            world.guest(5);
            world.admin.set_quota(Some(5), "node-size", 0);
            let token = "t".repeat(3000);
            let client = world.client(name);
            client.watch("x", &token).unwrap();
            assert_eq!(client.next_event().len(), 3002);
            client.write(&format!("x/{}", "a".repeat(1500)), "v").unwrap();
            client.watch("x", "short").unwrap();
            assert_eq!(client.next_event(), "x|short");
            client.write("x", "v").unwrap();
            let mut events = [client.next_event(), client.next_event()];
            events.sort();
            assert_eq!(events[0], "x|short");
        });
    }
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
        // It still fires.
        world.until_released(5);
        assert_eq!(world.admin.read("/local/domain/5/x"), Err("ENOENT".to_owned()));
    });
}

#[test]
fn xsa_326_unread_replies_stop_the_reading_of_requests() {
    each_world(|world| {
        let guest = world.guest(5);
        guest.write("large", &"v".repeat(1000)).unwrap();
        let request =
            Message { kind: op::READ, req: 1, tx: 0, payload: b"large\0".to_vec() }.encode();
        let mut put = 0;
        for _ in 0..100_000 {
            put += guest.ring().put(&request);
            guest.ring().notify();
        }
        // At most 20 outstanding requests and what the ring holds.
        let bound = (20 + 2) * request.len() + 2 * 1024;
        assert!(put <= bound, "{put} bytes of requests were taken without a reader");
    });
}

#[test]
fn xsa_326_events_that_are_not_read_take_bounded_memory() {
    each_world(|world| {
        world.guest(5);
        let guest = world.guest(5);
        for i in 0..128 {
            guest.watch("x", &i.to_string()).unwrap();
            guest.next_event();
        }
        let before = world.daemon.resident_bytes();
        let requests: Vec<_> = (0..rounds(100_000, 5_000))
            .map(|i| (op::WRITE, 0, format!("/local/domain/5/x/{}\0v", i % 1000).into_bytes()))
            .collect();
        assert!(world.client("dom0").pipeline(&requests).iter().all(Result::is_ok));
        let grown = world.daemon.resident_bytes().saturating_sub(before);
        assert!(grown < 16 << 20, "{grown} bytes for unread events");
        assert!(world.accounted(5, "memory") <= 2_621_440);
    });
}

#[test]
fn xsa_326_a_transaction_is_bounded() {
    each_world(|world| {
        world.guest(5);
        world.admin.set_quota(Some(5), "nodes", 0);
        world.admin.set_quota(Some(5), "node-size", 0);
        let guest = world.guest(5);
        let tx = guest.start().unwrap();
        let requests: Vec<_> =
            (0..1200).map(|i| (op::WRITE, tx, format!("n{i}\0").into_bytes())).collect();
        let replies = guest.pipeline(&requests);
        let fit = replies.iter().take_while(|reply| reply.is_ok()).count();
        assert!((1000..=1024).contains(&fit), "{fit} operations");
        assert_eq!(replies[fit], Err("ENOSPC".to_owned()));
    });
}

#[test]
fn xsa_330_reset_watches_leaks_nothing() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        world.guest(5);
        let mut guest = world.take("dom5");
        let mut watch_and_reset = |count: usize| {
            let some: Vec<_> = (0..16)
                .flat_map(|_| {
                    [(op::WATCH, 0, b"x\0t\0".to_vec()), (op::RESET_WATCHES, 0, b"\0".to_vec())]
                })
                .collect();
            for _ in 0..count / 16 {
                assert!(guest.pipeline(&some).iter().all(Result::is_ok));
                guest.take_events();
            }
        };
        watch_and_reset(2_000);
        let before = world.daemon.resident_bytes();
        watch_and_reset(rounds(1_000_000, 30_000));
        let grown = world.daemon.resident_bytes().saturating_sub(before);
        // A leak of a watch a round would be some megabytes.
        assert!(grown < 1 << 20, "{grown} bytes more");
        assert_eq!(world.accounted(5, "watches"), 0);
    }
}

#[test]
fn xsa_352_a_guest_cannot_give_its_nodes_away() {
    check(
        "
        dom6 WRITE y|v -> OK
        dom5 WRITE x|v -> OK
        dom5 SET_PERMS x|n6| -> EPERM
        dom5 SET_PERMS x|n0| -> EPERM
        dom5 START t1
        dom5 t1 SET_PERMS x|n6|b5| -> EPERM
        dom5 t1 END T| -> OK
        dom0 GET_PERMS /local/domain/5/x| -> n5|
        ",
    );
}

#[test]
fn xsa_353_the_root_is_checked_like_any_node() {
    check(
        "
        dom5 SET_PERMS /|n5| -> EACCES
        dom5 SET_PERMS /|n0|b5| -> EACCES
        dom5 WRITE /|v -> EACCES
        dom5 READ /| -> EACCES
        dom5 DIRECTORY /| -> EACCES
        dom5 DIRECTORY_PART /|0| -> EACCES
        dom5 GET_PERMS /| -> EACCES
        dom5 RM /| -> EACCES or EINVAL
        dom0 RM /| -> EINVAL
        dom0 GET_PERMS /| -> n0|
        ",
    );
}

#[test]
fn xsa_414_a_failed_deep_create_leaves_nothing_at_any_depth() {
    each_world(|world| {
        world.guest(5);
        for room in 0..5 {
            world.admin.set_quota(Some(5), "nodes", 1 + room);
            let guest = world.guest(5);
            assert_eq!(guest.write("a/b/c/d/e", "v"), Err("ENOSPC".to_owned()), "room for {room}");
            assert_eq!(guest.directory("/local/domain/5").unwrap(), Vec::<String>::new());
            assert_eq!(world.nodes_of(5), 1);
        }
        world.admin.set_quota(Some(5), "nodes", 6);
        world.guest(5).write("a/b/c/d/e", "v").unwrap();
        assert_eq!(world.nodes_of(5), 6);
    });
}

#[test]
fn xsa_415_a_failed_create_in_a_transaction_leaves_no_orphans() {
    each_world(|world| {
        world.guest(5);
        world.admin.set_quota(Some(5), "nodes", 3);
        let guest = world.guest(5);
        let tx = guest.start().unwrap();
        assert_eq!(guest.request(op::WRITE, tx, "a/b/c\0v"), Err("ENOSPC".to_owned()));
        assert_eq!(guest.request(op::READ, tx, "a\0"), Err("ENOENT".to_owned()));
        // Refused or committed without it, nothing is left.
        let _ = guest.commit(tx);
        assert_eq!(guest.directory("/local/domain/5").unwrap(), Vec::<String>::new());
        assert_eq!(world.nodes_of(5), 1);
        world.check_store();
        world.guest(5).write("a/b", "v").unwrap();
    });
}

#[test]
fn xsa_416_a_pending_reply_holds_its_own_bytes() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        for domid in 100..200 {
            world.guest(domid).write("x", &"v".repeat(1200)).unwrap();
        }
        let before = world.daemon.resident_bytes();
        for domid in 100..200 {
            // More replies than the ring holds, none of them read.
            let read = Message { kind: op::READ, req: 1, tx: 0, payload: b"x\0".to_vec() };
            let ring = world.guest(domid).ring();
            ring.put(&read.encode().repeat(20));
            ring.notify();
        }
        world.admin.read("/tool").unwrap();
        let grown = world.daemon.resident_bytes().saturating_sub(before);
        // 100 domains of 20 replies of 1216 bytes are 2.4 MB; with 8 KB each they would be 16 MB.
        assert!(grown < 8 << 20, "{grown} bytes for unread replies");
    }
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
        # Nodes made below by anybody, and by a transaction, inherit the entry but not its life.
        dom0 WRITE /old/control|v -> OK
        dom0 SET_PERMS /old|n0|b7|b6| -> OK
        dom6 WRITE /old/guest|v -> OK
        dom0 WRITE /old|v -> OK
        dom0 START t1
        dom0 t1 WRITE /old/transaction|v -> OK
        dom0 t1 END T| -> OK
        host create 7
        host introduce 7
        dom7 READ /old| -> EACCES
        dom7 READ /old/guest| -> EACCES
        dom7 READ /old/transaction| -> EACCES
        dom7 READ /advance| -> EACCES
        ",
    );
}

#[test]
fn xsa_418_a_path_of_a_thousand_levels() {
    each_world(|world| {
        let deep = "/a".repeat(1024);
        for _ in 0..3 {
            let client = world.client("dom0");
            client.write(&deep, "v").unwrap();
            assert_eq!(client.read(&deep).as_deref(), Ok(&b"v"[..]));
            let tx = client.start().unwrap();
            client.request(op::RM, tx, "/a/a\0").unwrap();
            client.request(op::WRITE, tx, format!("{deep}\0w")).unwrap();
            client.commit(tx).unwrap();
            world.check_store();
            world.client("dom0").rm("/a").unwrap();
        }
        // A guest's, removed by its death.
        let guest = world.guest(5);
        let mut deep = "a/".repeat(900);
        deep.pop();
        guest.write(&deep, "v").unwrap();
        world.until_released(5);
        assert_eq!(world.admin.read("/local/domain/5"), Err("ENOENT".to_owned()));
    });
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
        assert!(grown < 2 << 20, "{grown} bytes more after {} domains", rounds - 50);
    }
}

#[test]
fn xsa_420_lengths_that_look_negative_end_the_connection() {
    each_world(|world| {
        for len in [0x4000_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_f000, u32::MAX] {
            let mut bad = Client::new("bad", Link::Socket(world.daemon.connect()));
            bad.send_header(op::READ, len);
            assert!(bad.is_closed_by_daemon(), "{len}");
        }
        world.guest(5).send_header(op::READ, u32::MAX);
        error_is(world, 5, 3);
    });
}

#[test]
fn xsa_421_create_and_remove_in_one_transaction() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        world.guest(5).write("base", "v").unwrap();
        let nodes = world.nodes_of(5);
        for round in 0..10_000 {
            let guest = world.guest(5);
            let tx = guest.start().unwrap();
            let requests = [
                (op::WRITE, tx, b"t/a/b\0v".to_vec()),
                (op::RM, tx, b"t/a\0".to_vec()),
                (op::MKDIR, tx, b"t/c\0".to_vec()),
                (op::RM, tx, b"t\0".to_vec()),
                (op::TRANSACTION_END, tx, b"T\0".to_vec()),
            ];
            let replies = guest.pipeline(&requests);
            assert!(replies.iter().all(Result::is_ok), "round {round}: {replies:?}");
        }
        assert_eq!(world.nodes_of(5), nodes);
        assert_eq!(world.guest(5).read("t"), Err("ENOENT".to_owned()));
        world.check_store();
    }
}

#[test]
fn xsa_425_release_while_the_domains_own_request_runs() {
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
                // Whole requests only: half of one would be awaited for ever.
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
fn xsa_440_two_transactions_remove_the_same_nodes() {
    each_world(|world| {
        for round in 0..20 {
            let guest = world.guest(5);
            guest.write("a/b/c", "v").unwrap();
            let (one, two) = (guest.start().unwrap(), guest.start().unwrap());
            let (first, second) = if round % 2 == 0 { ("a\0", "a/b\0") } else { ("a/b\0", "a\0") };
            guest.request(op::RM, one, first).unwrap();
            guest.request(op::RM, two, second).unwrap();
            guest.commit(one).unwrap();
            let both = guest.commit(two);
            // RM of a/b after RM of a would answer ENOENT: no serial order explains both.
            assert_eq!(both.is_ok(), round % 2 == 1, "round {round}: {both:?}");
            assert_eq!(guest.read("a/b"), Err("ENOENT".to_owned()));
            guest.rm("a").unwrap();
            assert_eq!(world.nodes_of(5), 1);
        }
    });
}

#[test]
fn xsa_481_paths_with_nothing_behind_a_slash() {
    let rows: String = ["/local/domain/", "", "/a/", "a/", "//", "/local/domain/5/"]
        .iter()
        .flat_map(|path| {
            ["dom0", "dom5"].map(|name| {
                format!(
                    "{name} READ {path}| -> EINVAL\n{name} DIRECTORY {path}| -> EINVAL\n\
                     {name} GET_PERMS {path}| -> EINVAL\n{name} MKDIR {path}| -> EINVAL\n\
                     {name} WRITE {path}|v -> EINVAL\n{name} RM {path}| -> EINVAL\n\
                     {name} SET_PERMS {path}|n5| -> EINVAL\n{name} WATCH {path}|t| -> EINVAL\n\
                     {name} UNWATCH {path}|t| -> EINVAL\n{name} DIRECTORY_PART {path}|0| -> EINVAL\n"
                )
            })
        })
        .collect();
    check(&rows);
}

#[test]
fn xsa_483_a_reused_domid_starts_at_no_nodes() {
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

#[test]
fn xsa_484_reset_watches_with_a_transaction_id() {
    check_with(
        |_| {},
        "
        dom5 START t1
        dom5 t1 WRITE x|v -> OK
        dom5 t1 RESET_WATCHES | -> OK
        dom5 t1 END T| -> ENOENT
        dom5 READ x| -> ENOENT
        dom0 START t2
        dom0 t2 RESET_WATCHES | -> OK
        dom0 t2 END T| -> ENOENT
        ",
    );
}

//! Limits on the messages that a domain sends and on the state that it makes the daemon keep: rings, messages, watches,
//! transactions.

use super::*;

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
            // Bytes beyond the words that the protocol names must stay untouched.
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
fn xsa_324_an_event_over_4096_is_dropped() {
    // A token may fill a WATCH request. An event with such a token does not fit into a message if the event's path is
    // longer than the watched one.
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
fn xsa_326_client_with_unread_replies_is_not_read() {
    each_world(|world| {
        // At most twenty short replies are outstanding; of long ones, as many as make 8 KiB.
        for (domid, value) in [(5, 100), (6, 1000)] {
            let guest = world.guest(domid);
            guest.write("value", &"v".repeat(value)).unwrap();
            let request =
                Message { kind: op::READ, req: 1, tx: 0, payload: b"value\0".to_vec() }.encode();
            let taken = |guest: &Client| {
                let page = guest.ring().page();
                while page.load(at::REQ_PROD) != page.load(at::REQ_CONS) {
                    guest.ring().notify();
                    if !guest.ring().wait(Duration::from_millis(100)) {
                        break;
                    }
                }
                page.load(at::REQ_CONS)
            };
            let before = taken(guest);
            let mut put = 0;
            for _ in 0..100 {
                put += guest.ring().put(&request.repeat(10));
                guest.ring().notify();
            }
            let requests = taken(guest).wrapping_sub(before) as usize / request.len();
            assert!(put > requests * request.len(), "the test stopped before the daemon did");
            let reply = 16 + value;
            let outstanding = requests - 1024 / reply;
            let most = if value == 100 { 20 } else { (8 << 10) / reply + 1 };
            assert_eq!(outstanding, most, "outstanding requests with replies of {value} bytes");
        }
    });
}

#[test]
fn xsa_326_a_guest_above_its_memory_quota_is_not_read() {
    each_world(|world| {
        let paths: Vec<_> = (0..100).map(|i| format!("/local/domain/5/x/{i:02}")).collect();
        world.guest(5);
        paths.iter().for_each(|path| _ = world.admin.write(path, "v").unwrap());
        world.guest(5).watch("x", "t").unwrap();
        world.guest(5).next_event();
        // Of 2,300 bytes of events the page takes 1,024: the rest is charged to the guest. Near the quota, events would
        // be deferred, so the quota is lowered below the present usage only afterwards.
        let before = world.accounted(5, "memory");
        paths.iter().for_each(|path| _ = world.admin.write(path, "w").unwrap());
        // An event has 23 bytes, and the page takes 1,024; another thread sends them.
        let started = Instant::now();
        let queued = 23 * 100 - 1024;
        while world.accounted(5, "memory") < before + queued {
            assert!(started.elapsed() < HANG, "timed out waiting for queued events");
        }
        let used = world.accounted(5, "memory");
        world.admin.set_quota(Some(5), "memory", used - 1);
        let guest = world.guest(5);
        guest.send(op::READ, 0, "x/00\0");
        guest.ring().notify();
        std::thread::sleep(Duration::from_millis(100));
        let page = guest.ring().page();
        assert_ne!(
            page.load(at::REQ_CONS),
            page.load(at::REQ_PROD),
            "a guest above its memory quota was read"
        );
        assert_eq!(guest.reply().as_deref(), Ok(&b"w"[..]));
        assert_eq!(guest.take_events().len(), paths.len());
    });
}

#[test]
fn xsa_326_unread_events_take_bounded_memory() {
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
        assert!(grown < 16 << 20, "unread events take {grown} bytes");
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
        let mut last = 0;
        let mut watch_and_reset = |count: usize| {
            for _ in 0..count / 16 {
                // No path is used twice: a watch on the same path would replace the remains of the previous one.
                let some = (last..last + 16).flat_map(|i| {
                    let watch = (op::WATCH, 0, format!("x{i}\0t\0").into_bytes());
                    [watch, (op::RESET_WATCHES, 0, b"\0".to_vec())]
                });
                assert!(guest.pipeline(&some.collect::<Vec<_>>()).iter().all(Result::is_ok));
                guest.take_events();
                last += 16;
            }
        };
        watch_and_reset(2_000);
        let before = world.daemon.resident_bytes();
        watch_and_reset(rounds(1_000_000, 30_000));
        let grown = world.daemon.resident_bytes().saturating_sub(before);
        // A leak of one watch per round would be some megabytes.
        assert!(grown < 1 << 20, "grew by {grown} bytes");
        assert_eq!(world.accounted(5, "watches"), 0);
    }
}

#[test]
fn xsa_416_a_pending_reply_takes_only_its_own_bytes() {
    const DOMAINS: u64 = 100;
    // Twenty replies may be outstanding; together with three more in the page they are below the 8 KiB at which reading
    // stops.
    const REPLIES: u64 = 23;
    const VALUE: usize = 300;
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        for domid in 100..200 {
            world.guest(domid).write("x", &"v".repeat(VALUE)).unwrap();
        }
        let before = world.daemon.resident_bytes();
        for domid in 100..200 {
            // Each request runs in a pass of its own, and no reply is read.
            let guest = world.guest(domid);
            for _ in 0..REPLIES {
                guest.send(op::READ, 0, "x\0");
                until_consumed(guest);
            }
        }
        let grown = world.daemon.resident_bytes().saturating_sub(before);
        // The replies take 0.8 MB in all; with an extra buffer of 8 KiB for each they would take 19 MB.
        let bound = DOMAINS * REPLIES * 2 * (16 + VALUE as u64) + (1 << 20);
        assert!(grown < bound, "unread replies take {grown} bytes");
        for domid in 100..200 {
            for _ in 0..REPLIES {
                assert_eq!(world.guest(domid).reply().map(|value| value.len()), Ok(VALUE));
            }
        }
    }
}

/// Waits until the daemon has consumed all requests in a guest's page.
fn until_consumed(guest: &Client) {
    let page = guest.ring().page();
    let started = Instant::now();
    while page.load(at::REQ_PROD) != page.load(at::REQ_CONS) {
        assert!(
            started.elapsed() < HANG,
            "{}: timed out waiting for the daemon to consume requests",
            guest.name
        );
        std::thread::yield_now();
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
fn xsa_484_reset_watches_with_a_transaction_id_ends_it() {
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

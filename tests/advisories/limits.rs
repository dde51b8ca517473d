//! What a domain may send, keep and make others keep: rings, messages, watches, transactions, depth.

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

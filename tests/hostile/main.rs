//! Bad input: one connection ends or gets an error, and no other client notices.

#[path = "../common/mod.rs"]
mod common;
mod random;

use std::io::{Read, Write};
use std::time::Duration;

use common::client::Link;
use common::ring::at;
use common::wire::header;
use common::{Client, Control, HANG, Message, Random, World, op};

/// Checks that all other clients still work.
fn others_are_served(world: &mut World) {
    for name in ["dom0", "dom6"] {
        let client = world.client(name);
        client.write("alive", "v").unwrap();
        assert_eq!(client.read("alive").as_deref(), Ok(&b"v"[..]), "{name}");
    }
}

/// Waits until the page indicates this error.
fn error_is(world: &mut World, domid: u16, error: u32) {
    let guest = world.guest(domid);
    while guest.ring().page().load(at::ERROR) == 0 {
        assert!(guest.ring().wait(HANG), "the ring indicates no error");
    }
    assert_eq!(guest.ring().page().load(at::ERROR), error);
}

fn each_world(test: impl Fn(&mut World)) {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        test(&mut world);
        others_are_served(&mut world);
    }
}

#[test]
fn length_over_the_limit_closes_a_socket() {
    each_world(|world| {
        for len in [4097, 65_536, 0x4000_0000, 0x8000_0000, u32::MAX] {
            let mut client = Client::new("bad", Link::Socket(world.daemon.connect()));
            client.send_header(op::WRITE, len);
            assert!(client.is_closed_by_daemon(), "{len}");
        }
    });
}

/// Returns the lines of the log that say why a connection ended.
fn given_up(world: &mut World) -> Vec<String> {
    let text = "connection stopped, protocol error connection=";
    let log = world.log();
    log.lines().filter_map(|line| line.split_once(text)).map(|it| it.1.to_owned()).collect()
}

#[test]
fn failed_connection_is_logged_with_its_process_and_error() {
    each_world(|world| {
        let mut client = Client::new("bad", Link::Socket(world.daemon.connect()));
        client.send_header(op::WRITE, 5000);
        assert!(client.is_closed_by_daemon());
        let lines = given_up(world);
        let [line] = &lines[..] else { panic!("{lines:?}") };
        let pid = std::process::id();
        let text = format!(" domid=0 pid={pid} error=request of 5000 bytes, at most 4096");
        assert!(line.ends_with(&text), "{line}");
        let connection = line.strip_suffix(&text).unwrap();
        let (thread, number) = connection.split_once('.').unwrap();
        assert!(thread.parse::<u16>().is_ok() && number.parse::<u64>().is_ok(), "{line}");

        let guest = world.guest(10);
        guest.write("x", "v").unwrap();
        let (sent, received) =
            [at::REQ_CONS, at::RSP_PROD].map(|offset| guest.ring().page().load(offset)).into();
        guest.ring().page().store(at::REQ_PROD, sent + 1025);
        guest.ring().notify();
        error_is(world, 10, 2);
        let line = given_up(world).pop().unwrap();
        let text = format!(
            " domid=10 times=1 error=indices more than 1024 apart, req_cons={sent} req_prod={} \
             rsp_cons={received} rsp_prod={received}",
            sent + 1025
        );
        assert!(line.ends_with(&text), "{line}");
    });
}

#[test]
fn repeatedly_broken_ring_does_not_fill_the_log() {
    each_world(|world| {
        let guest = world.guest(10);
        guest.write("x", "v").unwrap();
        let page = guest.ring().page().clone();
        for _ in 0..1000 {
            page.store(at::REQ_PROD, page.load(at::REQ_CONS).wrapping_add(5000));
            guest.ring().notify();
            while page.load(at::ERROR) == 0 {
                assert!(guest.ring().wait(HANG), "the ring indicates no error");
            }
            page.store(at::CONNECTION, 1);
            guest.ring().notify();
            while page.load(at::CONNECTION) == 1 {
                assert!(guest.ring().wait(HANG), "no reset");
            }
        }
        let times = |line: &String| field(line, "times=");
        let times: Vec<_> = given_up(world).iter().map(times).collect();
        assert_eq!(times, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
        assert!(world.log().lines().count() < 50);
    });
}

/// Returns the number behind `name` in a line of the log.
fn field(line: &str, name: &str) -> u32 {
    line.split(' ').find_map(|word| word.strip_prefix(name)).unwrap().parse().unwrap()
}

#[test]
fn requests_before_an_oversized_one_get_replies() {
    each_world(|world| {
        let mut client = Client::new("bad", Link::Socket(world.daemon.connect()));
        let mut bytes = client.compose(op::WRITE, 0, b"/before\0v");
        bytes.extend(header(op::READ, 0, 0, 5000));
        client.send_raw(&bytes);
        assert_eq!(client.reply().as_deref(), Ok(&b"OK\0"[..]));
        assert!(client.is_closed_by_daemon());
        assert_eq!(world.admin.read("/before").as_deref(), Ok(&b"v"[..]));
    });
}

#[test]
fn length_over_the_limit_breaks_a_ring_with_error_3() {
    each_world(|world| {
        for (domid, len) in [(10, 4097), (11, 0x4000_0000), (12, u32::MAX)] {
            let guest = world.guest(domid);
            guest.write("x", "v").unwrap();
            guest.send_header(op::WRITE, len);
            error_is(world, domid, 3);
            let introduced = world.admin.request(op::IS_DOMAIN_INTRODUCED, 0, format!("{domid}\0"));
            assert_eq!(
                introduced.as_deref(),
                Ok(&b"T\0"[..]),
                "a domain with a broken ring stays known until its death"
            );
        }
    });
}

#[test]
fn indices_out_of_range_break_a_ring_with_error_2() {
    each_world(|world| {
        let break_it: [(u16, usize, u32); 5] = [
            (10, at::REQ_PROD, 1025),
            (11, at::REQ_PROD, 0x8000_0000),
            (12, at::REQ_CONS, 1),
            (13, at::RSP_CONS, 1),
            (14, at::RSP_CONS, 0x8000_0000),
        ];
        for (domid, offset, by) in break_it {
            let guest = world.guest(domid);
            guest.write("x", "v").unwrap();
            let page = guest.ring().page();
            // To write a reply the daemon checks the response indices too.
            let request = Message { kind: op::READ, req: 9, tx: 0, payload: b"x\0".to_vec() };
            guest.ring().put(&request.encode());
            page.store(offset, page.load(offset).wrapping_add(by));
            if offset == at::REQ_PROD {
                let prod = page.load(at::REQ_CONS).wrapping_add(by);
                page.store(offset, prod);
            }
            if offset == at::REQ_CONS {
                page.store(offset, page.load(at::REQ_PROD).wrapping_add(by));
            }
            guest.ring().notify();
            error_is(world, domid, 2);
        }
    });
}

#[test]
fn a_full_ring_is_processed() {
    // A difference of exactly 1024 is allowed.
    each_world(|world| {
        world.create(7);
        let ring = common::ring::Ring { guest: world.guests.remove(&7).unwrap() };
        let value = vec![b'v'; 1024 - 16 - 2];
        let mut payload = b"x\0".to_vec();
        payload.extend(&value);
        let request = Message { kind: op::WRITE, req: 5, tx: 0, payload };
        assert_eq!(ring.put(&request.encode()), 1024);
        world.admin.mkdir("/local/domain/7").unwrap();
        world.admin.set_perms("/local/domain/7", "n7").unwrap();
        world.introduce(7);
        let mut reply = Vec::new();
        while reply.len() < 19 {
            reply.extend(ring.try_recv());
            assert!(reply.len() >= 19 || ring.wait(HANG), "no reply");
        }
        assert_eq!(world.admin.read("/local/domain/7/x").as_deref(), Ok(&value[..]));
    });
}

#[test]
fn page_that_changes_while_read_disturbs_no_other_client() {
    each_world(|world| {
        for domid in 10..14 {
            let guest = world.guest(domid);
            let page = guest.ring().page();
            let mut random = Random::new(u64::from(domid));
            for _ in 0..20_000 {
                page.copy_in(random.below(2048), &[random.byte()]);
                if random.chance(5) {
                    let offset = [at::REQ_PROD, at::REQ_CONS, at::RSP_CONS, at::RSP_PROD];
                    let value = u32::try_from(random.below(1 << 24)).unwrap();
                    page.store(*random.pick(&offset), value);
                    guest.ring().notify();
                }
            }
        }
        others_are_served(world);
        // Whatever the state of their rings, the domains stay known, and their deaths are noticed.
        for domid in 10..14 {
            world.until_released(domid);
        }
    });
}

#[test]
fn partial_message_blocks_no_other_client() {
    each_world(|world| {
        let mut stopped = Vec::new();
        for cut in [1, 8, 15, 16, 20] {
            let mut socket = world.daemon.connect();
            let message =
                Message { kind: op::WRITE, req: 1, tx: 0, payload: b"/half\0value".to_vec() };
            socket.write_all(&message.encode()[..cut]).unwrap();
            stopped.push((socket, message.encode().split_off(cut)));
        }
        let guest = world.guest(5);
        let request = guest.compose(op::WRITE, 0, b"half\0value");
        guest.send_raw(&request[..20]);
        others_are_served(world);
        assert_eq!(world.admin.read("/half"), Err("ENOENT".to_owned()));
        // One client continues, the others disconnect.
        let (mut socket, rest) = stopped.pop().unwrap();
        socket.write_all(&rest).unwrap();
        let mut reply = [0; 19];
        socket.read_exact(&mut reply).unwrap();
        assert_eq!(&reply[16..], b"OK\0");
        let guest = world.guest(5);
        guest.send_raw(&request[20..]);
        assert_eq!(guest.reply().as_deref(), Ok(&b"OK\0"[..]));
    });
}

#[test]
fn request_sent_byte_by_byte_is_served() {
    each_world(|world| {
        for name in ["dom0", "dom5"] {
            let client = world.client(name);
            let request = client.compose(op::WRITE, 0, b"x\0value");
            for byte in request {
                client.send_raw(&[byte]);
            }
            assert_eq!(client.reply().as_deref(), Ok(&b"OK\0"[..]));
        }
    });
}

#[test]
fn client_that_does_not_read_is_not_read_or_is_closed() {
    each_world(|world| {
        // A socket client: replies of 4,000 bytes, none read.
        world.admin.write("/large", &"v".repeat(4000)).unwrap();
        let before = world.daemon.resident_bytes();
        let mut socket = world.daemon.connect();
        // The pause gives the daemon enough time to read, if it does.
        socket.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let request =
            Message { kind: op::READ, req: 1, tx: 0, payload: b"/large\0".to_vec() }.encode();
        let mut sent = 0;
        while sent < 20_000 && socket.write_all(&request).is_ok() {
            sent += 1;
        }
        assert!((1..20_000).contains(&sent), "no back-pressure on an unread socket");
        others_are_served(world);
        let grown = world.daemon.resident_bytes().saturating_sub(before);
        assert!(grown < 32 << 20, "grew by {grown} bytes for {sent} unread replies");
        // A guest's ring is not read any more.
        let guest = world.guest(5);
        guest.write("large", &"v".repeat(1500)).unwrap();
        let request =
            Message { kind: op::READ, req: 1, tx: 0, payload: b"large\0".to_vec() }.encode();
        let mut taken = 0;
        for _ in 0..10_000 {
            taken += guest.ring().put(&request);
            guest.ring().notify();
        }
        // The limit is the contents of the ring, and as many requests as may be outstanding.
        assert!(taken <= 1024 + 20 * request.len(), "{taken} bytes of requests taken");
        others_are_served(world);
    });
}

#[test]
fn unread_events_take_bounded_memory() {
    each_world(|world| {
        let watcher = world.client("dom0.deaf");
        watcher.watch("/flood", "t").unwrap();
        let guest = world.guest(5);
        guest.watch("/flood", "t").unwrap();
        world.admin.mkdir("/flood").unwrap();
        world.admin.set_perms("/flood", "r0").unwrap();
        let before = world.daemon.resident_bytes();
        for round in 0..20 {
            let requests: Vec<_> = (0..1000)
                .map(|i| (op::WRITE, 0, format!("/flood/{}\0{round}", i).into_bytes()))
                .collect();
            assert!(world.admin.pipeline(&requests).iter().all(Result::is_ok));
        }
        let grown = world.daemon.resident_bytes().saturating_sub(before);
        assert!(grown < 48 << 20, "grew by {grown} bytes for unread events");
    });
}

#[test]
fn disconnect_with_pending_output_keeps_the_store_consistent() {
    each_world(|world| {
        for i in 0..200 {
            let mut socket = world.daemon.connect();
            let watch = Message { kind: op::WATCH, req: 1, tx: 0, payload: b"/busy\0t\0".to_vec() };
            let write = Message { kind: op::WRITE, req: 1, tx: 0, payload: b"/busy\0v".to_vec() };
            let start =
                Message { kind: op::TRANSACTION_START, req: 1, tx: 0, payload: b"\0".to_vec() };
            let bytes = [watch.encode(), start.encode(), write.encode()].concat();
            socket.write_all(&bytes).unwrap();
            if i % 2 == 0 {
                drop(socket);
            } else {
                socket.shutdown(std::net::Shutdown::Write).unwrap();
            }
        }
        world.check_store();
    });
}

#[test]
fn half_closed_client_gets_its_replies() {
    each_world(|world| {
        let mut socket = world.daemon.connect();
        let read = Message { kind: op::READ, req: 1, tx: 0, payload: b"/tool\0".to_vec() };
        socket.write_all(&[read.encode(), read.encode()].concat()).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut replies = Vec::new();
        socket.read_to_end(&mut replies).unwrap();
        let replies: Vec<Message> = std::iter::from_fn(|| Message::take(&mut replies)).collect();
        assert_eq!(replies, [(); 2].map(|()| Message { payload: Vec::new(), ..read.clone() }));
    });
}

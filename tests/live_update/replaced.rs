//! The daemon is replaced by another process, and no client notices.

use crate::common::daemon::Daemon;
use crate::common::table::run;
use crate::common::wire::op;
use crate::common::world::{Control, World};

fn worlds(test: impl Fn(&mut World)) {
    for shards in [1, 4] {
        test(&mut World::around(Daemon::start_with_keeper(shards), Control::Socket));
    }
}

#[test]
fn clients_watches_and_transactions_go_on() {
    worlds(|world| {
        run(
            world,
            "
            dom6 READ x| -> ENOENT
            dom5 WRITE x|1 -> OK
            dom5 WATCH /local/domain/5/x|t| -> OK
            event dom5 /local/domain/5/x|t
            dom0.b WATCH /local/domain|u| -> OK
            event dom0.b /local/domain|u
            dom0 SET_PERMS /local/domain/5/x|n5|r6| -> OK
            event dom5 /local/domain/5/x|t
            event dom0.b /local/domain/5/x|u
            ",
            "before",
        );
        let tx = world.guest(5).start().unwrap();
        world.guest(5).request(op::READ, tx, "x\0").unwrap();
        world.guest(5).request(op::WRITE, tx, "y\x002").unwrap();
        let lost = world.client("dom0.b").start().unwrap();
        world.client("dom0.b").request(op::READ, lost, "/local/domain/5/x\0").unwrap();
        world.update();
        assert_eq!(world.guest(5).read("y"), Err("ENOENT".to_owned()));
        assert_eq!(world.guest(5).commit(tx).as_deref(), Ok(&b"OK\0"[..]));
        world.guest(5).write("x", "3").unwrap();
        assert_eq!(world.client("dom0.b").commit(lost), Err("EAGAIN".to_owned()));
        run(
            world,
            "
            dom5 READ y| -> 2
            dom6 READ /local/domain/5/x| -> 3
            events dom5 /local/domain/5/x|t
            events dom0.b /local/domain/5/y|u /local/domain/5/x|u
            host create 7
            host introduce 7
            dom7 READ /| -> EACCES
            host destroy 6
            event dom0.b /local/domain/6|u
            dom5 UNWATCH /local/domain/5/x|t| -> OK
            ",
            "after",
        );
    });
}

#[test]
fn half_a_request_and_unread_replies_go_on() {
    worlds(|world| {
        world.guest(5).write("x", "value").unwrap();
        for name in ["dom5", "dom0"] {
            let client = world.client(name);
            let path = if name == "dom5" { &b"x\0"[..] } else { b"/local/domain/5/x\0" };
            let bytes = client.compose(op::READ, 0, path);
            let (first, rest) = bytes.split_at(17);
            client.send_raw(first);
            world.update();
            let client = world.client(name);
            client.send_raw(rest);
            assert_eq!(client.reply().as_deref(), Ok(&b"value"[..]), "{name}");
        }
        // Two kilobytes do not fit into the ring: the rest waits in the daemon.
        let long = "v".repeat(900);
        world.guest(5).write("long", &long).unwrap();
        for _ in 0..4 {
            world.guest(5).send(op::READ, 0, "long\0");
        }
        world.admin.read("/local/domain/5/long").unwrap();
        world.update();
        for _ in 0..4 {
            assert_eq!(world.guest(5).reply().as_deref(), Ok(long.as_bytes()));
        }
    });
}

#[test]
fn hundred_updates_in_a_row_lose_nothing() {
    let world = &mut World::around(Daemon::start_with_keeper(2), Control::Socket);
    world.guest(5).watch("n", "t").unwrap();
    assert_eq!(world.next_event("dom5"), "n|t");
    let before = world.daemon.pid();
    for n in 0..100 {
        let tx = world.guest(5).start().unwrap();
        world.guest(5).request(op::WRITE, tx, format!("n\0{n}")).unwrap();
        world.update();
        world.guest(5).commit(tx).unwrap();
        assert_eq!(world.next_event("dom5"), "n|t");
        assert_eq!(world.guest(5).read("n").unwrap(), n.to_string().as_bytes());
    }
    assert!(world.events_until_now("dom5").is_empty());
    world.check_store();
    assert_eq!((world.daemon.pid(), world.daemon.is_alive()), (before, true));
    world.daemon.stop();
}

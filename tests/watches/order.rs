//! The order of events.

use super::*;

#[test]
fn the_writers_own_event_follows_its_reply() {
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            let mut world = World::new(control, shards);
            for name in ["dom0", "dom5"] {
                let client = world.client(name);
                client.arrived.clear();
                client.watch("x", "t").unwrap();
                client.next_event();
                assert_eq!(client.arrived, [op::WATCH, op::WATCH_EVENT]);
                for _ in 0..100 {
                    client.arrived.clear();
                    client.write("x", "v").unwrap();
                    client.next_event();
                    assert_eq!(client.arrived, [op::WRITE, op::WATCH_EVENT]);
                }
            }
        }
    }
}

#[test]
fn the_events_of_a_large_removal_follow_its_reply() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        for in_transaction in [false, true] {
            // The tree has more nodes than one thread settles itself.
            let make: Vec<_> = (0..6000)
                .map(|number| (op::MKDIR, 0, format!("/tool/much/{number}\0").into_bytes()))
                .collect();
            world.admin.pipeline(&make).into_iter().for_each(|reply| assert!(reply.is_ok()));
            world.admin.watch("/tool/much", "t").unwrap();
            world.admin.watch("/tool/much/7", "t").unwrap();
            world.admin.next_event();
            world.admin.next_event();
            let tx = if in_transaction { world.admin.start().unwrap() } else { 0 };
            world.admin.arrived.clear();
            world.admin.request(op::RM, tx, "/tool/much\0").unwrap();
            if in_transaction {
                world.admin.arrived.clear();
                world.admin.commit(tx).unwrap();
            }
            let mut events = [world.admin.next_event(), world.admin.next_event()];
            events.sort();
            assert_eq!(events, ["/tool/much/7|t", "/tool/much|t"]);
            let last = if in_transaction { op::TRANSACTION_END } else { op::RM };
            assert_eq!(world.admin.arrived, [last, op::WATCH_EVENT, op::WATCH_EVENT]);
            world.admin.request(op::RESET_WATCHES, 0, "\0").unwrap();
        }
    }
}

#[test]
fn no_event_follows_the_reply_to_unwatch() {
    // The same holds for events in transit from another thread.
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        for round in 0..200 {
            let token = round.to_string();
            let path = format!("/local/domain/{}/x", round % 4);
            let watcher = world.client("dom0");
            watcher.watch(&path, &token).unwrap();
            watcher.next_event();
            world.admin.send(op::WRITE, 0, format!("{path}\0v"));
            let watcher = world.client("dom0");
            watcher.unwatch(&path, &token).unwrap();
            // No event may follow the OK.
            assert_eq!(watcher.arrived.last(), Some(&op::UNWATCH));
            watcher.take_events();
            world.admin.reply().unwrap();
            assert!(world.events_until_now("dom0").is_empty(), "event after the reply to UNWATCH");
        }
    }
}

#[test]
fn watchers_see_causal_order_across_shards() {
    // Changes in different shards, made one after the other, are seen in that order by each watcher.
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let watchers: Vec<String> = (1..9).map(|i| format!("dom0.{i}")).collect();
        for name in &watchers {
            let client = world.client(name);
            client.watch("/local/domain", "t").unwrap();
            client.next_event();
        }
        let mut written = Vec::new();
        for i in 0..400 {
            let path = format!("/local/domain/{}/x{i}", i % 11);
            // Two writers alternate: each write is a reaction to the other writer's last one.
            let writer = if i % 2 == 0 { &mut world.admin } else { world.client("dom0.w") };
            writer.write(&path, "v").unwrap();
            written.push(format!("{path}|t"));
        }
        for name in &watchers {
            let client = world.client(name);
            let seen: Vec<_> = written.iter().map(|_| client.next_event()).collect();
            assert_eq!(seen, written, "{name}");
        }
    }
}

#[test]
fn event_is_never_ahead_of_the_change_it_reports() {
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            let mut world = World::new(control, shards);
            for name in ["dom0", "dom5", "dom6"] {
                let client = world.client(name);
                client.watch("/shared", "t").unwrap();
                client.next_event();
            }
            world.admin.mkdir("/shared").unwrap();
            world.admin.set_perms("/shared", "r0").unwrap();
            for name in ["dom0", "dom5", "dom6"] {
                world.events_until_now(name);
            }
            for i in 0..100 {
                let path = format!("/shared/{i}");
                world.admin.write(&path, "v").unwrap();
                for name in ["dom0", "dom5", "dom6"] {
                    assert_eq!(world.next_event(name), format!("{path}|t"));
                    assert_eq!(world.client(name).read(&path).as_deref(), Ok(&b"v"[..]));
                }
            }
        }
    }
}

#[test]
fn one_of_a_thousand_watches_fires_until_unwatched() {
    let fill = |world: &mut World| {
        for i in 0..1000 {
            let path = format!("/w/{i}");
            let client = world.client("dom0");
            client.watch(&path, "").unwrap();
            assert_eq!(client.next_event(), format!("{path}|"));
        }
    };
    check_with(
        fill,
        "
        dom0.b WRITE /w/77|v -> OK
        event dom0 /w/77|
        dom0.b WRITE /w/1000|v -> OK
        no events dom0
        dom0 UNWATCH /w/77|| -> OK
        dom0.b WRITE /w/77|v -> OK
        no events dom0
        ",
    );
}

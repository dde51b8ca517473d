//! Watches: what matches, who may see it, in which order it comes.

mod common;

use common::{Control, World, check, check_with, op};

#[test]
fn a_watch_fires_once_at_first() {
    check(
        "
        dom0 WATCH /missing|token| -> OK
        event dom0 /missing|token
        ",
    );
    check(
        "
        dom5 WATCH /hidden/from/guests|t| -> OK
        event dom5 /hidden/from/guests|t
        dom5 WATCH relative/path|t| -> OK
        event dom5 relative/path|t
        dom5 WATCH @releaseDomain|t| -> OK
        event dom5 @releaseDomain|t
        dom5 WATCH @introduceDomain|t| -> OK
        event dom5 @introduceDomain|t
        dom5 WATCH /| -> EINVAL
        dom5 WATCH /|| -> OK
        event dom5 /|
        dom0 WATCH /|t|0| -> OK
        event dom0 /|t
        ",
    );
}

#[test]
fn malformed_watches() {
    check(
        "
        dom0 WATCH /a|t -> EINVAL
        dom0 WATCH /a| -> EINVAL
        dom0 WATCH /a -> EINVAL
        dom0 WATCH a/|t| -> EINVAL
        dom0 WATCH /a//b|t| -> EINVAL
        dom0 WATCH |t| -> EINVAL
        dom0 WATCH /a+|t| -> EINVAL
        dom0 WATCH /a|t|-1| -> EINVAL
        dom0 WATCH /a|t|1|2| -> EINVAL
        dom0 UNWATCH /a|t| -> ENOENT
        dom0 UNWATCH /a| -> EINVAL
        dom0 UNWATCH a/|t| -> EINVAL
        no events dom0
        ",
    );
}

#[test]
fn one_watch_of_a_path_and_token() {
    check(
        "
        dom0 WATCH /a|t| -> OK
        event dom0 /a|t
        dom0 WATCH /a|t| -> EEXIST
        dom0 WATCH /a|t|1| -> EEXIST
        dom0 WATCH /a|u| -> OK
        event dom0 /a|u
        dom0.b WATCH /a|t| -> OK
        event dom0.b /a|t
        dom0 UNWATCH /a|x| -> ENOENT
        dom0 UNWATCH /b|t| -> ENOENT
        dom0 UNWATCH /a|t| -> OK
        dom0 UNWATCH /a|t| -> ENOENT
        dom0 WRITE /a|v -> OK
        event dom0 /a|u
        event dom0.b /a|t
        # The same path, written relative and absolute.
        dom5 WATCH x|t| -> OK
        event dom5 x|t
        dom5 WATCH /local/domain/5/x|t| -> EEXIST
        dom5 UNWATCH /local/domain/5/x|t| -> OK
        ",
    );
}

#[test]
fn what_matches() {
    check(
        "
        dom0 WATCH /a|t| -> OK
        event dom0 /a|t
        dom0.b WRITE /a|v -> OK
        event dom0 /a|t
        dom0.b WRITE /a/b/c|v -> OK
        event dom0 /a/b/c|t
        # An equal value is a change; parents made with a node are not.
        dom0.b WRITE /a/b/c|v -> OK
        event dom0 /a/b/c|t
        dom0.b MKDIR /a/b/d| -> OK
        event dom0 /a/b/d|t
        dom0.b MKDIR /a/b/d| -> OK
        dom0.b MKDIR /a/b| -> OK
        dom0.b RM /a/missing| -> OK
        dom0.b WRITE /ab|v -> OK
        dom0.b WRITE /|v -> OK
        dom0.b READ /a| -> v
        no events dom0
        dom0.b SET_PERMS /a/b|n0| -> OK
        event dom0 /a/b|t
        dom0 WATCH /|root| -> OK
        event dom0 /|root
        dom0.b WRITE /x/y|v -> OK
        event dom0 /x/y|root
        dom0.b WRITE /a|v -> OK
        events dom0 /a|t /a|root
        dom0.b WRITE /|v -> OK
        event dom0 /|root
        ",
    );
}

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
            // More than one thread settles itself.
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
fn depth() {
    check(
        "
        dom0 WATCH /a|d0|0| -> OK
        event dom0 /a|d0
        dom0 WATCH /a|d1|1| -> OK
        event dom0 /a|d1
        dom0 WATCH /a|d2|2| -> OK
        event dom0 /a|d2
        dom0 WATCH /a|all| -> OK
        event dom0 /a|all
        dom0.b WRITE /a|v -> OK
        events dom0 /a|d0 /a|d1 /a|d2 /a|all
        dom0.b WRITE /a/b|v -> OK
        events dom0 /a/b|d1 /a/b|d2 /a/b|all
        dom0.b WRITE /a/b/c|v -> OK
        events dom0 /a/b/c|d2 /a/b/c|all
        dom0.b WRITE /a/b/c/d|v -> OK
        event dom0 /a/b/c/d|all
        dom0 UNWATCH /a|d2| -> OK
        dom0.b WRITE /a/b/c|v -> OK
        event dom0 /a/b/c|all
        dom0.c WATCH /|root|1| -> OK
        event dom0.c /|root
        dom0.b WRITE /top|v -> OK
        event dom0.c /top|root
        dom0.b WRITE /top/below|v -> OK
        no events dom0.c
        # Homes in other shards count as any other node.
        dom0.c WATCH /local/domain|homes|1| -> OK
        event dom0.c /local/domain|homes
        dom0.b MKDIR /local/domain/6| -> OK
        event dom0.c /local/domain/6|homes
        dom0.b WRITE /local/domain/6/x|v -> OK
        no events dom0.c
        ",
    );
}

#[test]
fn removal_fires_for_the_root_as_a_subtree_and_for_descendants_exactly() {
    check(
        "
        dom0 WRITE /a/b/c/d|v -> OK
        dom0 WATCH /a|above| -> OK
        event dom0 /a|above
        dom0 WATCH /a/b|root| -> OK
        event dom0 /a/b|root
        dom0 WATCH /a/b/c|inner| -> OK
        event dom0 /a/b/c|inner
        dom0 WATCH /a/b/c/d|leaf| -> OK
        event dom0 /a/b/c/d|leaf
        dom0 WATCH /a/b/missing|none| -> OK
        event dom0 /a/b/missing|none
        dom0.b RM /a/b| -> OK
        events dom0 /a/b|above /a/b|root /a/b/c|inner /a/b/c/d|leaf
        ",
    );
}

#[test]
fn removal_reaches_watches_on_homes_in_every_shard() {
    check(
        "
        dom0 WRITE /local/domain/0/backend/vif/5/0/state|1 -> OK
        dom0 WRITE /local/domain/0/backend/vif/6/0/state|1 -> OK
        dom0 WRITE /local/domain/0/backend/vif/7/0/state|1 -> OK
        dom0 WATCH /local/domain/0/backend/vif/5/0/state|five| -> OK
        event dom0 /local/domain/0/backend/vif/5/0/state|five
        dom0 WATCH /local/domain/0/backend/vif/6|six| -> OK
        event dom0 /local/domain/0/backend/vif/6|six
        dom0 WATCH backend|relative| -> OK
        event dom0 backend|relative
        dom0.b WRITE /local/domain/0/backend/vif/6/0/state|2 -> OK
        events dom0 /local/domain/0/backend/vif/6/0/state|six backend/vif/6/0/state|relative
        dom0.b RM /local/domain/0/backend/vif| -> OK
        events dom0 /local/domain/0/backend/vif/5/0/state|five /local/domain/0/backend/vif/6|six backend/vif|relative
        ",
    );
}

#[test]
fn relative_watches_have_relative_events() {
    check(
        "
        dom5 WATCH a|rel| -> OK
        event dom5 a|rel
        dom5 WATCH /local/domain/5/a|abs| -> OK
        event dom5 /local/domain/5/a|abs
        dom0 WRITE /local/domain/5/a/b|v -> OK
        dom0 SET_PERMS /local/domain/5/a|n5| -> OK
        events dom5 a/b|rel /local/domain/5/a/b|abs a|rel /local/domain/5/a|abs
        dom0 RM /local/domain/5/a| -> OK
        events dom5 a|rel /local/domain/5/a|abs
        ",
    );
}

#[test]
fn only_who_may_read_gets_the_event() {
    check(
        "
        dom0 MKDIR /open| -> OK
        dom0 SET_PERMS /open|r0| -> OK
        dom5 WATCH /|t| -> OK
        event dom5 /|t
        dom0 WRITE /open/a|v -> OK
        event dom5 /open/a|t
        # Losing the right is seen, what follows is not, although the parent is readable.
        dom0 SET_PERMS /open/a|n0| -> OK
        event dom5 /open/a|t
        dom0 WRITE /open/a|w -> OK
        dom0 SET_PERMS /open/a|n0|r6| -> OK
        dom0 WRITE /open/a/below|w -> OK
        no events dom5
        # Gaining it is seen.
        dom0 SET_PERMS /open/a|n0|r5| -> OK
        event dom5 /open/a|t
        dom0 SET_PERMS /open/a|n0| -> OK
        event dom5 /open/a|t
        # A removed node is judged by its own last permissions, then by its parent's.
        dom0 RM /open/a| -> OK
        event dom5 /open/a|t
        dom0 WRITE /closed/b|v -> OK
        dom0 SET_PERMS /closed/b|r0| -> OK
        event dom5 /closed/b|t
        dom0 RM /closed/b| -> OK
        event dom5 /closed/b|t
        dom0 WRITE /closed/c|v -> OK
        dom0 RM /closed/c| -> OK
        dom0 RM /closed| -> OK
        no events dom5
        # Others' homes are hidden.
        dom6 WRITE x|v -> OK
        no events dom5
        ",
    );
}

#[test]
fn reset_watches() {
    check(
        "
        dom5 WATCH x|t| -> OK
        event dom5 x|t
        dom5 START t1
        dom5 RESET_WATCHES | -> OK
        dom5 WRITE x|v -> OK
        dom5 t1 READ x| -> ENOENT
        dom5 t1 END T| -> ENOENT
        no events dom5
        dom5 WATCH x|t| -> OK
        event dom5 x|t
        # Nobody else's.
        dom6 WATCH x|t| -> OK
        event dom6 x|t
        dom5 RESET_WATCHES | -> OK
        dom6 WRITE x|v -> OK
        event dom6 x|t
        ",
    );
}

#[test]
fn unwatch_ends_with_its_reply() {
    // Also for events that are under way from another thread.
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
            // What comes after the OK comes too late.
            assert_eq!(watcher.arrived.last(), Some(&op::UNWATCH));
            watcher.take_events();
            world.admin.reply().unwrap();
            assert!(world.events_until_now("dom0").is_empty(), "an event after UNWATCH's OK");
        }
    }
}

#[test]
fn a_closed_connections_watches_are_gone() {
    check(
        "
        dom0.b WATCH /a|t| -> OK
        event dom0.b /a|t
        close dom0.b
        dom0 WRITE /a|v -> OK
        dom0.b WATCH /a|t| -> OK
        event dom0.b /a|t
        dom0 WRITE /a|v -> OK
        event dom0.b /a|t
        ",
    );
}

#[test]
fn special_watches() {
    check(
        "
        dom0 WATCH @introduceDomain|i| -> OK
        event dom0 @introduceDomain|i
        dom0 WATCH @introduceDomain|deep|1| -> OK
        event dom0 @introduceDomain|deep
        dom0 WATCH @releaseDomain|r| -> OK
        event dom0 @releaseDomain|r
        dom0 WATCH @releaseDomain|rdeep|1| -> OK
        event dom0 @releaseDomain|rdeep
        dom0 WATCH @releaseDomain/7|one| -> OK
        event dom0 @releaseDomain/7|one
        dom0 WATCH @releaseDomain/8|other| -> OK
        event dom0 @releaseDomain/8|other
        dom5 WATCH @introduceDomain|i| -> OK
        event dom5 @introduceDomain|i
        dom5 WATCH @releaseDomain|r| -> OK
        event dom5 @releaseDomain|r
        dom5 WATCH @releaseDomain/7|one| -> OK
        event dom5 @releaseDomain/7|one
        host create 7
        no events dom0
        host introduce 7
        events dom0 @introduceDomain|i @introduceDomain/7|deep
        no events dom5
        host shutdown 7
        events dom0 @releaseDomain|r @releaseDomain/7|rdeep @releaseDomain/7|one
        events dom5 @releaseDomain|r @releaseDomain/7|one
        host destroy 7
        events dom0 @releaseDomain|r @releaseDomain/7|rdeep @releaseDomain/7|one
        events dom5 @releaseDomain|r @releaseDomain/7|one
        ",
    );
}

#[test]
fn special_watches_need_permission() {
    check(
        "
        dom0 SET_PERMS @introduceDomain|n0|r5| -> OK
        dom0 SET_PERMS @releaseDomain|n0|r6| -> OK
        dom5 WATCH @introduceDomain|i| -> OK
        event dom5 @introduceDomain|i
        dom5 WATCH @releaseDomain|r| -> OK
        event dom5 @releaseDomain|r
        dom6 WATCH @introduceDomain|i|1| -> OK
        event dom6 @introduceDomain|i
        dom6 WATCH @releaseDomain|r|1| -> OK
        event dom6 @releaseDomain|r
        host create 7
        host introduce 7
        event dom5 @introduceDomain|i
        host destroy 7
        event dom6 @releaseDomain/7|r
        no events dom5
        no events dom6
        ",
    );
}

#[test]
fn many_watchers_and_causal_order_over_shards() {
    // Changes of different shards, made one after another, are seen in that order by each watcher.
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
            // Two writers in turn, so that each write is caused by the other's.
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
fn an_event_is_never_ahead_of_what_it_reports() {
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
fn a_thousand_watches_on_one_connection() {
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

#[test]
fn a_removed_homes_parent_lets_its_watchers_see_the_removal() {
    check(
        "
        dom7 WRITE x|v -> OK
        dom0 WRITE /made/home|v -> OK
        dom7 WATCH /made/home|t| -> OK
        event dom7 /made/home|t
        dom0 SET_PERMS /made|n0|r7| -> OK
        dom0 RM /made| -> OK
        event dom7 /made/home|t
        ",
    );
}

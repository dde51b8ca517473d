//! Transactions: two conflict only where one saw what the other changed.

mod common;

use std::time::Duration;

use common::{Control, World, check, op};

#[test]
fn a_transaction_sees_its_own_changes_and_nobody_else_does() {
    check(
        "
        dom0 WRITE /a|old -> OK
        dom0 START t1
        dom0 t1 WRITE /a|new -> OK
        dom0 t1 WRITE /b/c|made -> OK
        dom0 t1 READ /a| -> new
        dom0 t1 DIRECTORY /b| -> c|
        dom0 READ /a| -> old
        dom0 READ /b/c| -> ENOENT
        dom0.b READ /a| -> old
        dom0 t1 END T| -> OK
        dom0.b READ /a| -> new
        dom0.b READ /b/c| -> made
        ",
    );
}

#[test]
fn an_ended_transaction_without_commit_leaves_nothing() {
    check(
        "
        dom0 WRITE /a|old -> OK
        dom0.b WATCH /|t| -> OK
        event dom0.b /|t
        dom0 START t1
        dom0 t1 WRITE /a|new -> OK
        dom0 t1 WRITE /b|new -> OK
        dom0 t1 RM /a| -> OK
        dom0 t1 END F| -> OK
        dom0 READ /a| -> old
        dom0 READ /b| -> ENOENT
        no events dom0.b
        ",
    );
}

#[test]
fn every_operation_in_a_transaction() {
    check(
        "
        dom5 START t1
        dom5 t1 WRITE x/y|v -> OK
        dom5 t1 MKDIR x/z| -> OK
        dom5 t1 READ x/y| -> v
        dom5 t1 READ x/missing| -> ENOENT
        dom5 t1 READ /hidden| -> EACCES
        dom5 t1 DIRECTORY x| -> y|z| or z|y|
        dom5 t1 GET_PERMS x/y| -> n5|
        dom5 t1 SET_PERMS x/y|n5|r6| -> OK
        dom5 t1 GET_PERMS x/y| -> n5|r6|
        dom5 t1 SET_PERMS x/y|n6| -> EPERM
        dom5 t1 RM x/z| -> OK
        dom5 t1 RM x/none/below| -> ENOENT
        dom5 t1 WRITE /hidden|v -> EACCES
        dom5 t1 WRITE x//y|v -> EINVAL
        dom5 t1 GET_DOMAIN_PATH 5| -> /local/domain/5|
        dom5 t1 GET_FEATURE -> 15|
        dom5 t1 END T| -> OK
        dom0 READ /local/domain/5/x/y| -> v
        dom6 READ /local/domain/5/x/y| -> v
        dom0 READ /local/domain/5/x/z| -> ENOENT
        # Operations about domains do not belong to a transaction.
        dom0 START t2
        dom0 t2 IS_DOMAIN_INTRODUCED 5| -> T|
        dom0 t2 SET_TARGET 5|6| -> OK
        dom0 t2 GET_QUOTA nodes| -> 1000|
        dom0 t2 END F| -> OK
        ",
    );
}

#[test]
fn transaction_ids() {
    check(
        "
        dom0 START t1
        dom0 START t2
        dom0.b START t3
        dom0 t1 START | -> EBUSY
        dom0 END T| -> ENOENT
        dom0 END x| -> EINVAL
        dom0 t1 END x| -> EINVAL
        dom0 t1 END T -> EINVAL
        dom0 t1 END | -> EINVAL
        dom0 t1 END T|T| -> EINVAL
        dom0 t1 READ /tool| -> \"\"
        dom0 t1 END T| -> OK
        dom0 t1 END T| -> ENOENT
        dom0 t1 END F| -> ENOENT
        dom0 t1 READ /tool| -> ENOENT
        dom0 t2 END F| -> OK
        dom0 #4294967295 READ /tool| -> ENOENT
        dom0 START t1
        dom0 t1 END T| -> OK
        dom0.b t3 END T| -> OK
        ",
    );
}

#[test]
fn ids_belong_to_their_connection() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let mine = world.client("dom0").start().unwrap();
        // Also if the other has one of its own of the same number.
        let other = world.client("dom0.b");
        let theirs = other.start().unwrap();
        if theirs != mine {
            assert_eq!(other.commit(mine), Err("ENOENT".to_owned()));
        }
        other.request(op::WRITE, theirs, "/a\0theirs").unwrap();
        assert_eq!(other.commit(theirs).as_deref(), Ok(&b"OK\0"[..]));
        let me = world.client("dom0");
        assert_eq!(me.request(op::READ, mine, "/tool\0").as_deref(), Ok(&b""[..]));
        assert_eq!(me.commit(mine).as_deref(), Ok(&b"OK\0"[..]));
    }
}

#[test]
fn disjoint_transactions_never_conflict() {
    check(
        "
        dom0 WRITE /dir/a|1 -> OK
        dom0 WRITE /dir/b|1 -> OK
        dom0 START t1
        dom0.b START t2
        dom0 t1 READ /dir/a| -> 1
        dom0 t1 WRITE /dir/a|2 -> OK
        dom0.b t2 READ /dir/b| -> 1
        dom0.b t2 WRITE /dir/b|2 -> OK
        # Both make children of one node that neither listed.
        dom0 t1 WRITE /dir/made-by-1/x|1 -> OK
        dom0.b t2 WRITE /dir/made-by-2/x|1 -> OK
        dom0.b t2 END T| -> OK
        dom0 t1 END T| -> OK
        dom0 READ /dir/a| -> 2
        dom0 READ /dir/b| -> 2
        dom0 READ /dir/made-by-1/x| -> 1
        dom0 READ /dir/made-by-2/x| -> 1
        ",
    );
}

#[test]
fn who_read_what_another_changed_must_try_again() {
    check(
        "
        dom0 WRITE /a|1 -> OK
        dom0 START t1
        dom0 t1 READ /a| -> 1
        dom0 t1 WRITE /b|seen-1 -> OK
        dom0.b WRITE /a|2 -> OK
        dom0 t1 END T| -> EAGAIN
        dom0 READ /b| -> ENOENT
        dom0 t1 END T| -> ENOENT
        # In either order of begin and commit.
        dom0 START t1
        dom0.b START t2
        dom0 t1 READ /a| -> 2
        dom0.b t2 READ /a| -> 2
        dom0.b t2 WRITE /a|3 -> OK
        dom0 t1 WRITE /a|4 -> OK
        dom0.b t2 END T| -> OK
        dom0 t1 END T| -> EAGAIN
        dom0 READ /a| -> 3
        # The first to commit is in the right, whoever began first.
        dom0 START t1
        dom0.b START t2
        dom0 t1 READ /a| -> 3
        dom0.b t2 READ /a| -> 3
        dom0.b t2 WRITE /a|5 -> OK
        dom0 t1 WRITE /a|6 -> OK
        dom0 t1 END T| -> OK
        dom0.b t2 END T| -> EAGAIN
        dom0 READ /a| -> 6
        # Who only reads is no obstacle to others.
        dom0 START t1
        dom0 t1 READ /a| -> 6
        dom0.b START t2
        dom0.b t2 WRITE /a|7 -> OK
        dom0.b t2 END T| -> OK
        dom0 t1 READ /a| -> 6
        dom0 t1 END T| -> EAGAIN
        ",
    );
}

#[test]
fn who_would_see_the_same_again_does_not_conflict() {
    check(
        "
        # A value that was written and is the same again.
        dom0 WRITE /a|1 -> OK
        dom0 START t1
        dom0 t1 READ /a| -> 1
        dom0.b WRITE /a|2 -> OK
        dom0.b WRITE /a|1 -> OK
        dom0 t1 END T| -> OK
        # Blind writes: some order explains both.
        dom0 START t1
        dom0.b START t2
        dom0 t1 WRITE /a|from-1 -> OK
        dom0.b t2 WRITE /a|from-2 -> OK
        dom0 t1 END T| -> OK
        dom0.b t2 END T| -> OK
        dom0 READ /a| -> from-2
        # A child of a node whose value was read.
        dom0 START t1
        dom0 t1 READ /a| -> from-2
        dom0.b WRITE /a/child|v -> OK
        dom0 t1 END T| -> OK
        # A value of a node whose children were listed.
        dom0 START t1
        dom0 t1 DIRECTORY /a| -> child|
        dom0.b WRITE /a|other -> OK
        dom0.b WRITE /a/child|other -> OK
        dom0 t1 END T| -> OK
        # Its own value, read after it was written.
        dom0 START t1
        dom0 t1 WRITE /a|mine -> OK
        dom0 t1 READ /a| -> mine
        dom0.b WRITE /a|theirs -> OK
        dom0 t1 END T| -> OK
        dom0 READ /a| -> mine
        # Made by both.
        dom0 START t1
        dom0.b START t2
        dom0 t1 MKDIR /made| -> OK
        dom0.b t2 MKDIR /made| -> OK
        dom0 t1 END T| -> OK
        dom0.b t2 END T| -> OK
        ",
    );
}

#[test]
fn what_is_listed_missing_or_guarded_conflicts_too() {
    check(
        "
        dom0 MKDIR /d| -> OK
        dom0 START t1
        dom0 t1 DIRECTORY /d| -> \"\"
        dom0.b MKDIR /d/x| -> OK
        dom0 t1 END T| -> EAGAIN
        dom0 START t1
        dom0 t1 READ /d/y| -> ENOENT
        dom0.b WRITE /d/y|v -> OK
        dom0 t1 END T| -> EAGAIN
        dom0 START t1
        dom0 t1 READ /d/y| -> v
        dom0.b RM /d/y| -> OK
        dom0 t1 END T| -> EAGAIN
        dom0 START t1
        dom0 t1 GET_PERMS /d| -> n0|
        dom0.b SET_PERMS /d|n0|r5| -> OK
        dom0 t1 END T| -> EAGAIN
        # Homes of other shards are children like others.
        dom0 MKDIR /local/domain/1| -> OK
        dom0 START t1
        dom0 t1 DIRECTORY /local/domain/1| -> \"\"
        dom0.b WRITE /local/domain/1/backend/vif/6/0|v -> OK
        dom0 t1 END T| -> EAGAIN
        dom0 START t1
        dom0 t1 READ /local/domain/1/backend/vif/6/0| -> v
        dom0.b RM /local/domain/1| -> OK
        dom0 t1 END T| -> EAGAIN
        # The right to write was part of what was seen.
        dom0 WRITE /local/domain/5/x|v -> OK
        dom0 SET_PERMS /local/domain/5/x|n5| -> OK
        dom5 START t1
        dom5 t1 WRITE x|w -> OK
        dom0 SET_PERMS /local/domain/5/x|n0| -> OK
        dom5 t1 END T| -> EAGAIN
        dom0 READ /local/domain/5/x| -> v
        ",
    );
}

#[test]
fn removal_in_transactions() {
    check(
        "
        dom0 WRITE /a/b/c|v -> OK
        dom0 START t1
        dom0 t1 RM /a/b| -> OK
        dom0 t1 READ /a/b/c| -> ENOENT
        dom0 t1 DIRECTORY /a| -> \"\"
        dom0 t1 RM /a/b/c| -> ENOENT
        dom0 READ /a/b/c| -> v
        dom0 t1 END T| -> OK
        dom0 READ /a/b| -> ENOENT
        # Removed and made again.
        dom0 WRITE /a/b/c|old -> OK
        dom0 START t1
        dom0 t1 RM /a| -> OK
        dom0 t1 WRITE /a/b|new -> OK
        dom0 t1 END T| -> OK
        dom0 READ /a/b| -> new
        dom0 READ /a/b/c| -> ENOENT
        # Both remove the same: some order explains it, each would answer OK.
        dom0 START t1
        dom0.b START t2
        dom0 t1 RM /a/b| -> OK
        dom0.b t2 RM /a/b| -> OK
        dom0 t1 END T| -> OK
        dom0.b t2 END T| -> OK
        # One removes the parent: the other's answer would be another.
        dom0 WRITE /a/b|v -> OK
        dom0 START t1
        dom0.b START t2
        dom0 t1 RM /a| -> OK
        dom0.b t2 RM /a/b| -> OK
        dom0 t1 END T| -> OK
        dom0.b t2 END T| -> EAGAIN
        ",
    );
}

#[test]
fn events_come_at_commit_in_the_order_of_first_change() {
    check(
        "
        dom0 MKDIR /t/old| -> OK
        dom0.b WATCH /t|w| -> OK
        event dom0.b /t|w
        dom0 START t1
        dom0 t1 WRITE /t/c|1 -> OK
        dom0 t1 WRITE /t/a|1 -> OK
        dom0 t1 WRITE /t/b|1 -> OK
        dom0 t1 WRITE /t/c|2 -> OK
        dom0 t1 READ /t/old| -> \"\"
        dom0 t1 RM /t/old| -> OK
        dom0 t1 SET_PERMS /t/a|n0| -> OK
        no events dom0.b
        dom0 t1 END T| -> OK
        event dom0.b /t/c|w
        event dom0.b /t/a|w
        event dom0.b /t/b|w
        event dom0.b /t/old|w
        no events dom0.b
        # A transaction that could not commit says nothing.
        dom0 START t1
        dom0 t1 READ /t/a| -> 1
        dom0 t1 WRITE /t/b|2 -> OK
        dom0.b WRITE /t/a|2 -> OK
        event dom0.b /t/a|w
        dom0 t1 END T| -> EAGAIN
        no events dom0.b
        ",
    );
}

#[test]
fn events_of_one_commit_over_several_shards() {
    check(
        "
        dom0.b WATCH /local/domain|w| -> OK
        event dom0.b /local/domain|w
        dom5 WATCH x|own| -> OK
        event dom5 x|own
        dom0 START t1
        dom0 t1 WRITE /local/domain/7/x|1 -> OK
        dom0 t1 WRITE /local/domain/5/x|1 -> OK
        dom0 t1 WRITE /local/domain/6/x|1 -> OK
        dom0 t1 WRITE /libxl/6/x|1 -> OK
        dom0 t1 END T| -> OK
        event dom0.b /local/domain/7/x|w
        event dom0.b /local/domain/5/x|w
        event dom0.b /local/domain/6/x|w
        event dom5 x|own
        ",
    );
}

#[test]
fn visibility_of_a_commits_events_is_judged_before_and_after() {
    check(
        "
        dom0 WRITE /o/shown|v -> OK
        dom0 SET_PERMS /o/shown|r0| -> OK
        dom0 WRITE /o/secret|v -> OK
        dom5 WATCH /o|w| -> OK
        event dom5 /o|w
        dom0 START t1
        dom0 t1 WRITE /o/secret|w -> OK
        dom0 t1 SET_PERMS /o/shown|n0| -> OK
        dom0 t1 END T| -> OK
        event dom5 /o/shown|w
        no events dom5
        dom0 START t1
        dom0 t1 SET_PERMS /o/secret|r0| -> OK
        dom0 t1 WRITE /o/shown|w -> OK
        dom0 t1 END T| -> OK
        event dom5 /o/secret|w
        no events dom5
        ",
    );
}

#[test]
fn a_node_made_and_removed_in_a_transaction_never_was() {
    check(
        "
        dom0 MKDIR /t| -> OK
        dom5 START t1
        dom5 t1 WRITE x/y/z|v -> OK
        dom5 t1 RM x| -> OK
        dom5 t1 READ x| -> ENOENT
        dom5 t1 END T| -> OK
        dom5 DIRECTORY /local/domain/5| -> \"\"
        dom0 READ /local/domain/5/x/y/z| -> ENOENT
        ",
    );
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        world.guest(5);
        let before = world.nodes_of(5);
        for _ in 0..50 {
            let guest = world.guest(5);
            let tx = guest.start().unwrap();
            guest.request(op::WRITE, tx, "a/b/c\0v").unwrap();
            guest.request(op::RM, tx, "a\0").unwrap();
            guest.commit(tx).unwrap();
        }
        assert_eq!(world.nodes_of(5), before);
        world.check_store();
    }
}

#[test]
fn a_closed_connections_transactions_are_gone() {
    check(
        "
        dom0.b START t1
        dom0.b t1 WRITE /a|v -> OK
        close dom0.b
        dom0 READ /a| -> ENOENT
        dom0 WRITE /a|w -> OK
        dom0 READ /a| -> w
        ",
    );
}

#[test]
fn a_long_transaction_commits() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let client = world.client("dom0");
        let tx = client.start().unwrap();
        let requests: Vec<_> = (0..2000)
            .map(|i| (op::WRITE, tx, format!("/local/domain/{}/x/{i}\0{i}", i % 9).into_bytes()))
            .collect();
        assert!(client.pipeline(&requests).iter().all(Result::is_ok));
        world.admin.write("/elsewhere", "v").unwrap();
        let client = world.client("dom0");
        assert_eq!(client.commit(tx).as_deref(), Ok(&b"OK\0"[..]));
        assert_eq!(client.read("/local/domain/1/x/1999").as_deref(), Ok(&b"1999"[..]));
        world.check_store();
    }
}

#[test]
fn transactions_that_stay_open_cost_nothing_while_they_do() {
    let mut world = World::new(Control::Socket, 1);
    let client = &mut world.admin;
    client.write("/a", "v").unwrap();
    let mut open = Vec::new();
    for _ in 0..2_000 {
        let tx = client.start().unwrap();
        let reads = vec![(op::READ, tx, b"/a\0".to_vec()); 50];
        assert!(client.pipeline(&reads).iter().all(Result::is_ok));
        open.push(tx);
    }
    // Long enough for all snapshots to be given up. To run every log again takes 0.3 s.
    let before = world.daemon.cpu_time();
    std::thread::sleep(Duration::from_millis(2500));
    let spent = world.daemon.cpu_time() - before;
    assert!(spent < Duration::from_millis(100), "{spent:?} of processor time");
    for (number, tx) in open.into_iter().enumerate() {
        if number == 1_000 {
            world.admin.write("/a", "w").unwrap();
        }
        let expected = if number < 1_000 { Ok(b"OK\0".to_vec()) } else { Err("EAGAIN".into()) };
        assert_eq!(world.admin.commit(tx), expected);
    }
}

#[test]
fn open_transactions_pin_so_many_homes_and_no_more() {
    let mut world = World::new(Control::Socket, 2);
    // Each pins the home in a version of its own.
    const OPEN: u32 = 17_000;
    let client = &mut world.admin;
    let mut requests = Vec::new();
    for version in 0..OPEN {
        let tx = version + 1;
        requests.push((op::TRANSACTION_START, 0, b"\0".to_vec()));
        requests.push((op::READ, tx, b"/libxl/5\0".to_vec()));
        requests.push((op::WRITE, 0, format!("/libxl/5/x\0{version}").into_bytes()));
    }
    client.mkdir("/libxl/5").unwrap();
    assert!(client.pipeline(&requests).iter().all(Result::is_ok));
    let report = world.daemon.path("report");
    world.admin.control(&format!("memreport {}", report.display())).unwrap();
    let report = std::fs::read_to_string(report).unwrap();
    let shards = report.lines().skip(1).take(3);
    let pinned = shards.map(|line| line.split_whitespace().last().unwrap().parse::<u32>().unwrap());
    let most = pinned.max().unwrap();
    assert!(most <= 16_384, "{report}");
    // The oldest were given up. They go on, and what they saw did not change.
    let client = &mut world.admin;
    let shown = client.request(op::READ, 1, "/libxl/5/x\0");
    assert_eq!(shown.as_deref(), Ok(&b"16999"[..]));
    for tx in 1..=OPEN {
        assert_eq!(client.commit(tx).as_deref(), Ok(&b"OK\0"[..]));
    }
}

#[test]
fn xsa_115_what_a_node_was_within_a_transaction_only_is_not_shown() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let admin = &mut world.admin;
        admin.mkdir("/open").unwrap();
        admin.set_perms("/open", "r0").unwrap();
        admin.mkdir("/open/old").unwrap();
        world.guest(5).watch("/open", "t").unwrap();
        world.events_until_now("dom5");
        // A node that no guest could ever read, and one that none can read any more.
        let admin = &mut world.admin;
        let tx = admin.start().unwrap();
        for (path, perms) in [("/open/secret", "n0"), ("/open/old", "n0")] {
            admin.request(op::RM, tx, format!("{path}\0")).unwrap();
            admin.request(op::MKDIR, tx, format!("{path}\0")).unwrap();
            let payload = format!("{path}\0{perms}\0");
            admin.request(op::SET_PERMS, tx, payload).unwrap();
        }
        admin.commit(tx).unwrap();
        assert_eq!(world.events_until_now("dom5"), ["/open/old|t"]);
    }
}

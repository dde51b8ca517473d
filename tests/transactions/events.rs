//! Events of commits, and the clients that get them.

use super::*;

#[test]
fn events_fire_at_commit_in_the_order_of_first_change() {
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
        # A failed transaction causes no event.
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
fn commit_over_several_shards_fires_in_order_of_change() {
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
fn events_of_a_commit_fire_if_readable_before_or_after() {
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
fn repeated_removal_in_a_transaction_fires_for_both_trees() {
    check(
        "
        dom0 WRITE /local/domain/0/b/c|1 -> OK
        dom0 WRITE /local/domain/0/d|1 -> OK
        dom0.b WATCH /local/domain/0/b|x| -> OK
        event dom0.b /local/domain/0/b|x
        dom0.b WATCH /local/domain/0/d|y| -> OK
        event dom0.b /local/domain/0/d|y
        dom0 START t1
        dom0 t1 RM /local/domain| -> OK
        dom0 t1 WRITE /local/domain/0/d|2 -> OK
        dom0 t1 RM /local/domain| -> OK
        dom0 t1 END T| -> OK
        event dom0.b /local/domain/0/b|x
        event dom0.b /local/domain/0/d|y
        no events dom0.b
        ",
    );
}

#[test]
fn node_created_and_removed_in_a_transaction_leaves_no_trace() {
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
fn xsa_115_state_within_a_transaction_only_is_not_shown() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let admin = &mut world.admin;
        admin.mkdir("/open").unwrap();
        admin.set_perms("/open", "r0").unwrap();
        admin.mkdir("/open/old").unwrap();
        world.guest(5).watch("/open", "t").unwrap();
        world.events_until_now("dom5");
        // One node that no guest could ever read, and one that no guest can read any more.
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

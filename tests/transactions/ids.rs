//! Ownership of transactions, and the requests that are allowed in one.

use super::*;

#[test]
fn uncommitted_changes_are_visible_to_their_transaction_only() {
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
fn aborted_transaction_leaves_nothing() {
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
fn every_operation_works_in_a_transaction() {
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
fn unknown_transaction_ids_and_malformed_ends_are_refused() {
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
fn transaction_ids_belong_to_their_connection() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let mine = world.client("dom0").start().unwrap();
        // The same holds if the other connection has a transaction with the same id.
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

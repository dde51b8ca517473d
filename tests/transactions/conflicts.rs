//! The rule by which two transactions conflict.

use super::*;

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
        # Both create children of a node that neither listed.
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
fn transaction_that_read_changed_data_gets_eagain() {
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
        # The first to commit wins, in either order of begin.
        dom0 START t1
        dom0.b START t2
        dom0 t1 READ /a| -> 3
        dom0.b t2 READ /a| -> 3
        dom0.b t2 WRITE /a|5 -> OK
        dom0 t1 WRITE /a|6 -> OK
        dom0 t1 END T| -> OK
        dom0.b t2 END T| -> EAGAIN
        dom0 READ /a| -> 6
        # A read-only transaction does not make others fail.
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
fn transaction_that_would_get_the_same_replies_commits() {
    check(
        "
        # A value that was changed and restored.
        dom0 WRITE /a|1 -> OK
        dom0 START t1
        dom0 t1 READ /a| -> 1
        dom0.b WRITE /a|2 -> OK
        dom0.b WRITE /a|1 -> OK
        dom0 t1 END T| -> OK
        # Blind writes: a serial order explains both.
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
        # Created by both.
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
fn change_of_listing_existence_or_permissions_conflicts() {
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
        # Partitions of other shards are children like others.
        dom0 MKDIR /local/domain/1| -> OK
        dom0 START t1
        dom0 t1 DIRECTORY /local/domain/1| -> \"\"
        dom0.b WRITE /local/domain/1/backend/vif/6/0|v -> OK
        dom0 t1 END T| -> EAGAIN
        dom0 START t1
        dom0 t1 READ /local/domain/1/backend/vif/6/0| -> v
        dom0.b RM /local/domain/1| -> OK
        dom0 t1 END T| -> EAGAIN
        # The right to write is part of the access set.
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
fn removals_in_transactions_are_serializable() {
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
        # Removed and created again.
        dom0 WRITE /a/b/c|old -> OK
        dom0 START t1
        dom0 t1 RM /a| -> OK
        dom0 t1 WRITE /a/b|new -> OK
        dom0 t1 END T| -> OK
        dom0 READ /a/b| -> new
        dom0 READ /a/b/c| -> ENOENT
        # Both remove the same node: a serial order explains both replies, OK.
        dom0 START t1
        dom0.b START t2
        dom0 t1 RM /a/b| -> OK
        dom0.b t2 RM /a/b| -> OK
        dom0 t1 END T| -> OK
        dom0.b t2 END T| -> OK
        # One removes the parent: the other's reply would differ.
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

//! Matching of watches.

use super::*;

#[test]
fn new_watch_fires_once() {
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
fn malformed_watches_are_einval() {
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
fn second_watch_of_a_path_and_token_is_eexist() {
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
fn watch_matches_its_path_and_everything_below() {
    check(
        "
        dom0 WATCH /a|t| -> OK
        event dom0 /a|t
        dom0.b WRITE /a|v -> OK
        event dom0 /a|t
        dom0.b WRITE /a/b/c|v -> OK
        event dom0 /a/b/c|t
        # Writing an equal value is a change; creating missing parents is not.
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
fn depth_limits_which_changes_fire_a_watch() {
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
        # Partitions in other shards match like other nodes.
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
fn removal_fires_above_for_the_root_and_below_on_exact_paths() {
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
fn removal_reaches_watches_on_partitions_in_every_shard() {
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
fn reset_watches_removes_watches_and_ends_transactions() {
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
        # Watches of other clients stay.
        dom6 WATCH x|t| -> OK
        event dom6 x|t
        dom5 RESET_WATCHES | -> OK
        dom6 WRITE x|v -> OK
        event dom6 x|t
        ",
    );
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

//! Permissions: how they are written, inherited and enforced.

use super::*;

#[test]
fn permissions_are_shown_set_and_enforced() {
    check(
        "
        dom0 WRITE /a|v -> OK
        dom0 GET_PERMS /a| -> n0|
        dom5 READ /a| -> EACCES
        dom5 GET_PERMS /a| -> EACCES
        dom0 SET_PERMS /a|n0|r5| -> OK
        dom0 GET_PERMS /a| -> n0|r5|
        dom5 READ /a| -> v
        dom5 GET_PERMS /a| -> n0|r5|
        dom5 WRITE /a|w -> EACCES
        dom5 SET_PERMS /a|n0|b5| -> EACCES
        dom6 READ /a| -> EACCES
        dom0 SET_PERMS /a|n0|w5| -> OK
        dom5 READ /a| -> EACCES
        dom5 WRITE /a|w -> OK
        dom0 READ /a| -> w
        dom0 SET_PERMS /a|n0|b5|r6| -> OK
        dom5 READ /a| -> w
        dom5 WRITE /a|x -> OK
        dom6 READ /a| -> x
        dom6 WRITE /a|y -> EACCES
        # The first entry names the owner and the rights of all other domains.
        dom0 SET_PERMS /a|r5|n6| -> OK
        dom7 READ /a| -> x
        dom7 WRITE /a|y -> EACCES
        dom6 READ /a| -> EACCES
        dom5 WRITE /a|y -> OK
        dom0 SET_PERMS /a|b5| -> OK
        dom7 WRITE /a|z -> OK
        # The owner sets permissions, but cannot give the node away.
        dom5 SET_PERMS /a|n5|r6| -> OK
        dom0 GET_PERMS /a| -> n5|r6|
        dom5 SET_PERMS /a|n6| -> EPERM
        dom6 SET_PERMS /a|n5|b6| -> EACCES
        dom0 SET_PERMS /a|n6|n5| -> OK
        dom5 READ /a| -> EACCES
        # The first entry about a domain decides.
        dom0 SET_PERMS /a|n0|r5|w5| -> OK
        dom5 READ /a| -> z
        dom5 WRITE /a|q -> EACCES
        ",
    );
}

#[test]
fn missing_node_is_eacces_unless_an_ancestor_is_readable() {
    check(
        "
        dom0 MKDIR /open| -> OK
        dom0 SET_PERMS /open|r0| -> OK
        dom0 WRITE /open/hidden|v -> OK
        dom0 SET_PERMS /open/hidden|n0| -> OK
        dom5 READ /open/missing| -> ENOENT
        dom5 READ /open/missing/below| -> ENOENT
        dom5 READ /open/hidden| -> EACCES
        dom5 READ /open/hidden/missing| -> EACCES
        dom5 READ /missing| -> EACCES
        dom5 WRITE /open/missing|v -> EACCES
        dom5 MKDIR /open/missing| -> EACCES
        dom5 RM /open/missing| -> EACCES
        dom0 SET_PERMS /open|w0| -> OK
        dom5 READ /open/missing| -> EACCES
        dom5 RM /open/missing| -> OK
        dom5 MKDIR /open/mine| -> OK
        dom0 GET_PERMS /open/mine| -> w5|
        ",
    );
}

#[test]
fn new_node_inherits_permissions_and_is_owned_by_its_creator() {
    check(
        "
        dom0 MKDIR /d| -> OK
        dom0 SET_PERMS /d|n0|b5|r6| -> OK
        dom0 WRITE /d/x/y|v -> OK
        dom0 GET_PERMS /d/x| -> n0|b5|r6|
        dom0 GET_PERMS /d/x/y| -> n0|b5|r6|
        dom5 WRITE /d/mine/deep|v -> OK
        dom0 GET_PERMS /d/mine| -> n5|b5|r6|
        dom0 GET_PERMS /d/mine/deep| -> n5|b5|r6|
        dom6 READ /d/mine/deep| -> v
        dom0 WRITE /d/mine/deep/control|v -> OK
        dom0 GET_PERMS /d/mine/deep/control| -> n5|b5|r6|
        # Neither writing nor changes of children change permissions.
        dom5 WRITE /d|v -> OK
        dom0 GET_PERMS /d| -> n0|b5|r6|
        ",
    );
}

#[test]
fn malformed_permissions_are_einval() {
    check(
        "
        dom0 MKDIR /a| -> OK
        dom0 SET_PERMS /a| -> EINVAL
        dom0 SET_PERMS /a|n0 -> EINVAL
        dom0 SET_PERMS -> EINVAL
        dom0 SET_PERMS /a|| -> EINVAL
        dom0 SET_PERMS /a|x0| -> EINVAL
        dom0 SET_PERMS /a|n| -> EINVAL
        dom0 SET_PERMS /a|n0|r5x| -> EINVAL
        dom0 SET_PERMS /missing|n0| -> ENOENT
        dom0 SET_PERMS a/|n0| -> EINVAL
        dom5 SET_PERMS /a|n5| -> EACCES
        dom0 GET_PERMS /missing| -> ENOENT
        dom0 GET_PERMS /a -> EINVAL
        dom0 GET_PERMS -> EINVAL
        dom0 GET_PERMS /a|b| -> EINVAL
        # An owner that does not exist.
        dom0 SET_PERMS /a|n77| -> ENOENT
        dom0 GET_PERMS /a| -> n0|
        # Other entries of absent domains are kept, and grant nothing.
        dom0 SET_PERMS /a|n0|r77| -> OK
        dom0 GET_PERMS /a| -> n0|r77|
        ",
    );
}

#[test]
fn permission_for_all_domains_yields_to_earlier_entries() {
    check(
        "
        dom0 WRITE /a|v -> OK
        dom0 SET_PERMS /a|n0|r32757| -> OK
        dom0 GET_PERMS /a| -> n0|r32757|
        dom5 READ /a| -> v
        dom5 WRITE /a|w -> EACCES
        # Entries in front of it win.
        dom0 SET_PERMS /a|n0|n5|b32757| -> OK
        dom5 READ /a| -> EACCES
        dom6 WRITE /a|w -> OK
        ",
    );
}

#[test]
fn special_nodes_have_settable_permissions() {
    check(
        "
        dom0 GET_PERMS @introduceDomain| -> n0|
        dom0 GET_PERMS @releaseDomain| -> n0|r32757|
        dom5 GET_PERMS @introduceDomain| -> EACCES
        dom5 GET_PERMS @releaseDomain| -> n0|r32757|
        dom0 SET_PERMS @introduceDomain|n0|r5| -> OK
        dom0 GET_PERMS @introduceDomain| -> n0|r5|
        dom5 GET_PERMS @introduceDomain| -> n0|r5|
        dom6 GET_PERMS @introduceDomain| -> EACCES
        dom0 SET_PERMS @releaseDomain|n0| -> OK
        dom5 GET_PERMS @releaseDomain| -> EACCES
        dom5 SET_PERMS @releaseDomain|n0|r5| -> EACCES
        dom0 GET_PERMS @unknown| -> ENOENT
        dom0 SET_PERMS @unknown|n0| -> ENOENT
        ",
    );
}

//! Permissions that decide about events, and watches on the special paths.

use super::*;

#[test]
fn only_clients_with_read_permission_get_the_event() {
    check(
        "
        dom0 MKDIR /open| -> OK
        dom0 SET_PERMS /open|r0| -> OK
        dom5 WATCH /|t| -> OK
        event dom5 /|t
        dom0 WRITE /open/a|v -> OK
        event dom5 /open/a|t
        # Losing the right is notified; later changes are not, although the parent is readable.
        dom0 SET_PERMS /open/a|n0| -> OK
        event dom5 /open/a|t
        dom0 WRITE /open/a|w -> OK
        dom0 SET_PERMS /open/a|n0|r6| -> OK
        dom0 WRITE /open/a/below|w -> OK
        no events dom5
        # Gaining it is notified.
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
        # Home paths of other domains are hidden.
        dom6 WRITE x|v -> OK
        no events dom5
        ",
    );
}

#[test]
fn special_watches_fire_for_introductions_and_deaths() {
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
fn readable_parent_makes_a_removal_visible_to_watchers() {
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

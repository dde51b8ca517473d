//! Permission entries of dead domains: no client sees them or writes them back.

use super::*;

#[test]
fn entries_of_a_dead_domain_are_hidden_and_not_revived() {
    check(
        "
        dom0 WATCH @releaseDomain/8|r| -> OK
        event dom0 @releaseDomain/8|r
        host create 8
        dom0 WRITE /e/a|v -> OK
        dom0 SET_PERMS /e/a|n0|r8| -> OK
        dom0 WRITE /e/b|v -> OK
        dom0 SET_PERMS /e/b|r0|b8|w6|n8| -> OK
        dom0 SET_PERMS @introduceDomain|n0|r8|r6| -> OK
        dom0 GET_PERMS /e/a| -> n0|r8|
        host introduce 8
        dom8 READ /e/a| -> v
        host destroy 8
        event dom0 @releaseDomain/8|r
        dom0 GET_PERMS /e/a| -> n0|
        # An entry set after the death is shown, but applies to no domain.
        dom0 WRITE /e/c|v -> OK
        dom0 SET_PERMS /e/c|n0|r8| -> OK
        dom0 GET_PERMS /e/c| -> n0|r8|
        dom6 GET_PERMS /e/b| -> EACCES
        dom0 GET_PERMS /e/b| -> r0|w6|
        dom0 GET_PERMS @introduceDomain| -> n0|r6|
        # Read, modify, write: one entry is added.
        dom0 SET_PERMS /e/a|n0|r7| -> OK
        dom7 READ /e/a| -> v
        host create 8
        host introduce 8
        dom8 READ /e/a| -> EACCES
        dom8 READ /e/c| -> EACCES
        dom8 WRITE /e/b|w -> EACCES
        dom0 GET_PERMS /e/b| -> r0|w6|
        dom0 SET_PERMS /e/b|r0|b8| -> OK
        dom0 GET_PERMS /e/b| -> r0|b8|
        dom8 WRITE /e/b|w -> OK
        ",
    );
}

#[test]
fn new_nodes_inherit_no_entry_of_a_dead_domain() {
    check(
        "
        dom0 WATCH @releaseDomain/8|r| -> OK
        event dom0 @releaseDomain/8|r
        host create 8
        dom0 WRITE /e|v -> OK
        dom0 SET_PERMS /e|n0|b8|b6| -> OK
        host introduce 8
        dom8 WRITE /e/8|v -> OK
        host destroy 8
        event dom0 @releaseDomain/8|r
        dom0 START t1
        dom6 START t2
        dom0 WRITE /e/control|v -> OK
        dom6 WRITE /e/guest/below|v -> OK
        dom0 t1 WRITE /e/by-transaction|v -> OK
        dom0 t1 GET_PERMS /e/by-transaction| -> n0|b6|
        dom0 t1 END T| -> OK
        dom6 t2 WRITE /e/by-guests-transaction|v -> OK
        dom6 t2 END T| -> OK
        host create 8
        host introduce 8
        dom0 DIRECTORY /e| -> by-guests-transaction|by-transaction|control|guest|
        dom0 GET_PERMS /e/control| -> n0|b6|
        dom0 GET_PERMS /e/by-transaction| -> n0|b6|
        dom0 GET_PERMS /e/guest| -> n6|b6|
        dom6 GET_PERMS /e/guest/below| -> n6|b6|
        dom6 GET_PERMS /e/by-guests-transaction| -> n6|b6|
        dom8 READ /e/control| -> EACCES
        dom8 READ /e/guest/below| -> EACCES
        ",
    );
}

/// A permission entry of a domain that does not exist is shown, as in C xenstored: it was set, and matches no domain.
/// The death of a domain with that domid removes the entry like any other.
#[test]
fn early_entry_is_shown_until_a_domain_of_its_domid_dies() {
    check(
        "
        dom0 WATCH @releaseDomain/8|r| -> OK
        event dom0 @releaseDomain/8|r
        dom0 WRITE /e|v -> OK
        dom0 SET_PERMS /e|n0|b8|b6| -> OK
        dom0 GET_PERMS /e| -> n0|b8|b6|
        dom6 WRITE /e/guest|v -> OK
        host create 8
        host introduce 8
        dom8 READ /e| -> EACCES
        dom8 READ /e/guest| -> EACCES
        dom0 GET_PERMS /e| -> n0|b8|b6|
        dom0 GET_PERMS /e/guest| -> n6|b8|b6|
        host destroy 8
        event dom0 @releaseDomain/8|r
        dom0 GET_PERMS /e| -> n0|b6|
        dom0 GET_PERMS /e/guest| -> n6|b6|
        ",
    );
}

/// A transaction that saw the entry gets EAGAIN, as it may have written the entry back; one that reads the permissions
/// after the death does not see it.
#[test]
fn transaction_across_a_death_restores_no_dead_entry() {
    check(
        "
        dom0 WATCH @releaseDomain/8|r| -> OK
        event dom0 @releaseDomain/8|r
        host create 8
        dom0 WRITE /e|v -> OK
        dom0 SET_PERMS /e|n0|r8| -> OK
        dom0 WRITE /f|v -> OK
        dom0 SET_PERMS /f|n0|r8| -> OK
        host introduce 8
        dom0 START t1
        dom0 t1 GET_PERMS /e| -> n0|r8|
        dom0 START t2
        dom0 t2 READ /f| -> v
        dom0 START t3
        dom0 t3 SET_PERMS /f|n0|r8|r6| -> OK
        host destroy 8
        event dom0 @releaseDomain/8|r
        dom0 t1 SET_PERMS /e|n0|r8|r7| -> OK
        dom0 t1 END T| -> EAGAIN
        dom0 t2 GET_PERMS /f| -> n0|
        dom0 t2 SET_PERMS /f|n0|r7| -> OK
        dom0 t2 END T| -> OK
        # This transaction set the entry before the domain died.
        dom0 t3 GET_PERMS /f| -> n0|r6|
        dom0 t3 END T| -> OK
        host create 8
        host introduce 8
        dom0 GET_PERMS /e| -> n0|
        dom0 GET_PERMS /f| -> n0|r6|
        dom8 READ /e| -> EACCES
        dom8 READ /f| -> EACCES
        ",
    );
}

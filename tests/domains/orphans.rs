//! `--keep-orphans`: a dead domain's nodes become the control domain's.

use super::*;
use common::Daemon;
use common::table::run;

/// As in C xenstored, the owner of each node is replaced, entries for the dead domain are removed, and no watch fires.
#[test]
fn kept_orphans_pass_to_the_control_domain_not_the_next_domid() {
    for option in ["-K", "--keep-orphans"] {
        for (control, shards) in [(Control::Socket, "1"), (Control::Ring, "4")] {
            let daemon = Daemon::start_with(&["--shards", shards, option]);
            let mut world = World::around(daemon, control);
            let table = "
                dom0 WATCH @releaseDomain/7|r| -> OK
                event dom0 @releaseDomain/7|r
                host create 7
                host introduce 7
                dom0 MKDIR /local/domain/7| -> OK
                dom0 SET_PERMS /local/domain/7|n7|r8| -> OK
                dom7 WRITE a/b|v -> OK
                dom7 WRITE c|v -> OK
                dom7 SET_PERMS c|r7|b7|w8| -> OK
                dom0 WRITE /local/domain/0/backend/vif/7/0|v -> OK
                dom0 SET_PERMS /local/domain/0/backend/vif/7/0|n7|r8| -> OK
                dom0 WRITE /e|v -> OK
                dom0 SET_PERMS /e|w0|b7| -> OK
                dom7 WRITE /e/7/below|v -> OK
                dom8 WRITE /e/8|v -> OK
                dom7 SET_PERMS /e/7|b7|n8| -> OK
                dom8 WRITE /e/7/8|v -> EACCES
                dom6 WRITE /e/7/6|v -> OK
                dom0 SET_PERMS @introduceDomain|r7|b8| -> OK
                dom0 WATCH /|t| -> OK
                event dom0 /|t
                dom7 START t1
                dom7 t1 WRITE never|v -> OK
                host destroy 7
                event dom0 @releaseDomain/7|r
                no events dom0
                dom0 GET_PERMS /local/domain/7| -> n0|r8|
                dom0 GET_PERMS /local/domain/7/a| -> n0|r8|
                dom0 GET_PERMS /local/domain/7/a/b| -> n0|r8|
                dom8 READ /local/domain/7/a/b| -> v
                dom0 GET_PERMS /local/domain/7/c| -> r0|w8|
                dom0 GET_PERMS /local/domain/0/backend/vif/7/0| -> n0|r8|
                dom0 GET_PERMS /e/7| -> b0|n8|
                dom0 GET_PERMS /e/7/below| -> w0|
                dom0 GET_PERMS /e/7/6| -> b6|n8|
                dom0 GET_PERMS /e| -> w0|
                dom0 GET_PERMS @introduceDomain| -> r0|b8|
                dom0 READ /local/domain/7/never| -> ENOENT
                host create 7
                host introduce 7
                dom7 READ a/b| -> EACCES
                dom7 WRITE a/b|w -> EACCES
                dom7 SET_PERMS a|n7| -> EACCES
                dom7 RM a| -> EACCES
                dom7 READ c| -> v
                dom7 WRITE c|w -> EACCES
                dom7 READ /e/7/below| -> EACCES
                dom7 READ /local/domain/0/backend/vif/7/0| -> EACCES
                # Nodes that it creates later, or gets from the control domain, pass to the control domain too.
                dom7 WRITE /e/again|v -> OK
                event dom0 /e/again|t
                dom0 SET_PERMS /local/domain/7/a|n7| -> OK
                event dom0 /local/domain/7/a|t
                dom7 READ a| -> \"\"
                dom7 READ a/b| -> EACCES
                host destroy 7
                event dom0 @releaseDomain/7|r
                dom0 GET_PERMS /local/domain/7/a| -> n0|
                dom0 GET_PERMS /e/again| -> w0|
                ";
            run(&mut world, table, option);
            // The daemon's own check has compared all accounts at the end of the table.
            assert_eq!(world.nodes_of(8), 2, "/local/domain/8 and /e/8");
        }
    }
}

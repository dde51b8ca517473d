//! Every operation of xs_wire.h over the wire, in and outside of transactions: exact payloads,
//! every error, and the order of checks.

mod common;

use common::{Control, World, check, check_with, op};

#[test]
fn read_and_write() {
    check(
        "
        dom0 WRITE /a|value -> OK
        dom0 READ /a| -> value
        dom0 WRITE /a| -> OK
        dom0 READ /a| -> \"\"
        dom0 WRITE /a|x|y|\\x01\\xff| -> OK
        dom0 READ /a| -> x|y|\\x01\\xff|
        # Missing parents are made, with empty values.
        dom0 WRITE /p/q/r|v -> OK
        dom0 READ /p/q| -> \"\"
        dom0 DIRECTORY /p| -> q|
        dom0 READ /missing| -> ENOENT
        dom0 READ /a/missing| -> ENOENT
        dom0 READ / -> EINVAL
        dom0 READ -> EINVAL
        dom0 READ | -> EINVAL
        dom0 READ /a|b| -> EINVAL
        dom0 WRITE /a -> EINVAL
        dom0 WRITE -> EINVAL
        dom0 WRITE |v -> EINVAL
        dom0 WRITE /|v -> OK
        dom0 READ /| -> v
        ",
    );
}

#[test]
fn paths() {
    check(
        "
        dom0 WRITE /a-b_c@d/9Z|v -> OK
        dom0 READ /a-b_c@d/9Z| -> v
        dom0 WRITE relative/x|v -> OK
        dom0 READ /local/domain/0/relative/x| -> v
        dom5 WRITE x/y|v -> OK
        dom5 READ x/y| -> v
        dom5 READ /local/domain/5/x/y| -> v
        dom0 READ /local/domain/5/x/y| -> v
        dom0 WRITE /a//b|v -> EINVAL
        dom0 WRITE //|v -> EINVAL
        dom0 WRITE /a/|v -> EINVAL
        dom0 WRITE a/|v -> EINVAL
        dom0 WRITE /a b|v -> EINVAL
        dom0 WRITE /a+|v -> EINVAL
        dom0 WRITE /a.b|v -> EINVAL
        dom0 WRITE /a\\x80|v -> EINVAL
        dom0 WRITE @releaseDomain|v -> EINVAL
        dom0 READ @releaseDomain| -> EINVAL
        dom0 DIRECTORY @releaseDomain| -> EINVAL
        dom0 MKDIR @x| -> EINVAL
        dom0 RM @releaseDomain| -> EINVAL
        dom0 READ /local/domain/| -> EINVAL
        # Up to 3072 bytes, of which a home's prefix does not count against the quota of 2048.
        dom0 WRITE /{a*3071}|v -> OK
        dom0 READ /{a*3071}| -> v
        dom0 WRITE /{a*3072}|v -> EINVAL
        dom5 WRITE {a*1500}|v -> OK
        dom5 READ /local/domain/5/{a*1500}| -> v
        dom5 READ {a*2048}| -> ENOENT
        dom5 READ /local/domain/5/{a*2048}| -> ENOENT
        dom5 READ {a*2049}| -> EINVAL
        dom5 READ /local/domain/5/{a*2049}| -> EINVAL
        dom5 READ /{a*2048}| -> EINVAL
        ",
    );
}

#[test]
fn directory() {
    check(
        "
        dom0 MKDIR /d| -> OK
        dom0 DIRECTORY /d| -> \"\"
        dom0 WRITE /d/one|1 -> OK
        dom0 DIRECTORY /d| -> one|
        dom0 WRITE /d/one/below|1 -> OK
        dom0 DIRECTORY /d| -> one|
        dom0 DIRECTORY /missing| -> ENOENT
        dom0 DIRECTORY -> EINVAL
        dom0 DIRECTORY /d -> EINVAL
        dom0 DIRECTORY /d|0| -> EINVAL
        dom5 DIRECTORY /d| -> EACCES
        ",
    );
}

#[test]
fn directory_order_is_free_but_each_child_is_named_once() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let mut wanted = Vec::new();
        for i in 0..300 {
            // Homes of guests lie in their own shards; their names do not.
            world.admin.write(&format!("/local/domain/{i}/x"), "").unwrap();
            world.admin.write(&format!("/plain/{i}/x"), "").unwrap();
            wanted.push(i.to_string());
        }
        wanted.sort();
        for parent in ["/local/domain", "/plain"] {
            let mut names = world.admin.directory(parent).unwrap();
            names.sort();
            assert_eq!(names, wanted, "{parent}");
        }
        world.check_store();
    }
}

#[test]
fn replies_of_4096_bytes_are_e2big() {
    // Sixteen names of 255 bytes and their NULs make 4096.
    let fill = |world: &mut World| {
        for i in 10..26 {
            world.admin.mkdir(&format!("/d/{i}{}", "n".repeat(253))).unwrap();
        }
    };
    check_with(
        fill,
        "
        dom0 DIRECTORY /d| -> E2BIG
        dom0 RM /d/10{n*253}| -> OK
        dom0 MKDIR /d/10{n*252}| -> OK
        dom0 DIRECTORY /d| -> *
        dom0 MKDIR /d/x| -> OK
        dom0 DIRECTORY /d| -> E2BIG
        dom0 START t1
        dom0 t1 DIRECTORY /d| -> E2BIG
        dom0 t1 END T| -> OK
        ",
    );
}

#[test]
fn requests_of_4096_bytes_are_taken() {
    check(
        "
        dom0 WRITE /a|{v*4093} -> OK
        dom0 READ /a| -> {v*4093}
        dom0 CONTROL print|{v*4089}| -> OK
        ",
    );
}

/// Reads a directory in parts, as a client does; starts again when the generation changes.
fn directory_in_parts(world: &mut World, who: &str, tx: u32, path: &str) -> Vec<String> {
    let mut list = Vec::new();
    let mut generation = None;
    loop {
        let request = format!("{path}\0{}\0", list.len());
        let reply = world.client(who).request(op::DIRECTORY_PART, tx, request).unwrap();
        assert!(reply.len() < 4096, "a part of {} bytes", reply.len());
        let nul = reply.iter().position(|&byte| byte == 0).expect("a generation and a NUL");
        let (now, part) = (reply[..nul].to_vec(), &reply[nul + 1..]);
        assert!(!now.is_empty() && now.iter().all(u8::is_ascii_digit));
        if *generation.get_or_insert_with(|| now.clone()) != now {
            list.clear();
            generation = None;
            continue;
        }
        // Whole names; an empty one ends the list.
        assert_eq!(part.last(), Some(&0));
        let ends = part == [0] || part.ends_with(&[0, 0]);
        list.extend_from_slice(if ends { &part[..part.len() - 1] } else { part });
        if ends {
            let list = String::from_utf8(list).unwrap();
            return list.split_terminator('\0').map(str::to_owned).collect();
        }
    }
}

#[test]
fn directory_part_pages_three_thousand_children() {
    for control in [Control::Socket, Control::Ring] {
        let mut world = World::new(control, 4);
        let requests: Vec<_> = (0..3000)
            .map(|i| (op::WRITE, 0, format!("/local/domain/{i}/name\0n").into_bytes()))
            .collect();
        assert!(world.admin.pipeline(&requests).iter().all(Result::is_ok));
        assert_eq!(world.admin.directory("/local/domain"), Err("E2BIG".to_owned()));
        let mut wanted: Vec<String> = (0..3000).map(|i| i.to_string()).collect();
        wanted.sort();
        let tx = world.client("dom0").start().unwrap();
        for tx in [0, tx] {
            let mut names = directory_in_parts(&mut world, "dom0", tx, "/local/domain");
            names.sort();
            assert_eq!(names, wanted);
        }
        world.client("dom0").commit(tx).unwrap();
    }
}

#[test]
fn directory_part() {
    check(
        "
        dom0 MKDIR /d| -> OK
        dom0 DIRECTORY_PART /d| -> EINVAL
        dom0 DIRECTORY_PART /d|0|0| -> EINVAL
        dom0 DIRECTORY_PART -> EINVAL
        dom0 DIRECTORY_PART /missing|0| -> ENOENT
        dom5 DIRECTORY_PART /d|0| -> EACCES
        ",
    );
}

#[test]
fn directory_part_has_a_new_generation_when_children_change() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let generation = |world: &mut World, path: &str| {
            let reply = world.admin.request(op::DIRECTORY_PART, 0, format!("{path}\x000\0"));
            reply.unwrap().split(|&byte| byte == 0).next().unwrap().to_vec()
        };
        world.admin.write("/d/a", "1").unwrap();
        world.admin.write("/local/domain/7/a", "1").unwrap();
        for (path, child) in [("/d", "/d/b"), ("/local/domain", "/local/domain/8")] {
            let first = generation(&mut world, path);
            assert_eq!(generation(&mut world, path), first, "unchanged");
            world.admin.mkdir(child).unwrap();
            let second = generation(&mut world, path);
            assert_ne!(second, first, "a child made in {path}");
            world.admin.rm(child).unwrap();
            let third = generation(&mut world, path);
            assert!(third != first && third != second, "a child removed in {path}");
        }
        let reply = world.admin.request(op::DIRECTORY_PART, 0, "/d\x001000\0").unwrap();
        assert!(reply.ends_with(b"\0\0"), "an offset behind the list: an empty name");
    }
}

#[test]
fn mkdir_and_rm() {
    check(
        "
        dom0 MKDIR /a/b/c| -> OK
        dom0 READ /a/b| -> \"\"
        dom0 WRITE /a/b|v -> OK
        dom0 MKDIR /a/b| -> OK
        dom0 READ /a/b| -> v
        dom0 MKDIR /a -> EINVAL
        dom0 MKDIR -> EINVAL
        dom0 MKDIR /a|b| -> EINVAL
        dom0 MKDIR /| -> OK
        dom0 RM /a/b| -> OK
        dom0 READ /a/b| -> ENOENT
        dom0 READ /a/b/c| -> ENOENT
        dom0 DIRECTORY /a| -> \"\"
        dom0 RM /a/b| -> OK
        dom0 RM /a/b/c| -> ENOENT
        dom0 RM /missing| -> OK
        dom0 RM /| -> EINVAL
        dom0 RM /a -> EINVAL
        dom0 RM -> EINVAL
        dom0 RM /a|b| -> EINVAL
        dom5 RM /a| -> EACCES
        dom5 RM /local/domain/5/x| -> OK
        dom5 RM /local/domain/5/x/y| -> ENOENT
        dom5 MKDIR /b| -> EACCES
        dom5 WRITE /b|v -> EACCES
        ",
    );
}

#[test]
fn homes_of_all_shards_are_removed_with_their_ancestors() {
    check(
        "
        dom0 WRITE /local/domain/1/backend/vif/2/0/state|4 -> OK
        dom0 WRITE /local/domain/1/backend/vif/3/0/state|4 -> OK
        dom0 WRITE /local/domain/1/backend/vif/007/0/state|4 -> OK
        dom0 WRITE /local/domain/1/device-model/4/state|r -> OK
        dom0 WRITE /libxl/6/type|pvh -> OK
        dom0 DIRECTORY /libxl| -> 6|
        dom0 RM /local/domain/1| -> OK
        dom0 READ /local/domain/1/backend/vif/2/0/state| -> ENOENT
        dom0 READ /local/domain/1/backend/vif/3/0/state| -> ENOENT
        dom0 READ /local/domain/1/device-model/4/state| -> ENOENT
        dom0 READ /libxl/6/type| -> pvh
        dom0 MKDIR /local/domain/1/backend/vif/2| -> OK
        dom0 DIRECTORY /local/domain/1/backend/vif/2| -> \"\"
        dom0 DIRECTORY /local/domain/1/backend/vif| -> 2|
        dom0 RM /local| -> OK
        dom0 DIRECTORY /local/domain/1/backend/vif| -> ENOENT
        dom0 RM /libxl/6| -> OK
        dom0 DIRECTORY /libxl| -> \"\"
        ",
    );
}

#[test]
fn permissions() {
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
        # The first entry names the owner and what everybody else may do.
        dom0 SET_PERMS /a|r5|n6| -> OK
        dom7 READ /a| -> x
        dom7 WRITE /a|y -> EACCES
        dom6 READ /a| -> EACCES
        dom5 WRITE /a|y -> OK
        dom0 SET_PERMS /a|b5| -> OK
        dom7 WRITE /a|z -> OK
        # The owner sets permissions, but gives the node to nobody.
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
fn what_is_hidden_is_eacces_unless_an_ancestor_is_readable() {
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
fn a_new_node_has_its_parents_permissions_and_its_creator_as_owner() {
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
fn malformed_permissions() {
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
        # Others that do not are kept, and grant nothing.
        dom0 SET_PERMS /a|n0|r77| -> OK
        dom0 GET_PERMS /a| -> n0|r77|
        ",
    );
}

#[test]
fn a_permission_for_all_domains() {
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
fn permissions_of_special_nodes() {
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

#[test]
fn operations_that_do_not_exist() {
    check(
        "
        dom0 WATCH_EVENT /a|t| -> ENOSYS
        dom0 ERROR EINVAL| -> ENOSYS
        dom0 RESTRICT 5| -> ENOSYS
        dom0 TYPE27 -> ENOSYS
        dom0 TYPE65535 -> ENOSYS
        dom0 TYPE4294967295 -> ENOSYS
        dom0 TYPE2147483648 x| -> ENOSYS
        dom5 RESTRICT 5| -> ENOSYS
        dom5 TYPE65535 -> ENOSYS
        # Before the transaction id, and harmless.
        dom0 #99 TYPE27 -> ENOSYS
        dom0 READ /tool| -> \"\"
        ",
    );
}

#[test]
fn the_order_of_checks() {
    check(
        "
        # Unknown operation, then privilege, then transaction, then the payload.
        dom5 #99 TYPE27 -> ENOSYS
        dom5 #99 INTRODUCE x -> EACCES
        dom5 #99 CONTROL help| -> EACCES
        dom5 #99 READ -> ENOENT
        dom0 #99 READ -> ENOENT
        dom0 #99 INTRODUCE x -> ENOENT
        dom0 #99 CONTROL help| -> ENOENT
        dom0 #99 GET_FEATURE -> ENOENT
        dom0 #99 START | -> ENOENT
        dom0 #99 END x| -> ENOENT
        dom0 #99 WATCH /w|t| -> OK
        event dom0 /w|t
        dom0 #99 UNWATCH /w|t| -> OK
        dom0 #99 WATCH /w -> EINVAL
        ",
    );
}

#[test]
fn guests_may_not_do_what_is_the_control_domains() {
    check(
        "
        dom5 CONTROL help| -> EACCES
        dom5 CONTROL -> EACCES
        dom5 INTRODUCE 6|1|1| -> EACCES
        dom5 RELEASE 6| -> EACCES
        dom5 IS_DOMAIN_INTRODUCED 5| -> EACCES
        dom5 RESUME 5| -> EACCES
        dom5 SET_TARGET 5|6| -> EACCES
        dom5 GET_FEATURE 5| -> EACCES
        dom5 SET_FEATURE 5|0| -> EACCES
        dom5 GET_QUOTA nodes| -> EACCES
        dom5 GET_QUOTA -> EACCES
        dom5 SET_QUOTA nodes|0| -> EACCES
        dom6 READ /| -> EACCES
        # But these they may.
        dom5 GET_DOMAIN_PATH 7| -> /local/domain/7|
        dom5 GET_FEATURE -> 15|
        dom5 RESET_WATCHES | -> OK
        dom5 RESET_WATCHES -> OK
        ",
    );
}

#[test]
fn requests_without_a_payload() {
    // A message of length zero is complete with its header.
    check(
        "
        dom0 CONTROL -> EINVAL
        dom0 DIRECTORY -> EINVAL
        dom0 READ -> EINVAL
        dom0 GET_PERMS -> EINVAL
        dom0 WATCH -> EINVAL
        dom0 UNWATCH -> EINVAL
        dom0 END -> EINVAL
        dom0 INTRODUCE -> EINVAL
        dom0 RELEASE -> EINVAL
        dom0 GET_DOMAIN_PATH -> EINVAL
        dom0 WRITE -> EINVAL
        dom0 MKDIR -> EINVAL
        dom0 RM -> EINVAL
        dom0 SET_PERMS -> EINVAL
        dom0 IS_DOMAIN_INTRODUCED -> EINVAL
        dom0 RESUME -> EINVAL
        dom0 SET_TARGET -> EINVAL
        dom0 RESET_WATCHES -> OK
        dom0 DIRECTORY_PART -> EINVAL
        dom0 GET_FEATURE -> 15|
        dom0 SET_FEATURE -> EINVAL
        dom0 SET_QUOTA -> EINVAL
        dom5 READ -> EINVAL
        dom5 WRITE -> EINVAL
        dom5 GET_FEATURE -> 15|
        ",
    );
}

#[test]
fn features() {
    check(
        "
        dom0 GET_FEATURE -> 15|
        dom0 GET_FEATURE 0| -> 15|
        host create 7
        dom0 GET_FEATURE 7| -> 15|
        dom0 GET_FEATURE 77| -> ENOENT
        dom0 GET_FEATURE x| -> EINVAL
        dom0 GET_FEATURE 7|1| -> EINVAL
        dom0 SET_FEATURE 7|2| -> OK
        dom0 GET_FEATURE 7| -> 2|
        dom0 SET_FEATURE 7|16| -> EINVAL
        dom0 SET_FEATURE 7| -> EINVAL
        dom0 SET_FEATURE x|2| -> EINVAL
        dom0 SET_FEATURE 77|2| -> ENOENT
        host introduce 7
        dom0 SET_FEATURE 7|15| -> EBUSY
        dom0 SET_FEATURE 0|15| -> EBUSY
        dom7 GET_FEATURE -> 2|
        # Without the feature the depth is not known.
        dom7 WATCH w|t|1| -> EINVAL
        dom7 WATCH w|t| -> OK
        event dom7 w|t
        ",
    );
}

#[test]
fn quotas_by_get_and_set() {
    check(
        "
        dom0 GET_QUOTA -> nodes watches outstanding memory soft-memory transactions transaction-nodes node-permissions path-max node-size|
        dom0 GET_QUOTA nodes| -> 1000|
        dom0 GET_QUOTA watches| -> 1024|
        dom0 GET_QUOTA outstanding| -> 20|
        dom0 GET_QUOTA memory| -> 2621440|
        dom0 GET_QUOTA soft-memory| -> 2097152|
        dom0 GET_QUOTA transactions| -> 256|
        dom0 GET_QUOTA transaction-nodes| -> 1024|
        dom0 GET_QUOTA node-permissions| -> 5|
        dom0 GET_QUOTA path-max| -> 2048|
        dom0 GET_QUOTA node-size| -> 2048|
        dom0 GET_QUOTA unknown| -> EINVAL
        dom0 GET_QUOTA soft-nodes| -> EINVAL
        dom0 GET_QUOTA 5|nodes| -> 1000|
        dom5 RESET_WATCHES | -> OK
        dom0 GET_QUOTA 77|nodes| -> ENOENT
        dom0 GET_QUOTA x|nodes| -> EINVAL
        dom0 GET_QUOTA 5|nodes|1| -> EINVAL
        dom0 SET_QUOTA 5|nodes|7| -> OK
        dom0 GET_QUOTA 5|nodes| -> 7|
        dom0 GET_QUOTA nodes| -> 1000|
        # A new global value is the next new domain's.
        dom0 SET_QUOTA nodes|8| -> OK
        dom0 GET_QUOTA nodes| -> 8|
        dom0 GET_QUOTA 5|nodes| -> 7|
        host create 6
        host introduce 6
        dom0 GET_QUOTA 6|nodes| -> 8|
        dom0 SET_QUOTA nodes| -> EINVAL
        dom0 SET_QUOTA 5|nodes|1|1| -> EINVAL
        dom0 SET_QUOTA unknown|1| -> EINVAL
        dom0 SET_QUOTA 77|nodes|1| -> ENOENT
        ",
    );
}

#[test]
fn control_commands() {
    check(
        "
        dom0 CONTROL check| -> OK
        dom0 CONTROL check|x| -> EINVAL
        dom0 CONTROL unknown| -> EINVAL
        dom0 CONTROL help -> EINVAL
        dom0 CONTROL help|x| -> EINVAL
        dom0 CONTROL print|hello| -> OK
        dom0 CONTROL print| -> EINVAL
        dom0 CONTROL log|on| -> OK
        dom0 CONTROL log|off| -> OK
        dom0 CONTROL log|sideways| -> EINVAL
        dom0 CONTROL log|on|off| -> EINVAL
        dom0 CONTROL logfile| -> EINVAL
        dom0 CONTROL memreport|a|b| -> EINVAL
        dom0 CONTROL quota|set|nodes|2000| -> OK
        dom0 GET_QUOTA nodes| -> 2000|
        dom0 CONTROL quota|set|nodes| -> EINVAL
        dom0 CONTROL quota|set|nodes|0| -> EINVAL
        dom0 CONTROL quota|set|unknown|1| -> EINVAL
        dom0 CONTROL quota|77| -> ENOENT
        dom0 CONTROL quota|max|-x| -> EINVAL
        dom0 CONTROL quota-soft|set|memory|1000000| -> OK
        dom0 GET_QUOTA soft-memory| -> 1000000|
        dom0 CONTROL quota-soft|set|nodes|1| -> EINVAL
        dom0 CONTROL quota-soft|5| -> EINVAL
        ",
    );
}

#[test]
fn control_texts_are_in_the_form_of_cs() {
    for control in [Control::Socket, Control::Ring] {
        let mut world = World::new(control, 4);
        world.guest(5).write("x", "v").unwrap();
        let mut text = |words: &str| {
            let bytes = world.client("dom0").control(words).unwrap();
            let text = String::from_utf8(bytes).unwrap();
            text.strip_suffix('\0').expect("a text ends in NUL").to_owned()
        };
        let help = text("help");
        for command in [
            "check",
            "log",
            "live-update",
            "logfile",
            "memreport",
            "print",
            "quota",
            "quota-soft",
            "help",
        ] {
            let listed = help.lines().any(|line| line.starts_with(&format!("{command:<15} ")));
            assert!(listed, "{command} in {help}");
        }
        assert!(text("log").starts_with("Log switch settings:\n"));
        let quota = text("quota");
        assert!(quota.starts_with("Quota settings:\n"), "{quota}");
        let line = format!("{:<17}: {:>8} {}\n", "watches", 1024, "Watches per domain");
        assert!(quota.contains(&line), "{quota}");
        let soft = text("quota-soft");
        let line =
            format!("{:<17}: {:>8} {}\n", "memory", 2_097_152, "Total Xenstore memory per domain");
        assert_eq!(soft, format!("Quota settings:\n{line}"));
        let of_domain = text("quota 5");
        assert!(of_domain.starts_with("Domain 5:\n"), "{of_domain}");
        let line = format!("{:<17}: {:>8} (max {:>8})\n", "nodes", 2, 2);
        assert!(of_domain.contains(&line), "{of_domain}");
        let max = text("quota max");
        assert!(max.starts_with("Max. seen accounting values:\n"), "{max}");
        assert!(max.contains(&format!("{:<17}: {:>8}\n", "nodes", 2)), "{max}");
        assert_eq!(text("quota max -r"), text("quota max"));
    }
}

#[test]
fn control_writes_its_files() {
    let mut world = World::new(Control::Socket, 1);
    let (log, report) = (world.daemon.path("other.log"), world.daemon.path("memory"));
    let words = format!("logfile {}", log.display());
    assert_eq!(world.admin.control(&words).as_deref(), Ok(&b"OK\0"[..]));
    assert!(log.exists());
    let words = format!("memreport {}", report.display());
    assert_eq!(world.admin.control(&words).as_deref(), Ok(&b"OK\0"[..]));
    assert!(std::fs::metadata(report).unwrap().len() > 0);
}

#[test]
fn live_update_is_refused_clearly() {
    let mut world = World::new(Control::Socket, 1);
    for words in ["live-update -f /bin/true", "live-update -s", "live-update -a"] {
        let reply = world.admin.control(words);
        let refused = reply.as_ref().map_or(true, |text| text != b"OK\0" && text != b"BUSY\0");
        assert!(refused, "{words}: {reply:?}");
    }
    world.admin.read("/tool").unwrap();
}

#[test]
fn what_is_there_at_the_start() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        world.admin.rm("/barrier").unwrap();
        let mut names = world.admin.directory("/").unwrap();
        names.retain(|name| name != "local");
        assert_eq!(names, ["tool"]);
        assert_eq!(world.admin.directory("/tool").unwrap(), ["xenstored"]);
        assert_eq!(world.admin.read("/tool/xenstored").as_deref(), Ok(&b""[..]));
        assert_eq!(world.admin.read("/tool/xenstored/domid"), Err("ENOENT".to_owned()));
        assert_eq!(world.admin.request(op::GET_PERMS, 0, "/\0").as_deref(), Ok(&b"n0\0"[..]));
    }
}

#[test]
fn replies_come_in_the_order_of_requests() {
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            let mut world = World::new(control, shards);
            // Requests that wait for another thread keep their place.
            world.create(9);
            let port = world.ports[&9];
            let mut requests = Vec::new();
            for i in 0..500 {
                requests.push((
                    op::WRITE,
                    0,
                    format!("/local/domain/{}/x\0{i}", i % 7).into_bytes(),
                ));
                requests.push((op::READ, 0, format!("/local/domain/{}/x\0", i % 7).into_bytes()));
                if i % 50 == 0 {
                    requests.push((op::INTRODUCE, 0, format!("9\x001\0{port}\0").into_bytes()));
                    requests.push((op::IS_DOMAIN_INTRODUCED, 0, b"9\0".to_vec()));
                    requests.push((op::RELEASE, 0, b"9\0".to_vec()));
                    requests.push((op::IS_DOMAIN_INTRODUCED, 0, b"9\0".to_vec()));
                }
            }
            let replies = world.client("dom0").pipeline(&requests);
            let mut introduced = false;
            let mut written = Vec::new();
            for ((kind, _, payload), reply) in requests.iter().zip(replies) {
                let reply = reply.unwrap();
                match *kind {
                    op::WRITE => {
                        assert_eq!(reply, b"OK\0");
                        written = payload.split(|&byte| byte == 0).next_back().unwrap().to_vec();
                    }
                    op::READ => assert_eq!(reply, written),
                    op::IS_DOMAIN_INTRODUCED => {
                        introduced = !introduced;
                        assert_eq!(reply, if introduced { b"T\0" } else { b"F\0" });
                    }
                    _ => assert_eq!(reply, b"OK\0"),
                }
            }
        }
    }
}

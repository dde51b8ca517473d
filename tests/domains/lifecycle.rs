//! Introduction, release, death and reuse of domains.

use super::*;

#[test]
fn introduce_and_release_reply_as_documented() {
    check(
        "
        dom0 IS_DOMAIN_INTRODUCED 0| -> T|
        dom0 IS_DOMAIN_INTRODUCED 7| -> F|
        dom0 IS_DOMAIN_INTRODUCED 32752| -> T|
        dom0 IS_DOMAIN_INTRODUCED x| -> EINVAL
        dom0 IS_DOMAIN_INTRODUCED 65536| -> EINVAL
        dom0 IS_DOMAIN_INTRODUCED 7 -> EINVAL
        host create 7
        dom0 IS_DOMAIN_INTRODUCED 7| -> F|
        dom0 INTRODUCE 7|1| -> EINVAL
        dom0 INTRODUCE 7|1|0| -> EINVAL
        dom0 INTRODUCE x|1|1| -> EINVAL
        dom0 INTRODUCE 65536|1|1| -> EINVAL
        dom0 INTRODUCE 7|1|{port7}| -> OK
        dom0 IS_DOMAIN_INTRODUCED 7| -> T|
        dom7 GET_DOMAIN_PATH 7| -> /local/domain/7|
        dom0 RELEASE 7| -> OK
        dom0 IS_DOMAIN_INTRODUCED 7| -> F|
        dom0 RELEASE 7| -> ENOENT
        dom0 RELEASE 0| -> EINVAL
        dom0 RELEASE x| -> EINVAL
        dom0 RELEASE 7 -> EINVAL
        dom0 RELEASE 77| -> ENOENT
        close dom7
        ",
    );
}

#[test]
fn introducing_a_domain_that_does_not_exist_fails() {
    for control in [Control::Socket, Control::Ring] {
        let mut world = World::new(control, 4);
        let client = world.client("dom0");
        client.request(op::INTRODUCE, 0, "99\x001\x001\0").unwrap_err();
        let reply = client.request(op::IS_DOMAIN_INTRODUCED, 0, "99\0");
        assert_eq!(reply.as_deref(), Ok(&b"F\0"[..]));
    }
}

#[test]
fn get_domain_path_replies_as_documented() {
    check(
        "
        dom0 GET_DOMAIN_PATH 0| -> /local/domain/0|
        dom0 GET_DOMAIN_PATH 5| -> /local/domain/5|
        dom0 GET_DOMAIN_PATH 007| -> /local/domain/7|
        dom0 GET_DOMAIN_PATH x| -> EINVAL
        dom0 GET_DOMAIN_PATH 65536| -> EINVAL
        dom0 GET_DOMAIN_PATH 5 -> EINVAL
        dom0 GET_DOMAIN_PATH 5|6| -> EINVAL
        ",
    );
}

#[test]
fn resume_and_set_target_reply_as_documented() {
    check(
        "
        dom0 RESUME 0| -> EINVAL
        dom0 RESUME 77| -> ENOENT
        dom0 RESUME x| -> EINVAL
        dom0 RESUME 5| -> OK
        dom0 SET_TARGET 5| -> EINVAL
        dom0 SET_TARGET 0|5| -> EINVAL
        dom0 SET_TARGET 77|5| -> ENOENT
        dom0 SET_TARGET 5|77| -> ENOENT
        dom0 SET_TARGET x|5| -> EINVAL
        dom6 WRITE mine|v -> OK
        dom0 WRITE /for6|v -> OK
        dom0 SET_PERMS /for6|n0|r6| -> OK
        dom5 READ /local/domain/6/mine| -> EACCES
        dom0 SET_TARGET 5|6| -> OK
        # Domain 5 now has the rights of domain 6.
        dom5 READ /local/domain/6/mine| -> v
        dom5 WRITE /local/domain/6/mine|w -> OK
        dom5 READ /for6| -> v
        dom5 SET_PERMS /local/domain/6/mine|n6|r7| -> OK
        dom5 WRITE /local/domain/6/made|v -> OK
        dom0 GET_PERMS /local/domain/6/made| -> n5|
        dom6 READ mine| -> w
        dom6 READ /local/domain/5| -> EACCES
        ",
    );
}

#[test]
fn shutdown_is_reported_once_until_resumed() {
    check(
        "
        dom0 WATCH @releaseDomain|r|1| -> OK
        event dom0 @releaseDomain|r
        dom0 WATCH @releaseDomain/8|eight| -> OK
        event dom0 @releaseDomain/8|eight
        host create 7
        host introduce 7
        host create 8
        host introduce 8
        host shutdown 7
        event dom0 @releaseDomain/7|r
        dom0 IS_DOMAIN_INTRODUCED 7| -> T|
        dom7 WRITE x|v -> EACCES
        # No second event without RESUME: the next is domain 8's.
        host resume 7
        dom0 RESUME 7| -> OK
        host shutdown 8
        events dom0 @releaseDomain/8|r @releaseDomain/8|eight
        host shutdown 7
        event dom0 @releaseDomain/7|r
        host destroy 7
        event dom0 @releaseDomain/7|r
        dom0 IS_DOMAIN_INTRODUCED 7| -> F|
        dom0 RESUME 7| -> ENOENT
        ",
    );
}

#[test]
fn release_keeps_the_nodes_of_a_living_domain() {
    check(
        "
        host create 7
        dom0 MKDIR /local/domain/7| -> OK
        dom0 SET_PERMS /local/domain/7|n7| -> OK
        host introduce 7
        dom7 WRITE x|v -> OK
        dom7 WATCH x|t| -> OK
        event dom7 x|t
        dom0 WATCH @releaseDomain|r| -> OK
        event dom0 @releaseDomain|r
        dom0 RELEASE 7| -> OK
        event dom0 @releaseDomain|r
        dom0 READ /local/domain/7/x| -> v
        dom0 GET_PERMS /local/domain/7/x| -> n7|
        dom0 INTRODUCE 7|1|{port7}| -> OK
        dom7 READ x| -> v
        dom7 WATCH x|t| -> OK
        event dom7 x|t
        ",
    );
}

#[test]
fn nodes_of_a_dead_domain_are_removed_everywhere() {
    check(
        "
        dom0 MKDIR /local/domain/7| -> OK
        dom0 MKDIR /shared/by7| -> OK
        dom0 WRITE /local/domain/0/backend/vif/7/0|v -> OK
        dom0 WRITE /others/seven|v -> OK
        dom0 WRITE /others/zero|v -> OK
        host create 7
        dom0 SET_PERMS /local/domain/7|n7| -> OK
        dom0 SET_PERMS /shared/by7|n7| -> OK
        dom0 SET_PERMS /local/domain/0/backend/vif/7/0|n7| -> OK
        dom0 SET_PERMS /others/seven|n7| -> OK
        dom0 SET_PERMS /others/zero|n0|r7| -> OK
        host introduce 7
        dom7 WRITE /local/domain/7/a/b|v -> OK
        dom7 WRITE /shared/by7/deep/er|v -> OK
        dom0 WATCH @releaseDomain|r| -> OK
        event dom0 @releaseDomain|r
        host destroy 7
        event dom0 @releaseDomain|r
        # The nodes are gone before the event arrives.
        dom0 READ /local/domain/7| -> ENOENT
        dom0 READ /shared/by7/deep/er| -> ENOENT
        dom0 DIRECTORY /shared| -> \"\"
        dom0 READ /local/domain/0/backend/vif/7/0| -> ENOENT
        dom0 DIRECTORY /others| -> zero|
        dom0 READ /others/zero| -> v
        dom0 IS_DOMAIN_INTRODUCED 7| -> F|
        ",
    );
}

#[test]
fn watchers_are_notified_of_a_dead_domains_nodes() {
    check(
        "
        host create 7
        dom0 MKDIR /local/domain/7| -> OK
        dom0 SET_PERMS /local/domain/7|n7| -> OK
        host introduce 7
        dom7 WRITE x|v -> OK
        dom0 WATCH /local/domain/7|home| -> OK
        event dom0 /local/domain/7|home
        dom0 WATCH /local/domain/7/x|leaf| -> OK
        event dom0 /local/domain/7/x|leaf
        dom0 WATCH @releaseDomain|r| -> OK
        event dom0 @releaseDomain|r
        host destroy 7
        events dom0 /local/domain/7|home /local/domain/7/x|leaf
        event dom0 @releaseDomain|r
        ",
    );
}

#[test]
fn reused_domid_inherits_no_nodes() {
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            let mut world = World::new(control, shards);
            world.admin.write("/keep", "v").unwrap();
            for round in 0..20 {
                let guest = world.guest(7);
                assert_eq!(guest.read("old"), Err("ENOENT".to_owned()), "round {round}");
                guest.write("old", "v").unwrap();
                guest.watch("old", "t").unwrap();
                assert_eq!(guest.next_event(), "old|t");
                guest.start().unwrap();
                assert_eq!(world.nodes_of(7), 2);
                world.admin.set_perms("/keep", "n0 r7").unwrap();
                assert!(world.guest(7).read("/keep").is_ok());
                world.until_released(7);
                world.close("dom7");
                world.guest(7);
                assert_eq!(world.guest(7).read("/keep"), Err("EACCES".to_owned()));
                world.until_released(7);
                world.close("dom7");
            }
            world.check_store();
        }
    }
}

/// The host may reuse a domid before the daemon has been notified of the former domain's death. A toolstack that first
/// introduces the new domain, and then creates its partition root, does not lose it.
#[test]
fn introduce_replies_once_the_former_incarnation_is_swept() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        for round in 0..50 {
            world.create(7);
            world.introduce(7);
            assert_eq!(world.admin.read("/local/domain/7"), Err("ENOENT".into()), "round {round}");
            world.admin.write("/local/domain/7", "").unwrap();
            world.admin.set_perms("/local/domain/7", "n7").unwrap();
            assert_eq!(
                world.guest(7).write("a", "1").as_deref(),
                Ok(&b"OK\0"[..]),
                "round {round}"
            );
            world.destroy(7);
        }
    }
}

#[test]
fn libxl_order_of_domain_creation_works() {
    // libxl sets permissions for a domain that exists before it introduces it.
    check(
        "
        host create 7
        dom0 WATCH @introduceDomain|i| -> OK
        event dom0 @introduceDomain|i
        dom0 START t1
        dom0 t1 MKDIR /local/domain/7| -> OK
        dom0 t1 SET_PERMS /local/domain/7|n0|r7| -> OK
        dom0 t1 MKDIR /local/domain/7/data| -> OK
        dom0 t1 SET_PERMS /local/domain/7/data|n7| -> OK
        dom0 t1 WRITE /local/domain/7/name|seven -> OK
        dom0 t1 END T| -> OK
        host introduce 7
        event dom0 @introduceDomain|i
        dom7 READ name| -> seven
        dom7 WRITE name|other -> EACCES
        dom7 WRITE data/x|v -> OK
        dom0 GET_PERMS /local/domain/7/data/x| -> n7|
        ",
    );
}

#[test]
fn root_owned_by_a_dead_domain_goes_to_the_control_domain() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        world.guest(5).write("x", "v").unwrap();
        world.admin.set_perms("/", "n5").unwrap();
        world.guest(5).write("/made", "v").unwrap();
        world.until_released(5);
        assert_eq!(
            common::wire::show(&world.admin.request(op::GET_PERMS, 0, "/\0").unwrap()),
            "n0|"
        );
        assert_eq!(
            world.admin.read("/made"),
            Err("ENOENT".to_owned()),
            "the guest's node is removed with it"
        );
        world.check_store();
        // The next domain with the same domid inherits nothing.
        world.guest(5);
        assert_eq!(world.guest(5).write("/again", "v"), Err("EACCES".to_owned()));
        world.check_store();
    }
}

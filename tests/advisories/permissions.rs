//! Permissions to read, write, see and own nodes.

use super::*;

#[test]
fn xsa_115_events_are_permission_checked() {
    check(
        "
        dom5 WATCH /|t| -> OK
        event dom5 /|t
        dom5 WATCH @introduceDomain|i| -> OK
        event dom5 @introduceDomain|i
        dom0 WRITE /secret/x|v -> OK
        dom0 SET_PERMS /secret/x|n0|r6| -> OK
        dom0 RM /secret| -> OK
        dom6 WRITE mine|v -> OK
        host create 7
        host introduce 7
        no events dom5
        ",
    );
}

#[test]
fn xsa_115_privileged_operations_are_eacces() {
    check(
        "
        dom5 CONTROL print|x| -> EACCES
        dom5 INTRODUCE 7|1|1| -> EACCES
        dom5 RELEASE 7| -> EACCES
        dom5 RESUME 7| -> EACCES
        dom5 SET_TARGET 5|7| -> EACCES
        dom5 IS_DOMAIN_INTRODUCED 7| -> EACCES
        dom5 SET_FEATURE 5|15| -> EACCES
        dom5 SET_QUOTA 5|nodes|0| -> EACCES
        dom5 GET_QUOTA 5|nodes| -> EACCES
        ",
    );
}

#[test]
fn xsa_323_control_domain_can_name_every_accepted_path() {
    each_world(|world| {
        world.guest(5);
        world.admin.set_quota(Some(5), "node-size", 0);
        for len in [2020, 2030, 2047, 2048, 2049, 2100, 3000] {
            let relative = "a".repeat(len);
            let absolute = format!("/local/domain/5/{relative}");
            match world.guest(5).write(&relative, "v") {
                Ok(_) => {
                    assert!(len <= 2048);
                    let control = world.client("dom0");
                    assert_eq!(control.read(&absolute).as_deref(), Ok(&b"v"[..]), "{len}");
                    assert_eq!(control.directory("/local/domain/5").unwrap(), [relative]);
                    control.rm(&absolute).unwrap();
                }
                Err(error) => assert_eq!((error.as_str(), len > 2048), ("EINVAL", true), "{len}"),
            }
        }
    });
}

#[test]
fn xsa_352_a_guest_cannot_give_its_nodes_away() {
    check(
        "
        dom6 WRITE y|v -> OK
        dom5 WRITE x|v -> OK
        dom5 SET_PERMS x|n6| -> EPERM
        dom5 SET_PERMS x|n0| -> EPERM
        dom5 START t1
        dom5 t1 SET_PERMS x|n6|b5| -> EPERM
        dom5 t1 END T| -> OK
        dom0 GET_PERMS /local/domain/5/x| -> n5|
        ",
    );
}

#[test]
fn xsa_353_the_root_is_checked_like_any_node() {
    check(
        "
        dom5 SET_PERMS /|n5| -> EACCES
        dom5 SET_PERMS /|n0|b5| -> EACCES
        dom5 WRITE /|v -> EACCES
        dom5 READ /| -> EACCES
        dom5 DIRECTORY /| -> EACCES
        dom5 DIRECTORY_PART /|0| -> EACCES
        dom5 GET_PERMS /| -> EACCES
        dom5 RM /| -> EACCES or EINVAL
        dom0 RM /| -> EINVAL
        dom0 GET_PERMS /| -> n0|
        ",
    );
}

#[test]
fn xsa_481_paths_with_an_empty_last_component_are_einval() {
    let rows: String = ["/local/domain/", "", "/a/", "a/", "//", "/local/domain/5/"]
        .iter()
        .flat_map(|path| {
            ["dom0", "dom5"].map(|name| {
                format!(
                    "{name} READ {path}| -> EINVAL\n{name} DIRECTORY {path}| -> EINVAL\n\
                     {name} GET_PERMS {path}| -> EINVAL\n{name} MKDIR {path}| -> EINVAL\n\
                     {name} WRITE {path}|v -> EINVAL\n{name} RM {path}| -> EINVAL\n\
                     {name} SET_PERMS {path}|n5| -> EINVAL\n{name} WATCH {path}|t| -> EINVAL\n\
                     {name} UNWATCH {path}|t| -> EINVAL\n{name} DIRECTORY_PART {path}|0| -> EINVAL\n"
                )
            })
        })
        .collect();
    check(&rows);
}

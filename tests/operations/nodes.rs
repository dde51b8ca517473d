//! Operations that read and change nodes.

use super::*;

#[test]
fn read_returns_what_write_wrote() {
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
fn paths_are_resolved_and_checked() {
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
        # Up to 3072 bytes; the prefix of a home path does not count against the quota of 2048.
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
fn directory_lists_the_children() {
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
fn mkdir_creates_and_rm_removes_nodes() {
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
fn partitions_of_all_shards_are_removed_with_their_ancestors() {
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
fn initial_store_has_only_the_standard_nodes() {
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

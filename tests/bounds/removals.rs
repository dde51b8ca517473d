//! Bounds on the nodes that a guest's transaction may remove, because the request and each replay visit all of them.

use super::all_ok;
use super::common::{Control, World, op};

/// The default of the quota `transaction-nodes`.
const TRANSACTION_NODES: usize = 1024;

/// Creates a directory of domain 5 with `own` nodes of its own and `of_others` nodes, half of them of domain 6 and half
/// of domain 7.
fn shared_directory(world: &mut World, own: usize, of_others: usize) {
    let writes = |count: usize, name: &'static str| -> Vec<_> {
        let path = move |i| format!("/local/domain/5/d/{name}{}/{}\0", i / 30, i % 30).into_bytes();
        (0..count).map(|i| (op::WRITE, 0, path(i))).collect()
    };
    world.guest(5).write("d", "").unwrap();
    world.guest(5).set_perms("d", "b5").unwrap();
    all_ok(&world.guest(5).pipeline(&writes(own, "own")));
    all_ok(&world.guest(6).pipeline(&writes(of_others / 2, "six")));
    all_ok(&world.guest(7).pipeline(&writes(of_others / 2, "seven")));
}

#[test]
fn transaction_removes_a_bounded_number_of_others_nodes() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        shared_directory(&mut world, 10, TRANSACTION_NODES);
        let guest = world.guest(5);
        let tx = guest.start().unwrap();
        assert_eq!(guest.request(op::RM, tx, b"d\0"), Err("ENOSPC".to_owned()));
        assert_eq!(guest.request(op::READ, tx, b"d/six0/0\0").as_deref(), Ok(&b""[..]));
        // Two transactions together can remove these nodes.
        assert_eq!(guest.request(op::RM, tx, b"d/six0\0").as_deref(), Ok(&b"OK\0"[..]));
        guest.commit(tx).unwrap();
        assert_eq!(guest.read("d/six0/0"), Err("ENOENT".to_owned()));
        // Removals by the control domain or without a transaction are not counted.
        let tx = world.admin.start().unwrap();
        world.admin.request(op::RM, tx, b"/local/domain/5/d\0").unwrap();
        world.admin.request(op::TRANSACTION_END, tx, b"F\0").unwrap();
        world.guest(5).rm("d").unwrap();
        world.check_store();
    }
}

/// Everything that C xenstored admits is admitted: nodes of others within the quota, and also the transaction's own.
#[test]
fn transaction_may_remove_as_much_as_c_xenstored_admits() {
    let mut world = World::new(Control::Socket, 2);
    shared_directory(&mut world, 0, 900);
    let guest = world.guest(5);
    let tx = guest.start().unwrap();
    let writes =
        (0..900).map(|i| (op::WRITE, tx, format!("d/{}/{}\0", i / 30, i % 30).into_bytes()));
    all_ok(&guest.pipeline(&writes.collect::<Vec<_>>()));
    guest.request(op::RM, tx, b"d\0").unwrap();
    guest.commit(tx).unwrap();
    assert_eq!(guest.read("d"), Err("ENOENT".to_owned()));
    world.check_store();
}

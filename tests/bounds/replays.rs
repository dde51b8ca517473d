//! Transactions whose logs are replayed.

use std::time::Duration;

use super::all_ok;
use super::common::{Control, World, op};

/// A log whose replay takes many passes gives the same replies as one that takes none.
#[test]
fn long_log_is_replayed_in_pieces() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let guest = world.guest(5);
        guest.write("x", "v").unwrap();
        let tx = guest.start().unwrap();
        let requests: Vec<_> = (0..1000)
            .map(|i| match i % 3 {
                0 => {
                    (op::WRITE, tx, format!("d{}/{}\0w", i % 7, "a/".repeat(20) + "b").into_bytes())
                }
                1 => (op::READ, tx, b"x\0".to_vec()),
                _ => (op::RM, tx, format!("d{}\0", i % 7).into_bytes()),
            })
            .collect();
        let replies = guest.pipeline(&requests);
        all_ok(&replies);
        // The transaction's snapshots are dropped meanwhile.
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(guest.request(op::READ, tx, b"x\0").as_deref(), Ok(&b"v"[..]));
        std::thread::sleep(Duration::from_millis(1500));
        guest.commit(tx).unwrap();
        assert_eq!(guest.read("x").as_deref(), Ok(&b"v"[..]));
        world.check_store();
    }
}

/// A guest that rewrites a node with the same value makes another guest's transaction that read the node replay again
/// and again; finally the transaction is refused, and no client waits for locks.
#[test]
fn a_guest_that_loses_every_race_is_refused_or_commits() {
    let mut world = World::new(Control::Socket, 2);
    world.guest(5);
    world.guest(6).write("x", "same").unwrap();
    world.admin.set_perms("/local/domain/6/x", "n6 r5").unwrap();
    for _ in 0..20 {
        let guest = world.guest(5);
        let tx = guest.start().unwrap();
        guest.request(op::READ, tx, b"/local/domain/6/x\0").unwrap();
        let writes = (0..900).map(|i| (op::WRITE, tx, format!("n{}\0", i % 50).into_bytes()));
        all_ok(&guest.pipeline(&writes.collect::<Vec<_>>()));
        let writes: Vec<_> = (0..400).map(|_| (op::WRITE, 0, b"x\0same".to_vec())).collect();
        world.guest(5).send(op::TRANSACTION_END, tx, b"T\0");
        all_ok(&world.guest(6).pipeline(&writes));
        let end = world.guest(5).reply();
        assert!(end.is_ok() || end == Err("EAGAIN".to_owned()), "{end:?}");
    }
    world.check_store();
}

/// A log whose replay takes longer than the lifetime of its snapshots keeps them until it is done: otherwise the replay
/// would start over again and again.
#[test]
fn replay_that_takes_seconds_runs_to_its_end() {
    let mut world = World::new(Control::Socket, 2);
    let admin = &mut world.admin;
    let deep = format!("/tool/{}b", "a/".repeat(900));
    admin.write(&deep, "v").unwrap();
    let tx = admin.start().unwrap();
    let requests: Vec<_> =
        (0..8000).map(|_| (op::READ, tx, format!("{deep}\0").into_bytes())).collect();
    all_ok(&admin.pipeline(&requests));
    admin.commit(tx).unwrap();
}

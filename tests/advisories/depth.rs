//! Trees and watches of a thousand levels, on stacks too small for a frame per level.

use super::*;

/// Runs a test on daemons whose threads have stacks of `bytes`, and which must stop cleanly after the test.
fn each_world_on_small_stacks(bytes: usize, controls: &[Control], test: impl Fn(&mut World)) {
    for control in controls {
        for shards in [1, 4] {
            let mut world = World::around(Daemon::start_on_small_stacks(shards, bytes), *control);
            test(&mut world);
            world.check_store();
            world.daemon.stop();
        }
    }
}

/// The stack is too small for a frame for each of a thousand levels. An optimised build merges several frames into a
/// large one.
const SMALL_STACK_BYTES: usize = if cfg!(debug_assertions) { 64 << 10 } else { 128 << 10 };

#[test]
fn xsa_418_path_of_a_thousand_levels_fits_a_small_stack() {
    each_world_on_small_stacks(SMALL_STACK_BYTES, &[Control::Socket, Control::Ring], |world| {
        let deep = "/a".repeat(1024);
        for _ in 0..3 {
            let client = world.client("dom0");
            client.write(&deep, "v").unwrap();
            assert_eq!(client.read(&deep).as_deref(), Ok(&b"v"[..]));
            let tx = client.start().unwrap();
            client.request(op::RM, tx, "/a/a\0").unwrap();
            client.request(op::WRITE, tx, format!("{deep}\0w")).unwrap();
            client.commit(tx).unwrap();
            world.check_store();
            world.client("dom0").rm("/a").unwrap();
        }
        // A guest's tree, which its death removes.
        let guest = world.guest(5);
        let mut deep = "a/".repeat(900);
        deep.pop();
        guest.write(&deep, "v").unwrap();
        world.until_released(5);
        assert_eq!(world.admin.read("/local/domain/5"), Err("ENOENT".to_owned()));
        // A tree that still exists when the daemon stops.
        world.admin.write(&"/a".repeat(1024), "v").unwrap();
    });
}

#[test]
fn xsa_418_transaction_frees_a_thousand_levels_on_a_small_stack() {
    each_world_on_small_stacks(SMALL_STACK_BYTES, &[Control::Socket, Control::Ring], |world| {
        let mut deep = "a/".repeat(900);
        deep.pop();
        let guest = world.guest(5);
        // A transaction that created the nodes and is aborted.
        let tx = guest.start().unwrap();
        guest.request(op::WRITE, tx, format!("{deep}\0v")).unwrap();
        guest.request(op::TRANSACTION_END, tx, "F\0").unwrap();
        // A transaction that removes the nodes itself.
        guest.write(&deep, "v").unwrap();
        let tx = guest.start().unwrap();
        guest.request(op::RM, tx, "a\0").unwrap();
        guest.commit(tx).unwrap();
        for end in ["F\0", "T\0"] {
            // A transaction that saw the nodes before another request removes them.
            guest.write(&deep, "v").unwrap();
            let tx = guest.start().unwrap();
            guest.request(op::READ, tx, format!("{deep}\0")).unwrap();
            guest.rm("a").unwrap();
            let _ = guest.request(op::TRANSACTION_END, tx, end);
        }
        assert_eq!(world.nodes_of(5), 1);
    });
}

#[test]
fn xsa_418_watches_on_a_thousand_levels_fit_a_small_stack() {
    // Only setting and removing a watch take a stack frame for each node of the trie, here for each level: without
    // optimisation about 400 bytes of the 2 MiB that a thread has; 384 KiB were not enough.
    let bytes = if cfg!(debug_assertions) { 512 << 10 } else { 1 << 20 };
    each_world_on_small_stacks(bytes, &[Control::Socket], |world| {
        world.guest(5);
        world.admin.set_quota(Some(5), "nodes", 0);
        let mut guest = world.take("dom5");
        // A watch on each level, so that an index cannot leave a level out.
        let level = |first, depth| format!("{first}a{}", "/a".repeat(depth));
        let all = |kind, first| {
            let request = |depth| (kind, 0, format!("{}\0t\0", level(first, depth)).into_bytes());
            (0..1000).rev().map(request).collect::<Vec<_>>()
        };
        guest.write(&level("", 999), "v").unwrap();
        for first in ["", "@"] {
            assert!(guest.pipeline(&all(op::WATCH, first)).iter().all(Result::is_ok));
            (0..1000).for_each(|_| _ = guest.next_event());
            if first.is_empty() {
                guest.rm("a").unwrap();
                (0..1000).for_each(|_| _ = guest.next_event());
            }
            world.check_store();
            // Watches are removed from the top, with those below still in place; then all at once.
            assert!(guest.pipeline(&all(op::UNWATCH, first)[900..]).iter().all(Result::is_ok));
            guest.request(op::RESET_WATCHES, 0, "\0").unwrap();
        }
        // Watches that still exist when the daemon stops.
        assert!(guest.pipeline(&all(op::WATCH, "")).iter().all(Result::is_ok));
    });
}

//! Nodes, events and quotas under concurrent requests.

use super::*;

#[test]
fn partition_created_while_its_parent_is_removed_is_consistent() {
    explore(|| {
        let world = World::new();
        world.control().write("/local/domain/0/backend/vif/4/0", "").unwrap();
        at_once!(
            || world.control().write("/local/domain/0/backend/vif/5/0/state", "1").unwrap(),
            || world.control().rm("/local/domain/0/backend/vif").unwrap(),
            || {
                let mut transaction = Transaction::default();
                let mut toolstack = world.control();
                let path = "/local/domain/0/backend/vif/7/0/state";
                toolstack.write_in(&mut transaction, path, "1").unwrap();
                toolstack.commit(transaction).unwrap();
            },
        );
        world.check();
    });
}

/// Writes of long paths, which change copies without a lock, lose no other change of the partition.
#[test]
fn writes_of_long_paths_lose_no_other_change() {
    const LONG: &str = "/tool/x/long";
    explore(|| {
        let mut world = World::new();
        world.control().write("/tool/x", "").unwrap();
        let store = xenstored::sync::Arc::get_mut(&mut world.store).unwrap();
        store.set_long_path_bytes(LONG.len());
        at_once!(
            || world.control().write("/tool/x/long/a", "").unwrap(),
            || world.control().write("/tool/x/long/b", "").unwrap(),
            || world.control().write("/tool/x/c", "").unwrap(),
        );
        for path in ["/tool/x/long/a", "/tool/x/long/b", "/tool/x/c"] {
            assert!(world.has(path), "{path} was lost");
        }
        world.check();
    });
}

/// One client writes a watched node; another one sees that write and writes too. Each watcher gets both events in this
/// order.
pub fn cause_and_consequence(cause: fn(&World)) {
    explore(move || {
        let world = World::new();
        world.watch("/libxl/4", 1);
        world.watch("/libxl/5", 2);
        at_once!(|| cause(&world), || {
            let mut other = world.control();
            if other.read("/libxl/4/cause").is_ok() {
                other.write("/libxl/5/consequence", "").unwrap();
            }
        },);
        let events: Vec<_> = world.outlet.take_events().into_iter().map(|(seq, _)| seq).collect();
        assert!(events == [1] || events == [1, 2], "{events:?}");
    });
}

#[test]
fn event_of_a_cause_precedes_that_of_its_consequence() {
    cause_and_consequence(|world| world.control().write("/libxl/4/cause", "").unwrap());
}

/// The slot of a watch is used again after UNWATCH; its number distinguishes events of the old watch from those of the
/// new one. The test covers watches of a shard and of the global watch trie.
#[test]
fn event_of_a_removed_watch_does_not_reach_a_new_one() {
    for paths in [["/libxl/4", "/libxl/5"], ["/local/domain", "/local"]] {
        explore(move || {
            let world = World::new();
            let old = world.watch(paths[0], 1);
            let written = AtomicUsize::new(0);
            at_once!(
                || {
                    let mut writer = world.control();
                    for path in ["/libxl/4/x", "/libxl/5/x", "/local/domain/4/x", "/local/y"] {
                        writer.write(path, "").unwrap();
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                },
                || {
                    assert!(world.store.unwatch(world::at(paths[0]), old));
                    assert!(!world.store.unwatch(world::at(paths[0]), old));
                    world.watch(paths[1], 2);
                },
            );
            // All events of the new watch are below its path.
            for (_, path) in world.outlet.take_events().iter().filter(|(seq, _)| *seq == 2) {
                assert!(world::at(path).is_within(world::at(paths[1])), "{path}");
            }
            // Both threads have ended, so the old watch gets nothing more and the new one everything.
            world.control().write("/libxl/4/x", "").unwrap();
            world.control().write("/libxl/5/x", "").unwrap();
            world.control().write("/local/domain/4/x", "").unwrap();
            let seqs: Vec<_> = world.outlet.take_events().iter().map(|(seq, _)| *seq).collect();
            assert_eq!(seqs, [2]);
        });
    }
}

#[test]
fn snapshot_shows_all_of_a_commit_or_nothing() {
    explore(|| {
        let world = World::new();
        let value = |tree: &xenstored::store::Tree, path: &str| {
            let partition = world.store.layout().partition(world::at(path));
            tree.get(&partition, world::at(path)).map(|node| node.value().to_vec())
        };
        at_once!(
            || {
                let mut toolstack = world.control();
                for round in ["1", "2"] {
                    let mut transaction = Transaction::default();
                    toolstack.write_in(&mut transaction, "/libxl/4/v", round).unwrap();
                    toolstack.write_in(&mut transaction, "/libxl/5/v", round).unwrap();
                    toolstack.commit(transaction).unwrap();
                }
            },
            || {
                let trees = world.store.snapshot_all();
                assert_eq!(value(&trees[0], "/libxl/4/v"), value(&trees[1], "/libxl/5/v"));
            },
        );
        world.check();
    });
}

#[test]
fn concurrent_creations_reach_exactly_the_quota() {
    explore(|| {
        let world = World::new();
        let guest = world.admit(5);
        world.control().write("/tool/x", "").unwrap();
        world.control().set_perms("/tool/x", "b0").unwrap();
        world.registry.set_limit(Some(&guest), Quota::Nodes, 3);
        let created = AtomicUsize::new(0);
        let create = |paths: [&str; 2]| {
            let mut client = world.client(&guest);
            for path in paths {
                match client.write(path, "") {
                    Ok(()) => drop(created.fetch_add(1, Ordering::Relaxed)),
                    Err(errno) => assert_eq!(errno, Errno::ENOSPC),
                }
            }
        };
        at_once!(
            || create(["/tool/x/a", "/tool/x/b"]),
            || create(["/tool/x/c", "/tool/x/d"]),
            || create(["/tool/x/e", "/tool/x/f"]),
        );
        assert_eq!(created.load(Ordering::Relaxed), 3);
        world.check();
    });
}

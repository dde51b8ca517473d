//! The store through its library interface: limits, empty cases and odd orders. Each test detects a defect that no
//! other test would (docs/MUTATIONS.md).

mod world;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use world::{Client, World, at, commit_error};
use xenstored::domain::{Domain, Quota};
use xenstored::store::{
    CommitError, Generations, Op, StoreError, Transaction, Verb, check, count_nodes,
};
use xenstored::types::{Domid, Errno, PathBuf};

/// Creates these nodes, each with its permissions.
fn plant(control: &mut Client, nodes: &[(&str, &str)]) {
    for (path, perms) in nodes {
        control.write(path, "").unwrap();
        control.set_perms(path, perms).unwrap();
    }
}

fn memory_limit(world: &World, guest: &Domain, more: u64) {
    let limit = guest.account.used(Quota::Memory) + more;
    world.registry.set_limit(Some(guest), Quota::Memory, u32::try_from(limit).unwrap());
}

#[test]
fn directory_holds_exactly_its_quota() {
    for (value, expected) in [(2022, Ok(())), (2023, Err(Errno::ENOSPC))] {
        let (world, guest) = World::with_guest();
        let mut client = world.client(&guest);
        client.write("/tool/x/a", &"v".repeat(value)).unwrap();
        assert_eq!(client.write("/tool/x/a/b", ""), expected, "2,046 bytes, a letter and a NUL");
    }
}

#[test]
fn transaction_may_use_exactly_its_quotas() {
    let (world, guest) = World::with_guest();
    let mut client = world.client(&guest);
    client.write("/tool/x/a", "").unwrap();
    memory_limit(&world, &guest, 20);
    let mut transaction = Transaction::default();
    client.write_in(&mut transaction, "/tool/x/a", "0123456789").unwrap();
    client.write_in(&mut transaction, "/tool/x/a", "0123456789+123456789").unwrap();
    let more = client.write_in(&mut transaction, "/tool/x/a", "0123456789+123456789+");
    assert_eq!(more, Err(Errno::ENOSPC));
    client.commit(transaction).unwrap();
    world.check();

    // A guest with more nodes than a lowered limit gets no new one, and may write those that it has.
    world.registry.set_limit(Some(&guest), Quota::Memory, 0);
    client.write("/tool/x/b", "").unwrap();
    world.registry.set_limit(Some(&guest), Quota::Nodes, 1);
    let mut transaction = Transaction::default();
    client.write_in(&mut transaction, "/tool/x/b", "longer").unwrap();
    assert_eq!(client.write_in(&mut transaction, "/tool/x/c", ""), Err(Errno::ENOSPC));
    client.commit(transaction).unwrap();
    world.check();
}

/// Accounts have no version, so a reply that depended on one is checked again at the end.
#[test]
fn quota_refusal_is_rechecked_at_commit() {
    for room in [false, true] {
        let (world, guest) = World::with_guest();
        let mut client = world.client(&guest);
        // The node is in another shard than those that the transaction touches.
        plant(&mut world.control(), &[("/libxl/4/x", "n5")]);
        world.registry.set_limit(Some(&guest), Quota::Nodes, 1);
        let mut transaction = Transaction::default();
        assert_eq!(client.write_in(&mut transaction, "/tool/x/a", ""), Err(Errno::ENOSPC));
        if room {
            world.control().rm("/libxl/4/x").unwrap();
        }
        assert_eq!(client.commit(transaction).is_err(), room);
    }
}

/// A change of a limit, a target or an incarnation changes no node, so END must detect it separately.
#[test]
fn rights_and_limits_are_rechecked_at_commit() {
    for what in ["nothing", "a limit", "a death"] {
        let (world, guest) = World::with_guest();
        let mut client = world.client(&guest);
        let mut transaction = Transaction::default();
        client.write_in(&mut transaction, "/tool/x/a", &"v".repeat(100)).unwrap();
        match what {
            "a limit" => world.registry.set_limit(Some(&guest), Quota::NodeSize, 50),
            "a death" => assert!(world.registry.bury(&guest)),
            _ => {}
        }
        assert_eq!(client.commit(transaction).is_ok(), what == "nothing", "{what}");
    }
}

/// A replayed log writes with new generations; a transaction without conflicts is not replayed and keeps its own.
#[test]
fn transaction_without_conflicts_is_not_replayed() {
    let world = World::new();
    let mut control = world.control();
    control.write("/libxl/6", "").unwrap();
    let part = || Verb::DirectoryPart(0);
    let mut transaction = Transaction::default();
    // The transaction touches a partition that exists, one that is created, and one that is missing.
    control.write_in(&mut transaction, "/libxl/6/a", "").unwrap();
    control.write_in(&mut transaction, "/libxl/8", "").unwrap();
    control.run_in(&mut transaction, "/libxl/9", Verb::Read).unwrap_err();
    let written = ["/libxl/6/a", "/libxl/8"]
        .map(|path| (path, control.run_in(&mut transaction, path, part()).unwrap()));
    // Another partition in the same directory does not conflict.
    control.write("/libxl/7", "").unwrap();
    let generations = &mut Generations::default();
    let executed = transaction.commit(&world.store, &control.caller, generations).unwrap();
    for (path, generation) in written {
        assert_eq!(control.run(path, part()).unwrap(), generation, "{path}");
    }
    assert!(executed.replaced.is_some(), "replaced partitions are dropped outside the locks");

    let mut looks = Transaction::default();
    control.run_in(&mut looks, "/libxl/6/a", Verb::Read).unwrap();
    let executed = looks.commit(&world.store, &control.caller, generations).unwrap();
    assert!(executed.replaced.is_some(), "replaced partitions are dropped outside the locks");
}

/// A created node inherits the permissions that each of its parents has at the end.
#[test]
fn every_parent_is_rechecked_at_commit() {
    let parents = ["/libxl", "/local/domain", "/local/domain/0/backend"];
    for changed in parents {
        let world = World::new();
        let mut control = world.control();
        plant(&mut control, &parents.map(|parent| (parent, "n0")));
        let mut transaction = Transaction::default();
        for parent in parents {
            control.write_in(&mut transaction, &format!("{parent}/8"), "").unwrap();
        }
        control.set_perms(changed, "n0 r5").unwrap();
        control.commit(transaction).unwrap();
        for parent in parents {
            let shown = control.run(&format!("{parent}/8"), Verb::GetPerms).unwrap();
            let wanted = if parent == changed { &b"n0\0r5\0"[..] } else { b"n0\0" };
            assert_eq!(shown, wanted, "{parent}/8 after {changed} changed");
        }
        world.check();
    }
}

#[test]
fn missing_ancestors_are_created_from_any_level() {
    for first in ["/local", "/local/domain", "/local/domain/5", "/local/domain/5/a"] {
        let world = World::new();
        world.control().write(first, "").unwrap();
        world.control().write("/local/domain/5/a/b", "").unwrap();
        world.check();
        assert!(world.has("/local/domain/5/a/b"));
    }
}

#[test]
fn transaction_accounts_for_the_bytes_of_its_arguments() {
    let (world, guest) = World::with_guest();
    let mut client = world.client(&guest);
    let op = |value| Op { path: at("/tool/x/a"), verb: Verb::Write(Cow::Borrowed(value)) };
    let long = [b'v'; 1000];
    let more = Transaction::bytes_of(&op(&long)) - Transaction::bytes_of(&op(b""));
    assert_eq!(more, 1000);
    let mut transaction = Transaction::default();
    assert!(transaction.is_empty());
    // The log and the node that it creates share a long value; so do the second write and its node.
    let held = |transaction: &Transaction| transaction.bytes();
    client.run_in(&mut transaction, "/tool/x/a", op(&long).verb).unwrap();
    let first = held(&transaction);
    assert!((1000..1800).contains(&first), "{first}");
    client.run_in(&mut transaction, "/tool/x/a", op(&long).verb).unwrap();
    assert!((1000..1800).contains(&(held(&transaction) - first)), "{}", held(&transaction));
    // Nodes that the transaction removes again are kept until it ends.
    let before = held(&transaction);
    for _ in 0..100 {
        client.run_in(&mut transaction, "/tool/x/a/b/c/d", Verb::Mkdir).unwrap();
        client.run_in(&mut transaction, "/tool/x/a/b", Verb::Rm).unwrap();
    }
    assert!(held(&transaction) - before > 100 * (3 * 96 + 2 * Transaction::bytes_of(&op(b""))));
    // The transaction's log keeps the values when its snapshots are dropped.
    transaction.give_up();
    let log = 200 * Transaction::bytes_of(&op(b"")) + 2 * Transaction::bytes_of(&op(&long));
    assert!((log..log + 2000).contains(&held(&transaction)), "{} and {log}", held(&transaction));
}

/// A generation can change without a change of the list.
#[test]
fn directory_part_conflicts_only_with_other_names() {
    for (path, commits) in [("/tool/x/d", true), ("/tool/x/d/b", false)] {
        let (world, guest) = World::with_guest();
        let (mut client, mut control) = (world.client(&guest), world.control());
        client.write("/tool/x/d/a", "").unwrap();
        let mut transaction = Transaction::default();
        control.run_in(&mut transaction, "/tool/x/d", Verb::DirectoryPart(0)).unwrap();
        client.write(path, "new").unwrap();
        assert_eq!(control.commit(transaction).is_ok(), commits, "{path}");
    }
}

#[test]
fn directory_part_is_the_same_behind_other_output() {
    let world = World::new();
    let mut control = world.control();
    for number in 0..512 {
        control.write(&format!("/d/{number:07}"), "").unwrap();
    }
    let part = control.run("/d", Verb::DirectoryPart(0)).unwrap();
    let mut behind = vec![b'h'; 500];
    let op = Op { path: at("/d"), verb: Verb::DirectoryPart(0) };
    let generations = &mut Generations::default();
    world.store.execute(&control.caller, &op, generations, &mut behind).unwrap();
    assert!(behind[500..] == part);
}

#[test]
fn generations_are_unique() {
    let world = World::new();
    let mut clients = [world.control(), world.control()];
    let mut seen = BTreeSet::new();
    let mut write = |client: &mut Client| {
        client.write("/libxl/4", "").unwrap();
        assert!(seen.insert(client.run("/libxl/4", Verb::DirectoryPart(0)).unwrap()));
    };
    // A thread takes 4,096 generations at a time.
    for _ in 0..3 {
        (0..4096).for_each(|_| write(&mut clients[0]));
        (0..10).for_each(|_| write(&mut clients[1]));
    }
}

/// Events depend on the permissions before a commit and after it, whatever a node was in between, and in whichever of
/// the commit's shards it is.
#[test]
fn events_of_a_commit_depend_on_permissions_before_and_after() {
    let (world, _guest) = World::with_guest();
    let mut control = world.control();
    let partitions = ["/tool", "/libxl/4", "/libxl/5"];
    for partition in partitions {
        let (old, up) = (format!("{partition}/up/old"), format!("{partition}/up"));
        plant(
            &mut control,
            &[(&up, "n0"), (&old, "n0 r5"), (&format!("{partition}/went/old"), "n0")],
        );
    }
    for (partition, seq) in partitions.iter().zip([10, 20, 30]) {
        world.watch_as(Domid(5), &format!("{partition}/up/old"), seq, None);
        for (below, number) in [("never", 1), ("went/never", 2), ("went/old", 3)] {
            world.watch(&format!("{partition}/{below}"), seq + number);
        }
    }
    world.outlet.take();
    let mut transaction = Transaction::default();
    for partition in partitions {
        let mut run = |below: &str, verb: Verb<'_>| {
            control.run_in(&mut transaction, &format!("{partition}/{below}"), verb).unwrap();
        };
        // Domain 5 could read the old node, and cannot read the new one.
        run("up/old", Verb::Rm);
        run("up/old", Verb::Mkdir);
        run("never", Verb::Mkdir);
        run("never", Verb::Rm);
        run("went/never", Verb::Mkdir);
        run("went", Verb::Rm);
    }
    control.commit(transaction).unwrap();
    let events = world.outlet.take_events();
    let wanted = |(partition, seq): (&&str, u64)| {
        [(seq, format!("{partition}/up/old")), (seq + 3, format!("{partition}/went/old"))]
    };
    let wanted: Vec<_> = partitions.iter().zip([10, 20, 30]).flat_map(wanted).collect();
    assert_eq!(events, wanted);
    world.check();
}

#[test]
fn removal_includes_the_partitions_below() {
    let (world, guest) = World::with_guest();
    let mut control = world.control();
    for path in ["/local/domain/5/x", "/local/domain/0/backend/vif/5/0", "/libxl/5/y"] {
        control.write(path, "").unwrap();
    }
    plant(&mut control, &[("/local/domain/5", "n5")]);
    for path in ["/local", "/libxl"] {
        control.rm(path).unwrap();
        world.check();
    }
    assert_eq!(control.run("/", Verb::Directory).unwrap(), b"tool\0");
    assert_eq!(guest.account.used(Quota::Nodes), 0);
}

/// The index of a guest's topmost nodes stays correct as owners change above and below them.
#[test]
fn owner_index_follows_each_change() {
    let (world, _guest) = World::with_guest();
    world.admit(6);
    let mut control = world.control();
    plant(&mut control, &[("/tool/p", "n5"), ("/tool/p/of5", "n5"), ("/tool/p/of6", "n6")]);
    plant(&mut control, &[("/tool/p/of5/of6", "n6"), ("/tool/p/of6/of0", "n0")]);
    world.check();
    for owner in ["n0", "n6", "n5", "n0", "n5"] {
        for path in ["/tool/p", "/tool/p/of6", "/tool/p/of5"] {
            control.set_perms(path, owner).unwrap();
            world.check();
        }
    }
    for owner in ["n0", "n6", "n5", "n0", "n5"] {
        for path in ["/tool/p", "/tool/p/of6", "/tool/p/of5"] {
            let mut transaction = Transaction::default();
            let perms = world::perms(world.registry.now(), owner);
            control.run_in(&mut transaction, path, Verb::SetPerms(perms)).unwrap();
            control.commit(transaction).unwrap();
            world.check();
        }
    }
}

/// A writer that checked before a reservation began must check again, and changes nothing until then.
#[test]
fn operation_of_a_stale_epoch_changes_nothing() {
    let (world, _guest) = World::with_guest();
    let mut control = world.control();
    let (mut looks, mut changes) = (Transaction::default(), Transaction::default());
    control.run_in(&mut looks, "/tool/x", Verb::Read).unwrap();
    control.write_in(&mut changes, "/tool/x/a", "").unwrap();
    world.store.begin_epoch();
    assert_eq!(control.attempt_write("/tool/x/b", ""), Err(StoreError::StaleEpoch));
    assert_eq!(control.read("/tool/x").as_deref(), Ok(""));
    control.commit(looks).unwrap();
    let Err(CommitError::StaleEpoch(changes)) = control.commit(changes) else {
        panic!("committed in a stale epoch");
    };
    assert!(!world.has("/tool/x/a") && !world.has("/tool/x/b"));
    control.caller.epoch = world.store.epoch();
    control.write("/tool/x/b", "").unwrap();
    control.commit(*changes).unwrap();
    assert!(world.has("/tool/x/a") && world.has("/tool/x/b"));
    world.check();
}

/// Nodes removed with an ancestor notify only watches on exactly their paths, whichever shard they are in.
#[test]
fn death_notifies_watches_from_the_topmost_node() {
    let (world, _guest) = World::with_guest();
    let seventh = world.admit(7);
    plant(&mut world.control(), &[("/a", "b7"), ("/a/b", "n7"), ("/a/c", "n7")]);
    world.watch("/a", 1);
    world.watch("/a/b", 2);
    world.die(&seventh);
    assert_eq!(world.outlet.take_events(), [(1, "/a".to_owned()), (2, "/a/b".to_owned())]);
    world.check();
}

/// A late sweep removes the nodes of the dead incarnation, and none of the next one's.
#[test]
fn late_sweep_spares_the_next_incarnation() {
    let (world, first) = World::with_guest();
    world.admit(6);
    let mut control = world.control();
    plant(&mut control, &[("/tool/old", "n5"), ("/tool/given", "n5"), ("/tool/taken", "n5")]);
    assert!(world.registry.bury(&first));
    let second = world.admit(5);
    world.client(&second).write("/tool/x/new", "").unwrap();
    plant(&mut control, &[("/tool/given", "n6"), ("/tool/taken", "n5")]);
    world.sweep(&first);
    assert!(!world.has("/tool/old"));
    for path in ["/tool/x/new", "/tool/given", "/tool/taken"] {
        assert!(world.has(path), "{path}");
    }
    world.check();
}

/// Between the removal of a node and its settlement, another may be created in its place.
#[test]
fn late_settlement_spares_nodes_created_meanwhile() {
    for owner in ["n5", "n6", "n0"] {
        let (world, _guest) = World::with_guest();
        world.admit(6);
        let mut control = world.control();
        plant(&mut control, &[("/tool/a", "n5"), ("/tool/a/b", "n6")]);
        let op = Op { path: at("/tool/a"), verb: Verb::Rm };
        let generations = &mut Generations::default();
        let mut reply = Vec::new();
        let late = world.store.execute(&control.caller, &op, generations, &mut reply).unwrap();
        plant(&mut control, &[("/tool/a", owner), ("/tool/a/b", "n5")]);
        assert!(world.store.settle(late.removed).is_none());
        world.check();
    }
}

#[test]
fn special_node_of_a_dead_owner_goes_to_the_control_domain() {
    let (world, guest) = World::with_guest();
    world.admit(6);
    let mut control = world.control();
    control.set_perms("@introduceDomain", "b5 r6").unwrap();
    world.die(&guest);
    assert_eq!(control.run("@introduceDomain", Verb::GetPerms).unwrap(), b"b0\0r6\0");
    world.check();
}

#[test]
fn transaction_without_snapshots_still_sees_its_writes() {
    let world = World::new();
    let mut control = world.control();
    let mut transaction = Transaction::default();
    control.write_in(&mut transaction, "/tool/a", "mine").unwrap();
    transaction.give_up();
    let shown = control.run_in(&mut transaction, "/tool/a", Verb::Read);
    assert_eq!(shown.as_deref(), Ok(&b"mine"[..]));
    assert_eq!(control.read("/tool/a"), Err(Errno::ENOENT));
    control.commit(transaction).unwrap();
    assert_eq!(control.read("/tool/a").as_deref(), Ok("mine"));
}

#[test]
fn reserved_transaction_continues_and_conflicts_at_the_end() {
    let world = World::new();
    let mut control = world.control();
    let mut transaction = Transaction::reserved();
    control.write_in(&mut transaction, "/tool/a", "mine").unwrap();
    let shown = control.run_in(&mut transaction, "/tool/a", Verb::Read);
    assert_eq!(shown.as_deref(), Ok(&b"mine"[..]));
    let failure = control.commit(transaction).unwrap_err();
    assert_eq!(commit_error(&failure), Errno::EAGAIN);
    assert!(!world.has("/tool/a"));
}

/// Requests of a dead domain may still be running.
#[test]
fn dead_domain_creates_nothing() {
    let (world, guest) = World::with_guest();
    let mut client = world.client(&guest);
    assert!(world.registry.bury(&guest));
    assert_eq!(client.write("/tool/x/a", ""), Err(Errno::EACCES));
    assert!(!world.has("/tool/x/a"));
    world.sweep(&guest);
    world.check();
}

#[test]
fn sizes_count_nodes_and_watches() {
    let (world, _guest) = World::with_guest();
    let nodes = world.nodes().len();
    assert_eq!((count_nodes(&world.store), world.store.global_watches()), (nodes, 0));
    for (path, seq) in [("/", 1), ("@releaseDomain", 2), ("/local/domain", 3), ("/tool/x", 4)] {
        world.watch(path, seq);
        world.control().write(&format!("/libxl/{seq}/{seq}"), "").unwrap();
    }
    // The tree is `/libxl`, and two nodes below it for each watch.
    assert_eq!(count_nodes(&world.store), nodes + 1 + 4 * 2);
    assert_eq!(check(&world.store).unwrap().nodes, nodes + 1 + 4 * 2);
    assert_eq!(world.store.global_watches(), 3);
    let watches: usize = world.sizes().map(|sizes| sizes.watches).sum();
    assert_eq!(watches, 1);
}

/// The replays in a reservation lose no race, and a reservation of a directory covers the partitions below.
#[test]
fn commit_that_loses_every_race_succeeds_in_a_reservation() {
    let (world, _guest) = World::with_guest();
    let (mut writer, mut committer) = (world.control(), world.control());
    let is_reserved = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let commits = scope.spawn(move || {
            for round in 0..20 {
                let mut transaction = Transaction::default();
                for number in 0..300 {
                    let path = format!("/tool/x/{number}");
                    committer.write_in(&mut transaction, &path, "").unwrap();
                }
                committer.run_in(&mut transaction, "/libxl", Verb::Rm).unwrap();
                let value = round.to_string();
                committer.write_in(&mut transaction, "/libxl/6/round", &value).unwrap();
                let mut end = committer.attempt_commit(transaction);
                while let Err(CommitError::Unfinished(again) | CommitError::Contended(again)) = end
                {
                    let covers = |path: &PathBuf| at("/libxl/10").is_within(path.as_path());
                    if again.contended().iter().any(covers) {
                        is_reserved.store(true, Ordering::SeqCst);
                    }
                    end = committer.attempt_commit(*again);
                }
                end.unwrap();
                is_reserved.store(false, Ordering::SeqCst);
            }
        });
        // Partitions are created in all shards, faster than the log is replayed; a root that a commit overlooked would
        // remain.
        for domid in (10..2000).cycle() {
            while is_reserved.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            writer.write(&format!("/libxl/{domid}"), "").unwrap();
            if commits.is_finished() {
                break;
            }
        }
    });
    world.check();
}

/// Guests choose the depth of their nodes.
#[test]
fn the_deepest_tree_is_freed_on_a_small_stack() {
    let deepest = move || {
        let world = World::new();
        let path = format!("/tool{}", "/a".repeat(1500));
        world.control().write(&path, "").unwrap();
        drop(world);
    };
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(deepest);
    thread.unwrap().join().unwrap();
}

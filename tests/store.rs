//! The store through its library interface, without threads: the guarantees of each part. Fast enough to run for every
//! mutant of src/store.

mod world;

use std::borrow::Cow;
use std::sync::Arc;

use world::{Client, World, at, commit_error};
use xenstored::domain::{Domain, Quota};
use xenstored::store::{
    CommitError, INLINE_NODES_MAX, LOOKS_MAX, PINNED_PARTITIONS_MAX, Transaction, Tree, Verb, check,
};
use xenstored::types::{Domid, Errno, RELEASE_DOMAIN, ShardId};

#[test]
fn new_store_has_its_initial_nodes() {
    let world = World::new();
    let mut control = world.control();
    assert_eq!(control.run("/", Verb::Directory).unwrap(), b"tool\0");
    assert_eq!(control.run("/tool", Verb::Directory).unwrap(), b"xenstored\0");
    assert_eq!(control.run("@releaseDomain", Verb::GetPerms).unwrap(), b"n0\0r32757\0");
    assert_eq!(control.run("@introduceDomain", Verb::GetPerms).unwrap(), b"n0\0");
    for verb in [Verb::Read, Verb::Directory, Verb::Mkdir, Verb::Rm] {
        assert_eq!(control.run("@releaseDomain", verb), Err(Errno::EINVAL));
    }
    assert_eq!(control.rm("/"), Err(Errno::EINVAL));
    assert_eq!(control.rm("/none"), Ok(()));
    assert_eq!(control.rm("/none/below"), Err(Errno::ENOENT));
    world.check();
}

#[test]
fn parts_of_a_directory_add_up_to_the_directory() {
    let world = World::new();
    let mut control = world.control();
    // A reply holds 4,095 bytes; a list of 4,096 needs two parts.
    for number in 0..512 {
        control.write(&format!("/d/{number:07}"), "").unwrap();
    }
    assert_eq!(control.run("/d", Verb::Directory), Err(Errno::E2BIG));
    let (mut names, mut parts) = (Vec::<u8>::new(), 0);
    loop {
        let part = control.run("/d", Verb::DirectoryPart(names.len())).unwrap();
        assert!(part.len() <= 4095);
        let generation = part.iter().position(|&byte| byte == 0).unwrap();
        let list = &part[generation + 1..];
        parts += 1;
        if list.ends_with(b"\0\0") || list == b"\0" {
            names.extend(&list[..list.len() - 1]);
            break;
        }
        assert!(part.len() > 4095 - 10, "a part of only {} bytes", part.len());
        names.extend(list);
    }
    assert_eq!((names.len(), parts), (4096, 2));
    control.rm("/d/0000511").unwrap();
    assert_eq!(control.run("/d", Verb::Directory).unwrap().len(), 4088);
    // The part begins at an offset inside a name.
    let part = control.run("/d", Verb::DirectoryPart(4084)).unwrap();
    assert!(part.ends_with(b"\x00510\0\0"), "{part:?}");
}

#[test]
fn a_node_may_be_as_large_as_its_quota() {
    let (world, guest) = World::with_guest();
    let mut client = world.client(&guest);
    // The size is a header of 16 bytes, one permission entry of 8, and the value.
    client.write("/tool/x/a", &"v".repeat(2024)).unwrap();
    assert_eq!(client.write("/tool/x/a", &"v".repeat(2025)), Err(Errno::ENOSPC));
    assert_eq!(client.write("/tool/x/b", &"v".repeat(2025)), Err(Errno::ENOSPC));
    assert_eq!(client.write("/tool/x/a/b", ""), Err(Errno::ENOSPC));
    assert_eq!(client.set_perms("/tool/x/a", "n5 r0"), Err(Errno::ENOSPC));
    client.write("/tool/x/a", &"v".repeat(2022)).unwrap();
    client.write("/tool/x/a/b", "").unwrap();
    world.check();
}

#[test]
fn accounts_are_exact_at_their_limits() {
    let (world, guest) = World::with_guest();
    let mut client = world.client(&guest);
    world.registry.set_limit(Some(&guest), Quota::Nodes, 3);
    client.write("/tool/x/a/b", "").unwrap();
    assert_eq!(client.write("/tool/x/c/d", ""), Err(Errno::ENOSPC));
    assert!(!world.has("/tool/x/c"));
    client.write("/tool/x/c", "").unwrap();
    assert_eq!(client.run("/tool/x/d", Verb::Mkdir), Err(Errno::ENOSPC));
    client.set_perms("/tool/x/c", "r5 w0").unwrap();
    client.rm("/tool/x/a").unwrap();
    client.write("/tool/x/d/e", "").unwrap();
    world.check();
    // Nodes that other clients create on the guest's account are not refused.
    world.control().write("/tool/x/d/e/f", "").unwrap();
    assert_eq!(guest.account.used(Quota::Nodes), 4);
    world.check();

    let used = u32::try_from(guest.account.used(Quota::Memory)).unwrap();
    world.registry.set_limit(Some(&guest), Quota::Memory, used + 10);
    client.write("/tool/x/c", "0123456789").unwrap();
    assert_eq!(client.write("/tool/x/c", "0123456789+"), Err(Errno::ENOSPC));
    world.registry.set_limit(Some(&guest), Quota::Nodes, 0);
    assert_eq!(client.write("/tool/x/g", ""), Err(Errno::ENOSPC));
    assert_eq!(client.read("/tool/x/c").unwrap(), "0123456789");
    client.write("/tool/x/c", "").unwrap();
    client.write("/tool/x/c", "01234").unwrap();
    assert_eq!(client.set_perms("/tool/x/c", "r5 w0 w0"), Err(Errno::ENOSPC));
    world.check();
}

#[test]
fn transaction_stays_within_its_quotas() {
    let (world, guest) = World::with_guest();
    let mut client = world.client(&guest);
    world.registry.set_limit(Some(&guest), Quota::Nodes, 2);
    let mut transaction = Transaction::default();
    client.write_in(&mut transaction, "/tool/x/a", "").unwrap();
    client.write_in(&mut transaction, "/tool/x/b", "").unwrap();
    assert_eq!(client.write_in(&mut transaction, "/tool/x/c", ""), Err(Errno::ENOSPC));
    client.run_in(&mut transaction, "/tool/x/a", Verb::Rm).unwrap();
    client.write_in(&mut transaction, "/tool/x/c", "").unwrap();
    assert!(!transaction.is_empty() && transaction.len() == 5);
    assert!(transaction.bytes() > 5 * 16);
    let written: Vec<_> = transaction.written_paths().map(|path| format!("{path:?}")).collect();
    assert_eq!(written.len(), 5);
    client.commit(transaction).unwrap();
    assert_eq!(guest.account.used(Quota::Nodes), 2);
    world.check();

    // Nodes created meanwhile count at the end.
    client.rm("/tool/x/b").unwrap();
    let mut transaction = Transaction::default();
    client.write_in(&mut transaction, "/tool/x/d", "").unwrap();
    client.write("/tool/x/e", "").unwrap();
    let end = client.commit(transaction);
    assert!(matches!(end, Err(CommitError::Quota | CommitError::Conflict(_))), "{end:?}");
    world.check();

    world.registry.set_limit(Some(&guest), Quota::TransactionNodes, 1);
    let mut transaction = Transaction::default();
    client.run_in(&mut transaction, "/tool/x", Verb::GetPerms).unwrap();
    let second = client.run_in(&mut transaction, "/tool/x", Verb::GetPerms);
    assert_eq!(second, Err(Errno::ENOSPC));
}

#[test]
fn conflict_names_the_request_and_the_writer() {
    let (world, guest) = World::with_guest();
    let (mut client, mut control) = (world.client(&guest), world.control());
    client.write("/tool/x/a", "1").unwrap();
    client.write("/tool/x/b", "1").unwrap();
    let begun = |control: &mut Client| {
        let mut transaction = Transaction::default();
        control.run_in(&mut transaction, "/tool/x/a", Verb::Read).unwrap();
        control.write_in(&mut transaction, "/tool/x/b", "2").unwrap();
        transaction
    };
    let transaction = begun(&mut control);
    client.write("/tool/x/a", "changed").unwrap();
    let Err(failure) = control.commit(transaction) else {
        panic!("committed despite a conflicting write")
    };
    assert_eq!(commit_error(&failure), Errno::EAGAIN);
    let CommitError::Conflict(conflict) = failure else { panic!("{failure:?}") };
    assert_eq!((conflict.verb, conflict.path.as_path()), ("READ", at("/tool/x/a")));
    assert_eq!(conflict.changed_by, Some(Domid(5)));
    assert_eq!(control.read("/tool/x/b").unwrap(), "1");

    // A transaction whose snapshots are dropped continues, and commits if nothing that it saw differs.
    let mut transaction = begun(&mut control);
    client.write("/tool/x/c", "other").unwrap();
    transaction.give_up();
    assert_eq!(control.run_in(&mut transaction, "/tool/x/c", Verb::Read).unwrap(), b"other");
    control.commit(transaction).unwrap();
    let mut transaction = begun(&mut control);
    client.write("/tool/x/a", "again").unwrap();
    transaction.give_up();
    assert!(matches!(control.commit(transaction), Err(CommitError::Conflict(_))));

    // A long reply is compared by its hash.
    for (value, commits) in [("v".repeat(100), true), ("w".repeat(100), false)] {
        client.write("/tool/x/a", &"v".repeat(100)).unwrap();
        let transaction = begun(&mut control);
        client.write("/tool/x/a", &value).unwrap();
        assert_eq!(control.commit(transaction).is_ok(), commits);
    }
}

#[test]
fn events_are_published_once_and_in_order() {
    let (world, guest) = World::with_guest();
    let (mut client, mut control) = (world.client(&guest), world.control());
    for (path, seq) in [("/tool", 3), ("/tool/x", 1), ("/tool/x/a", 4), ("/tool/x/a/b", 2)] {
        world.watch(path, seq);
    }
    client.write("/tool/x/a/b", "").unwrap();
    let event = |seq, path: &str| (seq, path.to_owned());
    let path = "/tool/x/a/b";
    let all = [event(1, path), event(2, path), event(3, path), event(4, path)];
    assert_eq!(world.outlet.take_events(), all);
    client.run("/tool/x/a", Verb::Mkdir).unwrap();
    client.read("/tool/x/a").unwrap();
    assert!(world.outlet.take().is_empty());
    client.rm("/tool/x/a").unwrap();
    let a = "/tool/x/a";
    let removed = [event(1, a), event(2, path), event(3, a), event(4, a)];
    assert_eq!(world.outlet.take_events(), removed);
    let mut transaction = Transaction::default();
    for path in ["/tool/x/b", "/tool/x/a", "/tool/x/b"] {
        control.write_in(&mut transaction, path, "").unwrap();
    }
    assert!(world.outlet.take().is_empty());
    control.commit(transaction).unwrap();
    let b = "/tool/x/b";
    let committed = [event(1, b), event(3, b), event(1, a), event(3, a), event(4, a)];
    assert_eq!(world.outlet.take_events(), committed);
}

#[test]
fn only_a_guest_that_caused_events_holds_a_ticket() {
    let (world, guest) = World::with_guest();
    let unblocked: xenstored::store::Unblocked = Arc::new(|_: &Domain| {});
    let mut client = world.throttled(&guest, Some(unblocked));
    let write = || Verb::Write(Cow::Borrowed(b""));
    assert!(client.execute("/tool/x/a", write()).unwrap().1.ticket.is_none());
    world.watch("/tool/x", 1);
    let (_, executed) = client.execute("/tool/x/a", write()).unwrap();
    assert_eq!(guest.account.used(Quota::Outstanding), 1);
    drop(executed);
    assert_eq!(guest.account.used(Quota::Outstanding), 1, "the ticket is held until delivery");
    world.outlet.take();
    assert_eq!(guest.account.used(Quota::Outstanding), 0);
    assert!(world.client(&guest).execute("/tool/x/a", write()).unwrap().1.ticket.is_none());
}

#[test]
fn special_watches_match_by_depth() {
    let world = World::new();
    let special = std::str::from_utf8(RELEASE_DOMAIN).unwrap();
    world.watch_as(Domid(5), special, 1, None);
    world.watch_as(Domid(5), special, 2, Some(1));
    world.watch_as(Domid(5), special, 3, Some(0));
    world.watch_as(Domid(5), "@releaseDomain/7", 4, None);
    world.watch_as(Domid(5), "@introduceDomain", 5, None);
    let named = "@releaseDomain/7".to_owned();
    world.store.publish_special(RELEASE_DOMAIN, Domid(7));
    let expected = [(1, special.to_owned()), (2, named.clone()), (4, named.clone())];
    assert_eq!(world.outlet.take_events(), expected);
    world.store.publish_special(RELEASE_DOMAIN, Domid(8));
    let expected = [(1, special.to_owned()), (2, "@releaseDomain/8".to_owned())];
    assert_eq!(world.outlet.take_events(), expected);
    world.store.publish_special(b"@introduceDomain", Domid(7));
    assert!(world.outlet.take_events().is_empty(), "an event on an unreadable path");
}

/// A domain owns nodes in many places; its death removes all of them, and other domains' nodes below them.
#[test]
fn dead_domain_leaves_no_nodes() {
    let (world, guest) = World::with_guest();
    let other = world.admit(6);
    for path in ["/local/domain/5", "/local/domain/0/backend/vif/5", "/libxl/5", "/tool/a/b/c"] {
        world.control().write(path, "").unwrap();
        world.control().set_perms(path, "b5").unwrap();
    }
    world.client(&guest).write("/tool/x/deep/er", "").unwrap();
    world.client(&other).write("/local/domain/5/of6/x", "").unwrap();
    world.client(&other).write("/tool/x/of6", "").unwrap();
    world.control().set_perms("/tool/a/b", "n6").unwrap();
    world.check();
    world.watch("/libxl/5", 1);
    world.watch("/tool/x/deep/er", 2);
    world.die(&guest);
    world.check();
    let gone = [(1, "/libxl/5".to_owned()), (2, "/tool/x/deep/er".to_owned())];
    let mut events = world.outlet.take_events();
    events.sort();
    assert_eq!(events, gone);
    assert!(!world.has("/local/domain/5") && !world.has("/tool/x/deep"));
    assert!(world.has("/tool/x/of6") && world.has("/tool/a/b") && !world.has("/tool/a/b/c"));
    assert_eq!(other.account.used(Quota::Nodes), 2);
}

/// The next incarnation of a domid may become the owner of the dead one's nodes before these are swept.
#[test]
fn sweep_finds_nodes_below_those_of_the_next_incarnation() {
    for given in [&["n5"][..], &["n6", "n5"]] {
        let (world, first) = World::with_guest();
        world.admit(6);
        world.control().write("/tool/y", "").unwrap();
        world.control().set_perms("/tool/y", "n5").unwrap();
        world.client(&first).write("/tool/y/left/deep", "").unwrap();
        assert!(world.registry.bury(&first));
        let second = world.admit(5);
        for perms in given {
            world.control().set_perms("/tool/y", perms).unwrap();
        }
        world.sweep(&first);
        world.check();
        assert!(world.has("/tool/y") && !world.has("/tool/y/left"));
        assert_eq!(second.account.used(Quota::Nodes), 1);
    }
}

#[test]
fn partitions_are_pinned_until_no_transaction_reads_them() {
    let world = World::new();
    let pinned = || world.sizes().map(|sizes| sizes.pinned).collect::<Vec<_>>();
    world.control().write("/libxl/5/x", "first").unwrap();
    let mut open = Vec::new();
    for _ in 0..PINNED_PARTITIONS_MAX + 1 {
        assert!(!world.store.pins_too_much());
        let mut transaction = Transaction::default();
        for _ in 0..2 {
            world.control().run_in(&mut transaction, "/libxl/5/x", Verb::Read).unwrap();
        }
        open.push(transaction);
    }
    assert_eq!(pinned(), [0, PINNED_PARTITIONS_MAX + 1, 0]);
    assert!(world.store.pins_too_much());
    world.control().write("/libxl/5/x", "last").unwrap();
    // A transaction without snapshots pins nothing, and is replayed when it is used.
    open.iter_mut().for_each(Transaction::give_up);
    assert_eq!(pinned(), [0, 0, 0]);
    let mut first = open.swap_remove(0);
    let shown = world.control().run_in(&mut first, "/libxl/5/x", Verb::Read).unwrap();
    assert_eq!(shown, b"last");
    assert!(matches!(world.control().commit(first), Err(CommitError::Conflict(_))));
    assert_eq!(pinned(), [0, 0, 0]);
}

/// A transaction sees a partition as of one moment, and is not affected by changes of other partitions.
#[test]
fn partition_is_seen_as_it_was_when_first_touched() {
    let world = World::new();
    let mut control = world.control();
    for path in ["/libxl/5/x", "/libxl/5/y", "/libxl/7/x"] {
        control.write(path, "before").unwrap();
    }
    let read = |control: &mut Client, transaction: &mut Transaction, path| {
        control.run_in(transaction, path, Verb::Read).unwrap()
    };
    let mut transaction = Transaction::default();
    assert_eq!(read(&mut control, &mut transaction, "/libxl/5/x"), b"before");
    for path in ["/libxl/5/y", "/libxl/7/x"] {
        control.write(path, "after").unwrap();
    }
    assert_eq!(read(&mut control, &mut transaction, "/libxl/5/y"), b"before");
    assert_eq!(read(&mut control, &mut transaction, "/libxl/7/x"), b"after");
    assert!(matches!(control.commit(transaction), Err(CommitError::Conflict(_))));
}

/// A transaction that creates or removes a partition depends on the children that it saw in the directory that names
/// the partition, and on no other change in that directory.
#[test]
fn transactions_conflict_with_changes_of_partition_names_seen() {
    type Meanwhile = fn(&mut Client);
    let names_another: Meanwhile = |control| control.write("/local/domain/9", "").unwrap();
    let removes: Meanwhile = |control| control.rm("/local/domain").unwrap();
    let gives: Meanwhile = |control| control.set_perms("/local/domain", "n0 r5").unwrap();
    let names_it_too: Meanwhile = |control| control.write("/local/domain/8", "other").unwrap();
    let (named, list) = ("/local/domain/8", "/local/domain");
    let new = || Verb::Write(Cow::Borrowed(b"new"));
    for (verbs, meanwhile, commits, listed) in [
        (vec![(named, new())], names_another, true, "7|8|9|"),
        (vec![(named, new()), (list, Verb::Directory)], names_another, false, "7|9|"),
        (vec![(list, Verb::Directory), (named, new())], names_another, false, "7|9|"),
        (vec![(named, new()), (list, Verb::GetPerms)], names_another, true, "7|8|9|"),
        (vec![(named, new()), (named, Verb::Rm)], names_another, true, "7|9|"),
        (vec![(named, Verb::Rm), (named, new())], names_another, true, "7|8|9|"),
        (vec![(named, new()), ("/local/domain/7", Verb::Rm)], names_another, true, "8|9|"),
        (vec![(named, new())], removes, true, "8|"),
        (vec![(named, new())], gives, true, "7|8|"),
        (vec![(named, new())], names_it_too, true, "7|8|"),
        (vec![(named, Verb::Read)], names_it_too, false, "7|8|"),
        (vec![(named, Verb::Rm), (named, new())], removes, false, ""),
    ] {
        let world = World::new();
        let mut control = world.control();
        control.write("/local/domain/7", "").unwrap();
        let mut transaction = Transaction::default();
        for (path, verb) in verbs {
            let _ = control.run_in(&mut transaction, path, verb);
        }
        meanwhile(&mut control);
        assert_eq!(control.commit(transaction).is_ok(), commits, "{listed}");
        let names = control.run(list, Verb::Directory).unwrap_or_default();
        assert_eq!(String::from_utf8(names).unwrap().replace('\0', "|"), listed);
        // A node inherits the permissions that its parent has at the commit.
        if commits && meanwhile as usize == gives as usize {
            let shown = control.run(named, Verb::GetPerms).unwrap();
            assert_eq!(shown, b"n0\0r5\0");
        }
        world.check();
        assert!(check(&world.store).unwrap().findings.is_empty());
    }
}

#[test]
fn a_large_removal_is_settled_in_slices() {
    let (world, guest) = World::with_guest();
    world.registry.set_limit(Some(&guest), Quota::Nodes, 0);
    world.registry.set_limit(Some(&guest), Quota::Memory, 0);
    world.registry.set_limit(Some(&guest), Quota::NodeSize, 0);
    let mut client = world.client(&guest);
    for number in 0..INLINE_NODES_MAX {
        client.write(&format!("/tool/x/d/{number}"), "").unwrap();
    }
    world.check();
    let mut generations = Default::default();
    let op = xenstored::store::Op { path: at("/tool/x/d"), verb: Verb::Rm };
    let removed = world
        .store
        .execute(&client.caller, &op, &mut generations, &mut Vec::new())
        .unwrap_or_else(|errno| panic!("{errno}"))
        .removed;
    let rest = world.store.settle(removed).expect("the removal exceeds one slice");
    assert_eq!(guest.account.used(Quota::Nodes), 1);
    let (done, finished) = std::sync::mpsc::channel();
    world.store.reap(rest, Box::new(move || done.send(()).unwrap()));
    let (store, queue) = (Arc::downgrade(&world.store), world.queue.clone());
    let reaper = std::thread::spawn(move || xenstored::store::run_reaper(&store, &queue));
    finished.recv().unwrap();
    world.check();
    assert!(check(&world.store).unwrap().findings.is_empty());
    drop((world, client));
    reaper.join().unwrap();
}

#[test]
fn snapshot_of_the_store_has_every_shard() {
    let world = World::new();
    for domid in 4..6 {
        world.control().write(&format!("/libxl/{domid}"), "").unwrap();
    }
    let trees = world.store.snapshot_all();
    assert_eq!(trees.len(), 3);
    for (tree, shard) in trees.iter().zip(0..) {
        let partitions =
            |tree: &Tree| tree.partitions().map(|(path, _)| path.clone()).collect::<Vec<_>>();
        assert_eq!(partitions(tree), partitions(&world.store.snapshot(ShardId(shard))));
    }
}

/// Watches as a control domain's kernel and daemons set them, above all that a toolstack creates.
fn watch_broadly(world: &World) {
    let watched = ["/", "/local/domain", "/local/domain/0/backend", "/libxl", "/vm"];
    (0..).zip(watched).for_each(|(seq, path)| _ = world.watch(path, seq));
}

/// Creates `count` nodes of a new domain and its backends in one transaction.
fn create_domain(world: &World, count: usize) {
    let (mut control, mut transaction) = (world.control(), Transaction::default());
    let (front, back) = ("/local/domain/7/device/vif", "/local/domain/0/backend/vif/7");
    for node in 0..count {
        let path = format!("{}/{}/{}", [front, back][node % 2], node / 20, node % 20);
        control.write_in(&mut transaction, &path, "value").unwrap();
    }
    control.commit(transaction).unwrap();
}

/// The matcher is one thread, so what is common must not have to wait for it.
#[test]
fn events_of_a_created_domain_when_all_is_watched_need_no_matcher() {
    let world = World::new();
    watch_broadly(&world);
    create_domain(&world, 200);
    assert_eq!(world.find_events(), 0);
    assert_eq!(world.outlet.take_events().len(), 200 * 2 + 100, "of the backends' watch too");
}

#[test]
fn events_of_common_requests_are_found_under_their_locks() {
    let mut world = World::new();
    Arc::get_mut(&mut world.store).unwrap().set_looks_max(LOOKS_MAX, 0);
    watch_broadly(&world);
    create_domain(&world, 16);
    assert_eq!(world.outlet.take_events().len(), 16 * 2 + 8);
    let path = "/local/domain/7/device/vif/0/0";
    let everyone_reads = "r0";
    world.control().set_perms(path, everyone_reads).unwrap();
    for domid in 10..30 {
        world.admit(domid);
        world.watch_as(Domid(domid), path, u64::from(domid), None);
    }
    world.outlet.take();
    world.control().write(path, "other").unwrap();
    assert_eq!(world.outlet.take_events().len(), 20 + 2);
    world.control().rm("/local/domain/7").unwrap();
    assert_eq!(world.find_events(), 0, "the matcher got work");
}

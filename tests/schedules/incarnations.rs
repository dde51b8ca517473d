//! Creation, death and re-creation of domains while other threads work.

use super::*;

#[test]
fn permissions_of_one_incarnation_are_not_those_of_the_next() {
    explore(|| {
        let world = World::new();
        let first = world.admit(5);
        world.control().write("/tool/x/a", "secret").unwrap();
        world.control().write("/tool/x/b", "secret").unwrap();
        let (stamp, second) = (Mutex::new(0), Mutex::new(None));
        at_once!(
            || {
                let mut toolstack = world.control();
                let mut transaction = Transaction::default();
                let now = world.registry.now();
                *stamp.lock().unwrap() = now;
                for (path, entries) in [("/tool/x/a", "n0 r5"), ("/tool/x/b", "n5")] {
                    let verb = Verb::SetPerms(perms(now, entries));
                    let _ = toolstack.run_in(&mut transaction, path, verb);
                }
                let _ = toolstack.commit(transaction);
            },
            || {
                world.die(&first);
                *second.lock().unwrap() = Some(world.admit(5));
            },
        );
        world.check();
        let second = second.lock().unwrap().take().unwrap();
        if *stamp.lock().unwrap() < second.birth {
            for path in ["/tool/x/a", "/tool/x/b"] {
                assert!(
                    world.client(&second).read(path).is_err(),
                    "the next incarnation can read {path}"
                );
            }
        }
    });
}

#[test]
fn nodes_of_one_incarnation_never_belong_to_the_next() {
    explore(|| {
        let world = World::new();
        let first = world.admit(5);
        world.control().write("/tool/x", "").unwrap();
        world.control().set_perms("/tool/x", "b0").unwrap();
        at_once!(
            || _ = world.client(&first).write("/tool/x/a", "of the first"),
            || world.die(&first),
            || drop(world.admit(5)),
        );
        world.check();
        if let Some(second) = world.registry.get(Domid(5)) {
            assert_eq!(second.account.used(Quota::Nodes), 0, "the next incarnation owns nodes");
        }
    });
}

#[test]
fn a_commit_after_its_owners_death_leaves_nothing() {
    explore(|| {
        let world = World::new();
        let guest = world.admit(5);
        world.control().write("/tool/x", "").unwrap();
        world.control().set_perms("/tool/x", "b0").unwrap();
        world.control().write("/local/domain/5", "").unwrap();
        world.control().set_perms("/local/domain/5", "n5").unwrap();
        at_once!(
            || {
                let mut client = world.client(&guest);
                let mut transaction = Transaction::default();
                for path in ["/local/domain/5/data/a", "/tool/x/a"] {
                    let _ = client.write_in(&mut transaction, path, "");
                }
                let _ = client.commit(transaction);
            },
            || world.die(&guest),
            || {
                let mut toolstack = world.control();
                let mut transaction = Transaction::default();
                let given = Verb::SetPerms(perms(world.registry.now(), "n5"));
                toolstack.write_in(&mut transaction, "/libxl/5/given", "").unwrap();
                let _ = toolstack.run_in(&mut transaction, "/libxl/5/given", given);
                let _ = toolstack.commit(transaction);
            },
        );
        world.check();
        assert!(!world.has("/local/domain/5/data/a") && !world.has("/tool/x/a"));
    });
}

/// Nodes below a node that changes its owner become topmost nodes of the dead domain while that is being swept.
#[test]
fn owner_change_during_a_sweep_keeps_the_store_consistent() {
    explore(|| {
        let world = World::new();
        let guest = world.admit(5);
        world.control().write("/local/domain/5", "").unwrap();
        world.control().set_perms("/local/domain/5", "n5").unwrap();
        world.client(&guest).write("/local/domain/5/a/b", "").unwrap();
        at_once!(
            || world.die(&guest),
            || _ = world.control().set_perms("/local/domain/5", "n0"),
            || {
                let mut toolstack = world.control();
                let mut transaction = Transaction::default();
                let taken = Verb::SetPerms(perms(world.registry.now(), "n0"));
                let _ = toolstack.run_in(&mut transaction, "/local/domain/5/a", taken);
                let _ = toolstack.commit(transaction);
            },
        );
        world.check();
    });
}

/// A domain's connection ends and begins again, in sequence with its requests, while other threads write the nodes that
/// it watches and read the events that it caused. No ticket is left, a blocked domain is always notified when it may
/// continue, and the new connection gets no event of the old one's watches.
#[test]
fn release_during_requests_leaves_no_ticket_and_no_old_watch() {
    explore(|| {
        let world = World::new();
        let guest = world.admit(5);
        world.registry.set_limit(Some(&guest), Quota::Outstanding, 1);
        world.control().write("/local/domain/5", "").unwrap();
        world.control().set_perms("/local/domain/5", "n5").unwrap();
        world.watch("/local/domain/5/data", 1);
        let old = world.watch_as(Domid(5), "/local/domain/5/watched", 2, None);
        guest.set_presence(xenstored::types::Presence::Running);
        let notified = Arc::new((Mutex::new(false), Condvar::new()));
        let unblocked = {
            let notified = Arc::clone(&notified);
            xenstored::sync::Arc::new(move |_: &xenstored::domain::Domain| {
                *notified.0.lock().unwrap() = true;
                notified.1.notify_all();
            })
        };
        let done = shuttle::sync::atomic::AtomicBool::new(false);
        at_once!(
            || {
                let mut client = world.throttled(&guest, Some(unblocked.clone()));
                for _ in 0..2 {
                    let verb = Verb::Write(Cow::Borrowed(b"x"));
                    let (_, executed) = client.execute("/local/domain/5/data", verb).unwrap();
                    drop(executed.ticket);
                    let mut may_go_on = notified.0.lock().unwrap();
                    while guest.account.used(Quota::Outstanding) >= 1 && !*may_go_on {
                        may_go_on = notified.1.wait(may_go_on).unwrap();
                    }
                    *may_go_on = false;
                }
                guest.set_presence(xenstored::types::Presence::Absent);
                assert!(world.store.unwatch(world::at("/local/domain/5/watched"), old));
                guest.set_presence(xenstored::types::Presence::Running);
                world.watch_as(Domid(5), "/local/domain/5/other", 3, None);
                done.store(true, Ordering::SeqCst);
            },
            || {
                while !done.load(Ordering::SeqCst) {
                    drop(world.outlet.take());
                    shuttle::thread::yield_now();
                }
            },
            || world.control().write("/local/domain/5/watched", "").unwrap(),
        );
        drop(world.outlet.take());
        assert_eq!(guest.account.used(Quota::Outstanding), 0);
        world.control().write("/local/domain/5/watched", "").unwrap();
        world.control().write("/local/domain/5/other", "").unwrap();
        let seqs: Vec<_> = world.outlet.take_events().iter().map(|(seq, _)| *seq).collect();
        assert_eq!(seqs, [3]);
        world.check();
    });
}

/// Two threads register domains and use them: neither sees a half-registered domain.
#[test]
fn birth_is_seen_atomically() {
    explore(|| {
        let world = World::new();
        let give = |path: &str| {
            let domain = world.registry.admit(Domid(5), 1).unwrap();
            assert!(world.registry.births().holds(Domid(5), world.registry.now()));
            assert_eq!(world.registry.get(Domid(5)).unwrap().birth, domain.birth);
            let mut toolstack = world.control();
            toolstack.write(path, "").unwrap();
            toolstack.set_perms(path, "n5").unwrap();
        };
        let known = || {
            if world.registry.get(Domid(5)).is_some() {
                assert!(world.registry.births().holds(Domid(5), world.registry.now()));
            }
        };
        at_once!(|| give("/libxl/4"), || give("/libxl/5"), known);
        world.check();
    });
}

/// The next incarnation of a domid becomes the owner of nodes that are being swept for the previous one.
#[test]
fn domid_reuse_during_a_sweep_keeps_the_store_consistent() {
    explore(|| {
        let world = World::new();
        let first = world.admit(5);
        world.control().write("/tool/x", "").unwrap();
        world.control().set_perms("/tool/x", "n5").unwrap();
        world.client(&first).write("/tool/x/a/b", "").unwrap();
        at_once!(|| world.die(&first), || {
            world.admit(5);
            let _ = world.control().set_perms("/tool/x", "n5");
        },);
        world.check();
    });
}

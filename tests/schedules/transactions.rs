//! Concurrent commits.

use super::nodes::cause_and_consequence;
use super::*;

#[test]
fn event_of_a_commit_precedes_that_of_its_consequence() {
    cause_and_consequence(|world| {
        let mut toolstack = world.control();
        let mut transaction = Transaction::default();
        toolstack.write_in(&mut transaction, "/libxl/4/cause", "").unwrap();
        toolstack.commit(transaction).unwrap();
    });
}

#[test]
fn quota_holds_across_concurrent_transactions() {
    explore(|| {
        let world = World::new();
        let guest = world.admit(5);
        world.control().write("/tool/x", "").unwrap();
        world.control().set_perms("/tool/x", "b0").unwrap();
        world.registry.set_limit(Some(&guest), Quota::Nodes, 2);
        let commit = |paths: [&str; 2]| {
            let mut client = world.client(&guest);
            let mut transaction = Transaction::default();
            for path in paths {
                let _ = client.write_in(&mut transaction, path, "");
            }
            let _ = client.commit(transaction);
        };
        at_once!(
            || commit(["/tool/x/a", "/tool/x/b"]),
            || commit(["/tool/x/c", "/tool/x/d"]),
            || _ = world.client(&guest).write("/tool/x/e", ""),
        );
        assert!(guest.account.used(Quota::Nodes) <= 2);
        world.check();
    });
}

#[test]
fn xsa_440_concurrent_removals_of_the_same_nodes_credit_once() {
    explore(|| {
        let world = World::new();
        let guest = world.admit(5);
        world.control().write("/tool/x", "").unwrap();
        world.control().set_perms("/tool/x", "b0").unwrap();
        for path in ["/tool/x/a", "/tool/x/a/b", "/tool/x/c"] {
            world.client(&guest).write(path, "value").unwrap();
        }
        let remove = |mut client: world::Client, write: bool| {
            let mut transaction = Transaction::default();
            client.run_in(&mut transaction, "/tool/x/a", Verb::Rm).unwrap();
            client.run_in(&mut transaction, "/tool/x/c", Verb::Rm).unwrap();
            if write {
                client.write_in(&mut transaction, "/tool/x/c", "again").unwrap();
            }
            match client.commit(transaction) {
                Ok(()) | Err(CommitError::Conflict(_)) => {}
                Err(failure) => {
                    panic!("neither a quota, a reservation nor a limit applies: {failure:?}")
                }
            }
        };
        at_once!(
            || remove(world.client(&guest), false),
            || remove(world.client(&guest), true),
            || remove(world.control(), false),
        );
        world.check();
    });
}

#[test]
fn independent_transactions_never_conflict() {
    explore(|| {
        let world = World::new();
        world.control().write("/tool/x/c", "").unwrap();
        let commit = |path: &str| {
            let mut client = world.control();
            let mut transaction = Transaction::default();
            client.write_in(&mut transaction, path, "new").unwrap();
            client.run_in(&mut transaction, path, Verb::Read).unwrap();
            client.commit(transaction).unwrap();
        };
        at_once!(|| commit("/tool/x/a"), || commit("/tool/x/b"), || world
            .control()
            .write("/tool/x/c", "written")
            .unwrap(),);
        for (path, value) in [("/tool/x/a", "new"), ("/tool/x/b", "new"), ("/tool/x/c", "written")]
        {
            assert_eq!(world.control().read(path).unwrap(), value);
        }
        world.check();
    });
}

/// No increment is lost: none starts from a value that another one has replaced.
#[test]
fn overlapping_transactions_are_serializable() {
    explore(|| {
        let world = World::new();
        world.control().write("/libxl/4/n", "0").unwrap();
        world.control().write("/libxl/5/n", "0").unwrap();
        let increment = || {
            let mut client = world.control();
            loop {
                let mut transaction = Transaction::default();
                for path in ["/libxl/4/n", "/libxl/5/n"] {
                    let value = client.run_in(&mut transaction, path, Verb::Read).unwrap();
                    let value: u32 = String::from_utf8(value).unwrap().parse().unwrap();
                    client.write_in(&mut transaction, path, &(value + 1).to_string()).unwrap();
                }
                if client.commit(transaction).is_ok() {
                    return;
                }
            }
        };
        at_once!(increment, increment, increment);
        assert_eq!(world.control().read("/libxl/4/n").unwrap(), "3");
        assert_eq!(world.control().read("/libxl/5/n").unwrap(), "3");
    });
}

/// A transaction with a reservation commits: other writers either were checked before the reservation began, and are
/// refused, or they wait.
#[test]
fn transaction_with_a_reservation_commits() {
    const PATH: &str = "/tool/x";
    explore(|| {
        let world = World::new();
        world.control().write(PATH, "0").unwrap();
        // Time does not advance, so no reservation times out.
        let (shared, now) = (SharedReservations::default(), Instant::now());
        let reply_to = |connection| ReplyTo { thread: 0, connection, id: 1 };
        let change = |client: &mut world::Client, transaction: &mut Transaction| {
            client.run_in(transaction, PATH, Verb::Read).unwrap();
            client.write_in(transaction, PATH, "changed").unwrap();
        };
        let commits_with_reservation = |number| {
            let (mut client, reply_to) = (world.control(), reply_to(number));
            let paths = [world::at(PATH).to_buf()];
            let (claim, _) = shared
                .with(&world.store, now, |reservations| reservations.ask(reply_to, &paths, now));
            if claim == Claim::Held {
                client.caller.epoch = world.store.epoch();
                let mut transaction = Transaction::default();
                change(&mut client, &mut transaction);
                client.commit(transaction).unwrap();
            }
            shared.with(&world.store, now, |reservations| reservations.leave(reply_to, now));
        };
        // Executes the request like a worker, except that a client that would have to wait gives up.
        let waits = |client: &mut world::Client, number| {
            client.caller.epoch = world.store.epoch();
            let wait = |reservations: &mut Reservations| {
                reservations.wait(reply_to(number), [world::at(PATH)]).is_some()
            };
            shared.any() && shared.with(&world.store, now, wait).0
        };
        at_once!(
            || commits_with_reservation(1),
            || commits_with_reservation(2),
            || {
                let mut client = world.control();
                while !waits(&mut client, 3)
                    && client.attempt_write(PATH, "3") == Err(StoreError::StaleEpoch)
                {
                }
            },
            || {
                let mut client = world.control();
                let mut transaction = Transaction::default();
                change(&mut client, &mut transaction);
                while !waits(&mut client, 4) {
                    match client.commit(transaction) {
                        Err(CommitError::StaleEpoch(again)) => transaction = *again,
                        _ => break,
                    }
                }
            },
        );
    });
}

/// An END that lost too many races reserves the partitions, and loses no other race in the reservation.
#[test]
fn end_in_a_reservation_loses_no_race() {
    const PATH: &str = "/tool/x";
    explore(|| {
        let world = World::new();
        world.control().write(PATH, "same").unwrap();
        // Time does not advance, so no reservation times out.
        let (shared, now) = (SharedReservations::default(), Instant::now());
        let reply_to = |connection| ReplyTo { thread: 0, connection, id: 1 };
        let begin = || {
            let mut transaction = Transaction::default();
            world.control().run_in(&mut transaction, PATH, Verb::Read).unwrap();
            transaction
        };
        let transactions = [begin(), begin()];
        // Each END compares with this, and loses its first race.
        world.control().write(PATH, "same").unwrap();
        let commit = |number, mut transaction: Transaction| {
            let (mut client, reply_to) = (world.control(), reply_to(number));
            let path = "/tool/x/a";
            client.write_in(&mut transaction, path, "").unwrap();
            client.caller.epoch = world.store.epoch();
            let mut claim = Claim::Refused;
            let mut end = client.attempt_commit(transaction);
            loop {
                let transaction = match end {
                    Ok(()) => break,
                    // As in the next pass: the caller is admitted in the new epoch.
                    Err(CommitError::StaleEpoch(again)) => again,
                    Err(CommitError::Contended(again)) => {
                        assert_ne!(claim, Claim::Held, "a race was lost in a reservation");
                        let ask = |reservations: &mut Reservations| {
                            reservations.ask(reply_to, again.contended(), now)
                        };
                        claim = shared.with(&world.store, now, ask).0;
                        again
                    }
                    Err(failure) => panic!("no reply differs: {failure:?}"),
                };
                // A client that would have to wait gives up.
                let waits = |reservations: &mut Reservations| {
                    reservations.wait(reply_to, [world::at(path)]).is_some()
                };
                client.caller.epoch = world.store.epoch();
                if shared.any() && shared.with(&world.store, now, waits).0 {
                    break;
                }
                end = client.attempt_commit(*transaction);
            }
            shared.with(&world.store, now, |reservations| reservations.leave(reply_to, now));
        };
        let [first, second] = transactions;
        at_once!(|| commit(1, first), || commit(2, second), || {
            let mut client = world.control();
            for _ in 0..3 {
                client.caller.epoch = world.store.epoch();
                let wait = |reservations: &mut Reservations| {
                    reservations.wait(reply_to(3), [world::at(PATH)]).is_some()
                };
                if shared.any() && shared.with(&world.store, now, wait).0 {
                    return;
                }
                let _ = client.attempt_write(PATH, "same");
            }
        });
    });
}

/// A transaction that begins between a removal and its settlement restores no stale index.
#[test]
fn transaction_begun_before_a_settlement_restores_no_index() {
    explore(|| {
        let world = World::new();
        let guest = world.admit(5);
        for path in ["/tool/x/a", "/tool/x/b"] {
            world.control().write(path, "").unwrap();
            world.control().set_perms(path, "n5").unwrap();
        }
        at_once!(
            || world.control().rm("/tool/x/a").unwrap(),
            || {
                let mut toolstack = world.control();
                let mut transaction = Transaction::default();
                toolstack.write_in(&mut transaction, "/tool/x/c", "").unwrap();
                toolstack.commit(transaction).unwrap();
            },
            || {
                let mut transaction = Transaction::default();
                let mut client = world.client(&guest);
                let _ = client.run_in(&mut transaction, "/tool/x/b", Verb::Rm);
                let _ = client.commit(transaction);
            },
        );
        world.check();
    });
}

//! The store under a scheduler that explores the orders of its threads.
//!
//! `cargo test --features shuttle --test schedules`. The locks and atomics of the production code
//! are shuttle's then (src/sync.rs); everything else is as it is. A failure prints its schedule:
//! `SCHEDULE=<what was printed>` with the test's name runs just that one again. `SCHEDULES=n` sets
//! how many a test runs with each of the two schedulers, instead of 1,000.
#![cfg(feature = "shuttle")]

mod world;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use shuttle::sync::{Condvar, Mutex};
use shuttle::thread::scope;
use world::{World, perms};
use xenstored::domain::{Domain, Quota};
use xenstored::shard::{Answer, Asker, Gathered, Guards, Share, Signal, Turns, shares};
use xenstored::store::{Failure, Removed, TURN_BEGAN, Transaction, Verb};
use xenstored::words::{Domid, Errno};

/// How many orders each scheduler tries in a test.
const SCHEDULES: usize = 1000;
/// How many times PCT changes the priorities: it finds every race that takes fewer changes than
/// this with a known probability.
const PRIORITY_CHANGES: usize = 3;

fn explore(test: impl Fn() + Send + Sync + 'static) {
    let test = Arc::new(test);
    let run = {
        let test = Arc::clone(&test);
        move || test()
    };
    if let Ok(schedule) = std::env::var("SCHEDULE") {
        return shuttle::replay(run, &schedule);
    }
    let schedules = std::env::var("SCHEDULES").ok().and_then(|n| n.parse().ok());
    let schedules = schedules.unwrap_or(SCHEDULES);
    shuttle::check_pct(run, schedules, PRIORITY_CHANGES);
    shuttle::check_random(move || test(), schedules);
}

/// Two or three threads at once.
macro_rules! at_once {
    ($($work:expr),+ $(,)?) => {
        scope(|scope| { $(scope.spawn($work);)+ })
    };
}

#[test]
fn permissions_set_for_one_life_are_not_the_next_ones() {
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
                assert!(world.client(&second).read(path).is_err(), "{path} is read");
            }
        }
    });
}

#[test]
fn what_a_life_creates_is_never_the_next_ones() {
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
            assert_eq!(second.account.used(Quota::Nodes), 0, "the second life created nothing");
        }
    });
}

#[test]
fn a_home_made_while_its_parent_is_removed() {
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

#[test]
fn an_event_is_never_overtaken_by_one_that_it_led_to() {
    explore(|| {
        let world = World::new();
        world.watch("/libxl/4", 1);
        world.watch("/libxl/5", 2);
        at_once!(|| world.control().write("/libxl/4/cause", "").unwrap(), || {
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
fn a_commits_event_is_never_overtaken_either() {
    explore(|| {
        let world = World::new();
        world.watch("/libxl/4", 1);
        world.watch("/libxl/5", 2);
        at_once!(
            || {
                let mut toolstack = world.control();
                let mut transaction = Transaction::default();
                toolstack.write_in(&mut transaction, "/libxl/4/cause", "").unwrap();
                toolstack.commit(transaction).unwrap();
            },
            || {
                let mut other = world.control();
                if other.read("/libxl/4/cause").is_ok() {
                    other.write("/libxl/5/consequence", "").unwrap();
                }
            },
        );
        let events: Vec<_> = world.outlet.take_events().into_iter().map(|(seq, _)| seq).collect();
        assert!(events == [1] || events == [1, 2], "{events:?}");
    });
}

/// The place of a watch is used again after UNWATCH; by its number an event of the old one is
/// told from one of the new. Watches of a shard and of the upper trie.
#[test]
fn after_unwatch_an_old_event_finds_nobody() {
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
            // What the new watch is told lies where it was set.
            for (_, path) in world.outlet.take_events().iter().filter(|(seq, _)| *seq == 2) {
                assert!(world::at(path).is_within(world::at(paths[1])), "{path}");
            }
            // Both are over, so the old one is told nothing more and the new one everything.
            world.control().write("/libxl/4/x", "").unwrap();
            world.control().write("/libxl/5/x", "").unwrap();
            world.control().write("/local/domain/4/x", "").unwrap();
            let seqs: Vec<_> = world.outlet.take_events().iter().map(|(seq, _)| *seq).collect();
            assert_eq!(seqs, [2]);
        });
    }
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

/// What lies below a node that changes hands becomes a beginning of the dead domain's nodes while
/// these are being swept.
#[test]
fn a_node_changes_hands_while_its_owner_is_swept() {
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

#[test]
fn a_cut_shows_all_of_a_commit_or_nothing() {
    explore(|| {
        let world = World::new();
        let value = |tree: &xenstored::store::Tree, path: &str| {
            let home = world.store.layout().home(world::at(path));
            tree.get(&home, world::at(path)).map(|node| node.value().to_vec())
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
                let cut = world.store.cut();
                assert_eq!(value(&cut[0], "/libxl/4/v"), value(&cut[1], "/libxl/5/v"));
            },
        );
        world.check();
    });
}

/// A domain's connection ends and begins again, which is serial with its requests, while others
/// write what it watches and take the events that it caused. No ticket stays, a blocked domain is
/// always told when it may go on, and the new connection sees nothing of the old one's watches.
#[test]
fn release_while_the_domains_requests_run() {
    explore(|| {
        let world = World::new();
        let guest = world.admit(5);
        world.registry.set_limit(Some(&guest), Quota::Outstanding, 1);
        world.control().write("/local/domain/5", "").unwrap();
        world.control().set_perms("/local/domain/5", "n5").unwrap();
        world.watch("/local/domain/5/data", 1);
        let old = world.watch_as(Domid(5), "/local/domain/5/told", 2, None);
        guest.set_introduced(true);
        let told = Arc::new((Mutex::new(false), Condvar::new()));
        let unblocked = {
            let told = Arc::clone(&told);
            xenstored::sync::Arc::new(move |_: &xenstored::domain::Domain| {
                *told.0.lock().unwrap() = true;
                told.1.notify_all();
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
                    let mut may_go_on = told.0.lock().unwrap();
                    while guest.account.used(Quota::Outstanding) >= 1 && !*may_go_on {
                        may_go_on = told.1.wait(may_go_on).unwrap();
                    }
                    *may_go_on = false;
                }
                guest.set_introduced(false);
                assert!(world.store.unwatch(world::at("/local/domain/5/told"), old));
                guest.set_introduced(true);
                world.watch_as(Domid(5), "/local/domain/5/other", 3, None);
                done.store(true, Ordering::SeqCst);
            },
            || {
                while !done.load(Ordering::SeqCst) {
                    drop(world.outlet.take());
                    shuttle::thread::yield_now();
                }
            },
            || world.control().write("/local/domain/5/told", "").unwrap(),
        );
        drop(world.outlet.take());
        assert_eq!(guest.account.used(Quota::Outstanding), 0);
        world.control().write("/local/domain/5/told", "").unwrap();
        world.control().write("/local/domain/5/other", "").unwrap();
        let seqs: Vec<_> = world.outlet.take_events().iter().map(|(seq, _)| *seq).collect();
        assert_eq!(seqs, [3]);
        world.check();
    });
}

#[test]
fn a_quota_lets_exactly_so_many_through() {
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

#[test]
fn a_quota_holds_over_transactions() {
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
fn xsa_440_two_transactions_remove_the_same_nodes() {
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
                Ok(()) | Err(Failure::Conflict(_)) => {}
                Err(Failure::Quota | Failure::Turn(_)) => panic!("there is room, and no turn"),
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
fn transactions_that_share_nothing_never_conflict() {
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

/// Every increment counts: none is made on a value that another has replaced.
#[test]
fn transactions_that_share_something_are_serial() {
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

/// Whoever's turn it is commits: what others write or commit, they asked whether they may before it
/// began, and then they are refused, or they wait.
#[test]
fn in_its_turn_a_transaction_commits() {
    const PATH: &str = "/tool/x";
    explore(|| {
        let world = World::new();
        world.control().write(PATH, "0").unwrap();
        // So early that no turn is ever over for its time.
        let (guards, now) = (Guards::default(), Instant::now());
        let asker = |connection| Asker { thread: 0, connection, id: 1 };
        let change = |client: &mut world::Client, transaction: &mut Transaction| {
            client.run_in(transaction, PATH, Verb::Read).unwrap();
            client.write_in(transaction, PATH, "changed").unwrap();
        };
        let takes_a_turn = |number| {
            let (mut client, asker) = (world.control(), asker(number));
            let paths = [world::at(PATH).to_buf()];
            let (answer, _) = guards.with(&world.store, now, |turns| turns.ask(asker, &paths, now));
            if answer == Answer::Yours {
                client.caller.turn = world.store.turn();
                let mut transaction = Transaction::default();
                change(&mut client, &mut transaction);
                client.commit(transaction).unwrap();
            }
            guards.with(&world.store, now, |turns| turns.leave(asker, now));
        };
        // As a thread does it; who has to wait gives up.
        let waits = |client: &mut world::Client, number| {
            client.caller.turn = world.store.turn();
            let wait = |turns: &mut Turns| turns.wait(asker(number), [world::at(PATH)]).is_some();
            guards.any() && guards.with(&world.store, now, wait).0
        };
        at_once!(
            || takes_a_turn(1),
            || takes_a_turn(2),
            || {
                let mut client = world.control();
                while !waits(&mut client, 3) && client.write(PATH, "3") == Err(TURN_BEGAN) {}
            },
            || {
                let mut client = world.control();
                let mut transaction = Transaction::default();
                change(&mut client, &mut transaction);
                while !waits(&mut client, 4) {
                    match client.commit(transaction) {
                        Err(Failure::Turn(again)) => transaction = *again,
                        _ => break,
                    }
                }
            },
        );
    });
}

/// A transaction that begins between a removal and its settlement brings no stale index back.
#[test]
fn a_transaction_begun_before_a_settlement() {
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

/// Domains that are made known and used by two at once: nobody sees half of a birth.
#[test]
fn a_birth_is_seen_whole() {
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

/// A number's next life is given what the last one left, while that is swept.
#[test]
fn a_number_is_given_away_while_its_last_life_is_swept() {
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

/// What a domain's home thread is told.
enum Told {
    Request,
    Settled,
    Quiesce(Share),
    Unquiesce,
    Death,
    Stop,
}

/// A queue whose reader waits.
struct Queue<T>(Mutex<VecDeque<T>>, Condvar);

impl<T> Queue<T> {
    fn new() -> Queue<T> {
        Queue(Mutex::new(VecDeque::new()), Condvar::new())
    }

    fn push(&self, item: T) {
        self.0.lock().unwrap().push_back(item);
        self.1.notify_one();
    }

    fn pop(&self) -> T {
        let mut items = self.0.lock().unwrap();
        loop {
            match items.pop_front() {
                Some(item) => return item,
                None => items = self.1.wait(items).unwrap(),
            }
        }
    }
}

/// A domain's home thread, as src/shard/quiesce.rs has it: each request removes a node, and is done
/// when the reaper has settled that; QUIESCE waits for the one that is under way, and for no other.
fn home_thread(
    world: &World,
    guest: &xenstored::sync::Arc<Domain>,
    told: &Queue<Told>,
    reaper: &Queue<Option<Vec<Removed>>>,
) {
    let mut client = world.client(guest);
    let (mut unread, mut parked, mut quiesce) = (0, false, None::<Vec<Share>>);
    let mut connected = true;
    loop {
        match told.pop() {
            Told::Request => unread += 1,
            Told::Settled => {
                parked = false;
                let waiting = quiesce.as_mut().map(std::mem::take).unwrap_or_default();
                waiting.into_iter().for_each(Share::done);
            }
            Told::Quiesce(share) if !connected => drop(share),
            Told::Quiesce(share) => {
                let waiting = quiesce.get_or_insert_default();
                if parked { waiting.push(share) } else { share.done() }
            }
            Told::Unquiesce => quiesce = None,
            Told::Death => {
                // Its connection first, and with it who waits.
                (connected, quiesce) = (false, None);
                world.die(guest);
            }
            Told::Stop => break,
        }
        if unread > 0 && !parked && quiesce.is_none() && connected {
            (unread, parked) = (unread - 1, true);
            reaper.push(Some(client.begin_rm("/local/domain/5/a").unwrap()));
        }
    }
    reaper.push(None);
}

/// A domain with a node, its home thread and a reaper; `others` are what tells it something, and
/// are given a function that asks for QUIESCE and answers what came of it.
fn with_home_thread(
    others: impl Fn(&World, &Queue<Told>, &(dyn Fn() -> Gathered + Sync)) + Send + Sync + 'static,
) {
    explore(move || {
        let world = World::new();
        let guest = world.admit(5);
        world.control().write("/local/domain/5", "").unwrap();
        world.control().set_perms("/local/domain/5", "n5").unwrap();
        world.client(&guest).write("/local/domain/5/a/b", "").unwrap();
        let (told, removals) = (Queue::new(), Queue::new());
        let quiesce = || {
            let answers = Arc::new(Queue::new());
            let answer = Arc::clone(&answers);
            for share in shares(&[Domid(5)], move |gathered| answer.push(gathered)) {
                told.push(Told::Quiesce(share));
            }
            let answer = answers.pop();
            assert!(answers.0.lock().unwrap().is_empty(), "answered twice");
            answer
        };
        at_once!(
            || home_thread(&world, &guest, &told, &removals),
            || while let Some(removed) = removals.pop() {
                assert!(world.store.settle(removed).is_none());
                told.push(Told::Settled);
            },
            || told.push(Told::Request),
            || others(&world, &told, &quiesce),
        );
        world.check();
    });
}

/// When QUIESCE is answered, what the domain did is done to the last account, and nothing more of
/// it happens before UNQUIESCE.
#[test]
fn quiesce_waits_for_the_domains_running_request() {
    with_home_thread(|world, told, quiesce| {
        assert_eq!(quiesce(), Ok(vec![]));
        world.check();
        let there = world.has("/local/domain/5/a");
        shuttle::thread::yield_now();
        assert_eq!(world.has("/local/domain/5/a"), there);
        told.push(Told::Unquiesce);
        told.push(Told::Stop);
    });
}

/// However QUIESCE and a death meet, it is answered, once.
#[test]
fn quiesce_and_death() {
    with_home_thread(|_, told, quiesce| {
        scope(|scope| {
            scope.spawn(|| {
                let answer = quiesce();
                assert!(answer == Ok(vec![]) || answer == Err(Errno::ENOENT), "{answer:?}");
            });
            scope.spawn(|| told.push(Told::Death));
        });
        told.push(Told::Stop);
    });
}

/// Two threads that end the last two shares: one of them answers, for both.
#[test]
fn two_home_threads_give_one_answer() {
    explore(|| {
        let answers = Arc::new(Queue::new());
        let answer = Arc::clone(&answers);
        let both = shares(&[Domid(4), Domid(5)], move |gathered| answer.push(gathered));
        let [four, five] = <[Share; 2]>::try_from(both).ok().unwrap();
        at_once!(move || four.failed(Errno::EAGAIN), move || five.done());
        assert_eq!(answers.pop(), Ok(vec![(Domid(4), Errno::EAGAIN)]));
        assert!(answers.0.lock().unwrap().is_empty());
    });
}

/// A mailbox's thread sleeps only if nothing is in it: shuttle reports a lost wake-up as a
/// deadlock.
#[test]
fn a_mailbox_loses_no_wake_up() {
    explore(|| {
        let signal = Signal::default();
        let queue = std::sync::Mutex::new(Vec::new());
        let (asleep, woken) = (Mutex::new(false), Condvar::new());
        let wake = || {
            if signal.take() {
                *asleep.lock().unwrap() = true;
                woken.notify_one();
            }
        };
        let produce = |first: u32| {
            for message in [first, first + 1] {
                queue.lock().unwrap().push(message);
                signal.raise();
                shuttle::thread::yield_now();
            }
            wake();
        };
        at_once!(|| produce(0), || produce(2), || produce(4), || {
            let mut taken = 0;
            while taken < 6 {
                // As mio's waker: what was said before the poll ends it at once.
                let mut said = asleep.lock().unwrap();
                while !*said {
                    said = woken.wait(said).unwrap();
                }
                *said = false;
                drop(said);
                taken += std::mem::take(&mut *queue.lock().unwrap()).len();
            }
        },);
    });
}

//! Concurrent clients: every run must be strictly serializable, that is, equal some serial order of its operations that
//! respects real time (Wing and Gong's search), and watchers must see every change, each writer's in order.
//!
//! `XENSTORED_SEED=<n>` runs one seed.

mod common;

use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use common::client::Link;
use common::random::seeds;
use common::wire::show;
use common::{Client, Control, Random, World, op};

/// There are few keys, so that clients collide; they are in the partitions of three domains and in one that belongs to
/// no domain.
const KEYS: [&str; 4] =
    ["/local/domain/1/k", "/local/domain/2/k", "/local/domain/3/k", "/plain/home/k"];

/// The effect of an operation, which must take place at one moment between `from` and `to`.
#[derive(Clone, Debug)]
struct Done {
    from: u64,
    to: u64,
    /// Keys and the values read, before the writes.
    reads: Vec<(usize, u32)>,
    writes: Vec<(usize, u32)>,
}

/// A logical clock: later calls, of any thread, return larger numbers.
struct Clock(AtomicU64);

impl Clock {
    fn now(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

fn read(client: &mut Client, tx: u32, key: usize, round: u64) -> u32 {
    let path = format!("{}{round}\0", KEYS[key]);
    match client.request(op::READ, tx, path) {
        Ok(value) => show(&value).parse().unwrap(),
        Err(error) => {
            assert_eq!(error, "ENOENT");
            0
        }
    }
}

fn write(client: &mut Client, tx: u32, key: usize, round: u64, value: u32) {
    client.request(op::WRITE, tx, format!("{}{round}\0{value}", KEYS[key])).unwrap();
}

/// Runs one client's operations; each value that it writes is unique and not zero.
fn act(client: &mut Client, clock: &Clock, random: &mut Random, me: u32, round: u64) -> Vec<Done> {
    let mut done = Vec::new();
    for i in 0..7 {
        let value = me * 100 + i;
        let (a, b) = (random.below(KEYS.len()), random.below(KEYS.len()));
        let from = clock.now();
        match random.below(4) {
            0 => {
                let reads = vec![(a, read(client, 0, a, round))];
                done.push(Done { from, to: clock.now(), reads, writes: Vec::new() });
            }
            1 => {
                write(client, 0, a, round, value);
                done.push(Done {
                    from,
                    to: clock.now(),
                    reads: Vec::new(),
                    writes: vec![(a, value)],
                });
            }
            which => {
                // A transaction that reads two keys and writes one or both.
                let tx = client.start().unwrap();
                let mut reads = vec![(a, read(client, tx, a, round))];
                if b != a {
                    reads.push((b, read(client, tx, b, round)));
                }
                let mut writes = vec![(b, value)];
                write(client, tx, b, round, value);
                if which == 3 && a != b {
                    write(client, tx, a, round, value);
                    writes.push((a, value));
                }
                // The transaction takes effect at its end, or not at all.
                let from = clock.now();
                match client.commit(tx) {
                    Ok(_) => done.push(Done { from, to: clock.now(), reads, writes }),
                    Err(error) => assert_eq!(error, "EAGAIN"),
                }
            }
        }
    }
    done
}

/// Returns whether some order of `history` that respects real time explains every read.
fn has_a_serial_order(history: &[Done]) -> bool {
    assert!(history.len() <= 64);
    let mut tried = HashSet::new();
    search(history, 0, [0; KEYS.len()], &mut tried)
}

fn search(
    history: &[Done],
    taken: u64,
    state: [u32; KEYS.len()],
    tried: &mut HashSet<(u64, [u32; KEYS.len()])>,
) -> bool {
    let left: Vec<usize> = (0..history.len()).filter(|i| taken & (1 << i) == 0).collect();
    if left.is_empty() {
        return true;
    }
    if !tried.insert((taken, state)) {
        return false;
    }
    // The next operation must have begun before the end of every other remaining one.
    let first_end = left.iter().map(|&i| history[i].to).min().unwrap();
    left.iter().any(|&i| {
        let done = &history[i];
        let fits =
            done.from < first_end && done.reads.iter().all(|&(key, value)| state[key] == value);
        let mut after = state;
        for &(key, value) in &done.writes {
            after[key] = value;
        }
        fits && search(history, taken | 1 << i, after, tried)
    })
}

#[test]
fn search_detects_histories_without_a_serial_order() {
    let done = |from, to, reads: &[(usize, u32)], writes: &[(usize, u32)]| Done {
        from,
        to,
        reads: reads.to_vec(),
        writes: writes.to_vec(),
    };
    let write = done(0, 3, &[], &[(0, 1)]);
    assert!(has_a_serial_order(&[write.clone(), done(1, 2, &[(0, 0)], &[])]));
    assert!(has_a_serial_order(&[write.clone(), done(1, 2, &[(0, 1)], &[])]));
    // A stale read.
    assert!(!has_a_serial_order(&[write.clone(), done(4, 5, &[(0, 0)], &[])]));
    // One client reads the new value, then the old one.
    let (new, old) = (done(1, 2, &[(0, 1)], &[]), done(3, 4, &[(0, 0)], &[]));
    assert!(!has_a_serial_order(&[done(0, 9, &[], &[(0, 1)]), new, old]));
    // A lost update, and write skew.
    let (one, two) = (done(0, 9, &[(0, 0)], &[(0, 1)]), done(0, 9, &[(0, 0)], &[(0, 2)]));
    assert!(!has_a_serial_order(&[one, two]));
    let (one, two) = (done(0, 9, &[(0, 0)], &[(1, 1)]), done(0, 9, &[(1, 0)], &[(0, 1)]));
    assert!(!has_a_serial_order(&[one, two]));
}

#[test]
fn concurrent_transactions_are_serializable() {
    const CLIENTS: u32 = 4;
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            let mut world = World::new(control, shards);
            let name = |i: u32| if i == 0 { "dom0".to_owned() } else { format!("dom0.{i}") };
            let mut clients: Vec<Client> = Vec::new();
            for i in 0..CLIENTS {
                world.client(&name(i));
                clients.push(world.take(&name(i)));
            }
            for seed in seeds(60) {
                let clock = &Clock(AtomicU64::new(0));
                let start = &Barrier::new(clients.len());
                let history: Vec<Done> = std::thread::scope(|scope| {
                    let threads: Vec<_> = (1u32..)
                        .zip(&mut clients)
                        .map(|(me, client)| {
                            scope.spawn(move || {
                                let mut random = Random::new(seed * 64 + u64::from(me));
                                start.wait();
                                act(client, clock, &mut random, me, seed)
                            })
                        })
                        .collect();
                    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
                });
                assert!(
                    has_a_serial_order(&history),
                    "XENSTORED_SEED={seed}, control by {control:?}, {shards} shards: {history:#?}"
                );
            }
            world.check_store();
        }
    }
}

#[test]
fn watchers_see_every_change_in_each_writers_order() {
    const WRITERS: usize = 3;
    const WRITES: usize = 300;
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            let mut world = World::new(control, shards);
            let watchers = ["dom0", "dom0.x", "dom0.y"].map(|name| {
                let client = world.client(name);
                for (path, token) in [("/local/domain", "homes"), ("/plain", "plain")] {
                    client.watch(path, token).unwrap();
                    client.next_event();
                }
                world.take(name)
            });
            let writers: Vec<Client> = (0..WRITERS)
                .map(|i| Client::new(&format!("writer{i}"), Link::Socket(world.daemon.connect())))
                .collect();
            let path = |writer: usize, i: usize| format!("{}-{writer}-{i}", KEYS[(i + writer) % 4]);
            std::thread::scope(|scope| {
                for (writer, mut client) in writers.into_iter().enumerate() {
                    scope.spawn(move || {
                        for i in 0..WRITES {
                            // Every third pair is written by one transaction.
                            if i % 6 < 4 {
                                client.write(&path(writer, i), "v").unwrap();
                            } else {
                                let tx = client.start().unwrap();
                                client
                                    .request(op::WRITE, tx, format!("{}\0v", path(writer, i)))
                                    .unwrap();
                                client.commit(tx).unwrap();
                            }
                        }
                    });
                }
                for mut watcher in watchers {
                    scope.spawn(move || {
                        let mut next = [0; WRITERS];
                        for _ in 0..WRITERS * WRITES {
                            let event = watcher.next_event();
                            let (seen, _token) = event.split_once('|').unwrap();
                            let mut parts = seen.rsplit('-');
                            let i: usize = parts.next().unwrap().parse().unwrap();
                            let writer: usize = parts.next().unwrap().parse().unwrap();
                            assert_eq!(
                                i, next[writer],
                                "{}: events of writer {writer} out of order",
                                watcher.name
                            );
                            assert_eq!(seen, path(writer, i));
                            next[writer] += 1;
                        }
                    });
                }
            });
        }
    }
}

#[test]
fn read_after_the_last_event_returns_the_last_value() {
    // Equal events may be merged, but an event always follows the last change.
    for control in [Control::Socket, Control::Ring] {
        for shards in [1, 4] {
            let mut world = World::new(control, shards);
            for name in ["dom0", "dom5"] {
                let path = "/local/domain/5/value";
                world.client("dom5");
                let client = world.client(name);
                client.watch(path, "t").unwrap();
                client.next_event();
                let mut watcher = world.take(name);
                let admin = &mut world.admin;
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        for i in 0..2000 {
                            admin.write(path, &i.to_string()).unwrap();
                        }
                        admin.write(path, "last").unwrap();
                    });
                    // The wait times out, and the test fails, if the last event was lost.
                    loop {
                        assert_eq!(watcher.next_event(), format!("{path}|t"));
                        if watcher.read(path).as_deref() == Ok(&b"last"[..]) {
                            break;
                        }
                    }
                });
            }
        }
    }
}

//! Transactions that keep failing get a reservation, so every client makes progress (XSA-206, docs/DESIGN.md).

mod common;

use std::time::{Duration, Instant};

use common::client::Link;
use common::{Client, Control, HANG, World, op};

/// Consecutive conflicts after which a connection asks for a reservation.
const CONFLICTS: usize = 2;
/// Timeout of a reservation.
const RESERVATION_TIME: Duration = Duration::from_millis(50);

/// Returns the report's numbers of reservations: granted, and timed out before their transaction ended.
fn reservation_counts(world: &mut World) -> (usize, usize) {
    let report = world.daemon.path("report");
    world.admin.control(&format!("memreport {}", report.display())).unwrap();
    let report = std::fs::read_to_string(report).unwrap();
    // Each report is appended to the file.
    let mut lines = report.lines().rev();
    let line = lines.find_map(|line| line.strip_prefix("turns of transactions: ")).unwrap();
    let numbers: Vec<_> =
        line.split(", ").map(|word| word.split(' ').next_back().unwrap()).collect();
    (numbers[0].parse().unwrap(), numbers[1].parse().unwrap())
}

fn connect(world: &World) -> Client {
    Client::new("a client", Link::Socket(world.daemon.connect()))
}

/// Makes a client's transactions that read `path` fail until it asks for a reservation with the next.
fn fail(client: &mut Client, path: &str, other: &mut Client) {
    for number in 0..CONFLICTS {
        let tx = client.start().unwrap();
        let before = client.request(op::READ, tx, format!("{path}\0")).unwrap_or_default();
        let before = String::from_utf8(before).unwrap();
        other.write(path, &format!("{before}{number}")).unwrap();
        assert_eq!(client.commit(tx), Err("EAGAIN".to_owned()));
    }
}

/// Returns whether a reply has arrived, which means that no reservation delays it; waits for replies to `barrier`
/// meanwhile.
fn has_reply(client: &mut Client, barrier: &mut Client) -> bool {
    for _ in 0..5 {
        barrier.read("/").unwrap();
    }
    client.has_reply()
}

#[test]
fn every_transaction_commits_within_a_bounded_number_of_tries() {
    const ROUNDS: usize = 20;
    const NODES: [usize; 4] = [1, 2, 3, 0];
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let committer = |number: usize| {
            let mut client = connect(&world);
            move || {
                let mut one = |round| {
                    let tx = client.start().unwrap();
                    for node in NODES {
                        // The first transaction does not see the new nodes.
                        let _ = client.request(op::READ, tx, format!("/shared/{node}\0"));
                    }
                    for node in [number % 3, 3] {
                        let write = format!("/shared/{node}\0{number} {round}");
                        client.request(op::WRITE, tx, write).unwrap();
                    }
                    client.commit(tx).is_ok()
                };
                let tries =
                    |round| (1..=1000).find(|_| one(round)).expect("no commit in 1000 tries");
                (0..ROUNDS).map(tries).max().unwrap()
            }
        };
        let most = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|number| scope.spawn(committer(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).max().unwrap()
        });
        // On a busy machine a client may not use its reservation in time.
        let (begun, overdue) = reservation_counts(&mut world);
        assert!(begun > 0);
        let bound = CONFLICTS + NODES.len() + overdue;
        assert!(most <= bound, "{most} tries, {overdue} of {begun} reservations overdue");
        world.check_store();
    }
}

#[test]
fn stalled_holder_delays_others_until_its_reservation_ends() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let (mut stops, mut next) = (connect(&world), connect(&world));
        fail(&mut stops, "/hot", &mut world.admin);
        fail(&mut next, "/hot", &mut world.admin);
        let tx = stops.start().unwrap();
        stops.request(op::READ, tx, "/hot\0").unwrap();
        let started = Instant::now();
        next.send(op::TRANSACTION_START, 0, "\0");
        world.admin.write("/elsewhere", "v").unwrap();
        world.admin.write("/hot", "by a writer").unwrap();
        let waited = started.elapsed();
        assert!(waited >= RESERVATION_TIME / 2, "the write waited only {waited:?}");
        let tx_next = next.started().unwrap();
        let seen = next.request(op::READ, tx_next, "/hot\0");
        assert_eq!(
            seen.as_deref(),
            Ok(&b"by a writer"[..]),
            "waiting writers precede the next reservation"
        );
        next.commit(tx_next).unwrap();
        assert_eq!(stops.commit(tx), Err("EAGAIN".to_owned()));
        assert!(reservation_counts(&mut world).1 >= 1);
    }
}

#[test]
fn disconnected_holder_or_waiter_delays_no_other() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        // The commit is retried, as the reservation may time out on a busy machine.
        let in_time = (0..10).any(|_| {
            let (_, before) = reservation_counts(&mut world);
            let (mut leaves, mut waits) = (connect(&world), connect(&world));
            fail(&mut leaves, "/hot", &mut world.admin);
            fail(&mut waits, "/hot", &mut world.admin);
            let tx = leaves.start().unwrap();
            leaves.request(op::READ, tx, "/hot\0").unwrap();
            waits.send(op::TRANSACTION_START, 0, "\0");
            drop(waits);
            let mut writer = connect(&world);
            writer.send(op::WRITE, 0, "/hot\0v");
            let waited = !has_reply(&mut writer, &mut world.admin);
            drop(leaves);
            writer.reply().unwrap();
            waited && reservation_counts(&mut world).1 == before
        });
        assert!(in_time);
    }
}

#[test]
fn write_skew_pair_commits_serially() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let (mut one, mut two) = (connect(&world), connect(&world));
        for _ in 0..5 {
            fail(&mut one, "/x", &mut world.admin);
            fail(&mut two, "/y", &mut world.admin);
            let (_, overdue) = reservation_counts(&mut world);
            let tx = one.start().unwrap();
            two.send(op::TRANSACTION_START, 0, "\0");
            one.request(op::READ, tx, "/x\0").unwrap();
            // No other client uses the path of this write.
            one.write("/x/plain", "v").unwrap();
            one.request(op::WRITE, tx, "/y\0one").unwrap();
            let done = one.commit(tx);
            let tx = two.started().unwrap();
            let seen = two.request(op::READ, tx, "/y\0").unwrap();
            two.request(op::WRITE, tx, "/x\0two").unwrap();
            two.commit(tx).unwrap();
            if reservation_counts(&mut world).1 == overdue {
                done.unwrap();
                assert_eq!(seen, b"one");
            }
        }
    }
}

/// A guest that rewrites a node with the same value makes the END of a toolstack that read it replay again and again,
/// until END gets a reservation of the guest's partition, in which it commits.
#[test]
fn end_that_loses_its_races_commits_in_a_reservation() {
    let mut world = World::new(Control::Socket, 2);
    world.guest(5).write("x", "same").unwrap();
    let mut guest = world.take("dom5");
    let mut toolstack = connect(&world);
    // Reads of 900 levels are replayed in some forty pieces, between which the guest is served.
    let deep = format!("/tool/{}b", "a/".repeat(900));
    toolstack.write(&deep, "v").unwrap();
    std::thread::scope(|scope| {
        let commits = scope.spawn(|| {
            // On a busy machine the guest may not write during a replay, or the reservation may time out.
            let started = Instant::now();
            while reservation_counts(&mut world).0 == 0 {
                assert!(started.elapsed() < HANG, "timed out waiting for a reservation");
                let tx = toolstack.start().unwrap();
                toolstack.request(op::READ, tx, "/local/domain/5/x\0").unwrap();
                let read = (op::READ, tx, format!("{deep}\0").into_bytes());
                toolstack.pipeline(&vec![read; 200]);
                let is_committed = toolstack.commit(tx).is_ok();
                assert!(is_committed || reservation_counts(&mut world).1 > 0);
            }
        });
        let writes: Vec<_> = (0..16).map(|_| (op::WRITE, 0, b"x\0same".to_vec())).collect();
        while !commits.is_finished() {
            guest.pipeline(&writes);
        }
    });
    // The reservation has ended with END.
    let report = world.daemon.path("reserved");
    world.admin.control(&format!("memreport {}", report.display())).unwrap();
    let report = std::fs::read_to_string(report).unwrap();
    assert!(report.lines().any(|line| line.starts_with("guarded paths: 0")), "{report}");
    world.check_store();
}

#[test]
fn guests_get_no_reservation_and_write_between_those_of_others() {
    let mut world = World::new(Control::Socket, 2);
    world.guest(5).write("hot", "0").unwrap();
    let mut guest = world.take("dom5");
    fail(&mut guest, "/local/domain/5/hot", &mut world.admin);
    let tx = guest.start().unwrap();
    guest.read("hot").unwrap();
    world.admin.write("/local/domain/5/hot", "still").unwrap();
    guest.commit(tx).unwrap();
    assert_eq!(reservation_counts(&mut world).0, 0);
    // Toolstacks that come one after the other do not starve the guest.
    let mut toolstacks = [connect(&world), connect(&world), connect(&world)];
    let between = (0..10).any(|_| {
        for toolstack in &mut toolstacks {
            fail(toolstack, "/local/domain/5/hot", &mut guest);
        }
        let tx = toolstacks[0].start().unwrap();
        for toolstack in &mut toolstacks[1..] {
            toolstack.send(op::TRANSACTION_START, 0, "\0");
        }
        guest.send(op::WRITE, 0, "hot\0by the guest");
        // Time for the guest's write to arrive, unless the machine is busy.
        std::thread::sleep(RESERVATION_TIME / 5);
        toolstacks[0].commit(tx).unwrap();
        let mut saw = Vec::new();
        for toolstack in &mut toolstacks[1..] {
            let tx = toolstack.started().unwrap();
            saw.push(toolstack.request(op::READ, tx, "/local/domain/5/hot\0").unwrap());
            let _ = toolstack.commit(tx);
        }
        guest.reply().unwrap();
        saw == [b"by the guest", b"by the guest"]
    });
    assert!(between);
}

//! Costs of long transactions, and of those that stay open.

use super::*;

#[test]
fn a_long_transaction_commits() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let client = world.client("dom0");
        let tx = client.start().unwrap();
        let requests: Vec<_> = (0..2000)
            .map(|i| (op::WRITE, tx, format!("/local/domain/{}/x/{i}\0{i}", i % 9).into_bytes()))
            .collect();
        assert!(client.pipeline(&requests).iter().all(Result::is_ok));
        world.admin.write("/elsewhere", "v").unwrap();
        let client = world.client("dom0");
        assert_eq!(client.commit(tx).as_deref(), Ok(&b"OK\0"[..]));
        assert_eq!(client.read("/local/domain/1/x/1999").as_deref(), Ok(&b"1999"[..]));
        world.check_store();
    }
}

#[test]
fn idle_open_transactions_keep_no_snapshot_and_wake_no_thread() {
    let mut world = World::new(Control::Socket, 1);
    let client = &mut world.admin;
    client.write("/a", "v").unwrap();
    let mut open = Vec::new();
    for _ in 0..2_000 {
        let tx = client.start().unwrap();
        let reads = vec![(op::READ, tx, b"/a\0".to_vec()); 50];
        assert!(client.pipeline(&reads).iter().all(Result::is_ok));
        open.push(tx);
    }
    // After a second, nothing is kept for idle transactions, and no thread checks them any more: the daemon sleeps for
    // longer than the lifetime of a snapshot.
    let started = Instant::now();
    let mut before = None;
    while before != Some(world.daemon.times_asleep()) {
        assert!(started.elapsed() < HANG, "the daemon keeps waking up");
        before = Some(world.daemon.times_asleep());
        std::thread::sleep(Duration::from_millis(1500));
    }
    assert_eq!(most_pinned(&mut world).0, 0);
    for (number, tx) in open.into_iter().enumerate() {
        if number == 1_000 {
            world.admin.write("/a", "w").unwrap();
        }
        let expected = if number < 1_000 { Ok(b"OK\0".to_vec()) } else { Err("EAGAIN".into()) };
        assert_eq!(world.admin.commit(tx), expected);
    }
}

/// Returns the number of pinned partitions in the shard with the most, and the report that says so.
fn most_pinned(world: &mut World) -> (u32, String) {
    let report = world.daemon.path("report");
    world.admin.control(&format!("memreport {}", report.display())).unwrap();
    let report = std::fs::read_to_string(report).unwrap();
    // The report has a line of titles, then a line for each shard, the root shard last.
    let shards = report.lines().skip(1).take_while(|line| !line.contains("watches on"));
    let pinned = shards.map(|line| line.split_whitespace().last().unwrap().parse::<u32>().unwrap());
    (pinned.max().unwrap(), report)
}

#[test]
fn open_transactions_pin_a_bounded_number_of_partitions() {
    let mut world = World::new(Control::Socket, 2);
    // Each transaction pins a different version of the partition.
    const OPEN: u32 = 17_000;
    let client = &mut world.admin;
    let mut requests = Vec::new();
    for version in 0..OPEN {
        let tx = version + 1;
        requests.push((op::TRANSACTION_START, 0, b"\0".to_vec()));
        requests.push((op::READ, tx, b"/libxl/5\0".to_vec()));
        requests.push((op::WRITE, 0, format!("/libxl/5/x\0{version}").into_bytes()));
    }
    client.mkdir("/libxl/5").unwrap();
    assert!(client.pipeline(&requests).iter().all(Result::is_ok));
    let (most, report) = most_pinned(&mut world);
    assert!(0 < most && most <= 16_384, "{report}");
    // The snapshots of the oldest were dropped. The transactions continue, as nothing that they saw has changed.
    let client = &mut world.admin;
    let shown = client.request(op::READ, 1, "/libxl/5/x\0");
    assert_eq!(shown.as_deref(), Ok(&b"16999"[..]));
    for tx in 1..=OPEN {
        assert_eq!(client.commit(tx).as_deref(), Ok(&b"OK\0"[..]));
    }
}

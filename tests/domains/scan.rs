//! The ring scan: guests that write to their ring and do not notify.

use std::time::{Duration, Instant};

use super::*;
use common::{Client, Daemon};

/// Returns a world whose daemon scans each ring once in `seconds`.
fn scanned(shards: u16, seconds: u32) -> World {
    let config = tempfile::NamedTempFile::new().unwrap();
    let text = format!("shards = {shards}\n[timeouts]\nring-scan-interval = {seconds}\n");
    std::fs::write(config.path(), text).unwrap();
    let daemon = Daemon::start_with(&["--config", config.path().to_str().unwrap()]);
    World::around(daemon, Control::Socket)
}

/// Puts a request into the ring, without notifying.
fn put(client: &mut Client, kind: u32, payload: &str) {
    let request = client.compose(kind, 0, payload.as_bytes());
    assert_eq!(client.ring().put(&request), request.len());
}

/// Returns the number of lines in the log that name the domain.
fn named(world: &mut World, domid: u16) -> usize {
    let (text, domid) = ("without a notification", format!("domid={domid}"));
    let names = |line: &&str| line.contains(text) && line.split(' ').any(|word| word == domid);
    world.log().lines().filter(names).count()
}

#[test]
fn unnotified_request_is_served_and_logged_once() {
    for shards in [1, 4] {
        let mut world = scanned(shards, 1);
        world.guest(6).write("x", "v").unwrap();
        for incarnation in 1..=2 {
            for value in ["one", "two"] {
                put(world.guest(5), op::WRITE, &format!("x\0{value}"));
                assert_eq!(world.guest(5).reply().as_deref(), Ok(&b"OK\0"[..]));
                let read = world.admin.read("/local/domain/5/x");
                assert_eq!(read.as_deref(), Ok(value.as_bytes()));
            }
            assert_eq!(named(&mut world, 5), incarnation, "{}", world.log());
            world.until_released(5);
        }
        assert_eq!(named(&mut world, 6), 0, "{}", world.log());
    }
}

#[test]
fn unnotified_reset_is_done() {
    let mut world = scanned(1, 1);
    world.guest(5).write("x", "v").unwrap();
    let page = world.guest(5).ring().page().clone();
    page.store(at::CONNECTION, 1);
    let started = Instant::now();
    while page.load(at::CONNECTION) != 0 {
        assert!(started.elapsed() < HANG, "no reset");
    }
    assert_eq!(page.load(at::REQ_PROD), 0);
}

#[test]
fn quiesced_or_broken_ring_is_not_scanned() {
    let mut world = scanned(1, 1);
    for domid in [5, 6] {
        world.guest(domid).write("x", "v").unwrap();
    }
    world.admin.control("quiesce 5").unwrap();
    world.guest(6).send_header(op::WRITE, 5000);
    let page = world.guest(6).ring().page().clone();
    while page.load(at::ERROR) == 0 {
        assert!(world.guest(6).ring().wait(HANG), "the ring indicates no error");
    }
    for domid in [5, 6] {
        put(world.guest(domid), op::WRITE, "x\0w");
    }
    std::thread::sleep(Duration::from_secs(3));
    for domid in [5, 6] {
        let guest = world.guest(domid);
        assert_ne!(guest.ring().page().load(at::REQ_CONS), guest.ring().page().load(at::REQ_PROD));
        let read = world.admin.read(&format!("/local/domain/{domid}/x"));
        assert_eq!(read.as_deref(), Ok(&b"v"[..]));
        assert_eq!(named(&mut world, domid), 0, "{}", world.log());
    }
    world.admin.control("unquiesce 5").unwrap();
    assert_eq!(world.guest(5).reply().as_deref(), Ok(&b"OK\0"[..]));
}

#[test]
fn scan_interval_of_0_disables_the_scan() {
    let mut world = scanned(1, 0);
    world.guest(5).write("x", "v").unwrap();
    put(world.guest(5), op::READ, "x\0");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(world.guest(5).ring().take(usize::MAX), b"");
    world.guest(5).ring().notify();
    assert_eq!(world.guest(5).reply().as_deref(), Ok(&b"v"[..]));
}

#[test]
fn many_silent_rings_are_served_within_two_intervals() {
    const GUESTS: u16 = 200;
    const SECONDS: u32 = 2;
    let mut world = scanned(1, SECONDS);
    let mut silent = Vec::new();
    for domid in 10..10 + GUESTS {
        world.guest(domid).write("x", "v").unwrap();
        silent.push(world.take(&format!("dom{domid}")));
    }
    silent.iter_mut().for_each(|guest| put(guest, op::READ, "x\0"));
    let started = Instant::now();
    while !silent.is_empty() {
        silent.retain(|guest| guest.ring().take(usize::MAX).is_empty());
        // Timeout of a scan round and its grace period, with a margin for a loaded machine.
        let limit = Duration::from_secs(u64::from(2 * SECONDS));
        assert!(started.elapsed() < limit, "{} of {GUESTS} are not served", silent.len());
        std::thread::sleep(Duration::from_millis(10));
    }
    for domid in 10..10 + GUESTS {
        assert_eq!(named(&mut world, domid), 1, "{domid}");
    }
}

#[test]
fn busy_guest_that_notifies_is_not_logged() {
    let mut world = scanned(1, 1);
    let (guest, started) = (world.guest(5), Instant::now());
    while started.elapsed() < Duration::from_secs(4) {
        guest.pipeline(&vec![(op::READ, 0, b"domid\0".to_vec()); 20]);
    }
    assert_eq!(named(&mut world, 5), 0, "{}", world.log());
}

#[test]
fn idle_worker_wakes_once_per_scan_interval() {
    let mut world = scanned(1, 1);
    world.guest(5).write("x", "v").unwrap();
    let (before, started) = (world.daemon.times_asleep(), Instant::now());
    std::thread::sleep(Duration::from_secs(4));
    let intervals = started.elapsed().as_secs() + 1;
    let woken = world.daemon.times_asleep() - before;
    assert!((3..=intervals + 2).contains(&woken), "{woken} wake-ups in {intervals} intervals");
}

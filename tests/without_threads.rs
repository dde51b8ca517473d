//! A system on which the daemon cannot start further threads.

mod common;

use std::time::Instant;

use common::bulk::{self, Bulk};
use common::wire::show;
use common::{Control, HANG, World};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// Returns the reply to a command of CONTROL.
fn ask(world: &mut World, words: &str) -> String {
    show(&world.admin.control(words).unwrap()).trim_end_matches('|').to_owned()
}

/// Returns a number from /proc/<pid>/status of the daemon.
fn status(world: &World, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The system maps no stack for a further thread; a command's thread reuses the stack of the last one's.
#[test]
fn check_and_export_without_further_threads_run_on_one() {
    let world = &mut World::new(Control::Socket, 2);
    // More than the requesting thread looks up and writes by itself.
    let domids: Vec<u16> = (1..=20).collect();
    for &domid in &domids {
        for node in 0..110 {
            world.guest(domid).write(&format!("n{node}"), "value").unwrap();
        }
    }
    let domids: String = domids.iter().map(|domid| format!("{domid}|")).collect();
    let mut bulk = Bulk::connect(&world.daemon);
    assert_eq!(bulk.ask(bulk::DISCARD, "98-99|", &[]), "", "the client's thread is running");
    let threads = status(world, "Threads");
    assert_eq!(ask(world, "memreport report"), "OK");
    let started = Instant::now();
    while status(world, "Threads") > threads {
        assert!(started.elapsed() < HANG, "timed out waiting for the command's thread to end");
    }
    let pid = Pid::from_raw(world.daemon.pid().cast_signed());
    let tight = Some((status(world, "VmSize") << 10) + (1 << 20));
    let none = prlimit(pid, Resource::As, Rlimit { current: tight, maximum: None }).unwrap();

    assert_eq!(ask(world, "check"), "OK");
    assert!(world.log().contains("no pool threads, working on one thread"));
    let (alone, said) = bulk.export(&domids);
    assert_eq!(said.lines().filter(|line| line.contains("|OK|")).count(), 20, "{said}");

    // With further threads, which start once they can, the stream is the same.
    prlimit(pid, Resource::As, none).unwrap();
    let refused = world.log().matches("refused").count();
    let (shared, _) = bulk.export(&domids);
    assert!(alone == shared && !alone.is_empty());
    assert_eq!(ask(world, "check"), "OK");
    assert_eq!(world.log().matches("refused").count(), refused);
}

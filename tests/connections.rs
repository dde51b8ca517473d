//! More simultaneous connections than any host has, and more than there are descriptors for.

mod common;

use std::fs::read_to_string;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::client::Link;
use common::{Client, Daemon, HANG, Message, SetOnDrop, op};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const MANY: usize = 10_000;
/// Number of connections that send nothing at first.
const IDLE: usize = 2500;
/// Maximum memory that a connection may cost the daemon, including the allocator's slack.
const BYTES_EACH: u64 = 4096;
/// Maximum number of crowds of connections, one after the other, until memory stops growing.
const CROWDS_MAX: usize = 8;

/// Raises this process's limit of open files to its maximum; the daemon does the same for itself.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let needed = u64::try_from(MANY).unwrap() + 500;
    assert!(limit.maximum.is_none_or(|most| most >= needed), "`ulimit -Hn` is below {needed}");
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

fn ask(socket: &mut UnixStream) {
    let read = Message { kind: op::READ, req: 1, tx: 0, payload: b"/tool\0".to_vec() };
    socket.write_all(&read.encode()).unwrap();
}

/// Waits for the reply: the header of an empty value.
fn read_reply(socket: &mut UnixStream) {
    let mut reply = [0; 16];
    socket.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..4], op::READ.to_le_bytes());
    assert_eq!(reply[12..], [0; 4]);
}

/// Waits until the daemon has closed all but `expected` descriptors.
fn until_closed(daemon: &Daemon, expected: usize) {
    let started = Instant::now();
    while daemon.descriptors() > expected {
        assert!(started.elapsed() < HANG, "{} descriptors stay open", daemon.descriptors());
        std::thread::yield_now();
    }
}

#[test]
fn ten_thousand_connections_are_served_at_once() {
    allow_many_files();
    for shards in [1, 4] {
        let daemon = Daemon::start(shards);
        let mut admin = Client::new("admin", Link::Socket(daemon.connect()));
        admin.read("/tool").unwrap();
        let (descriptors, before) = (daemon.descriptors(), daemon.resident_bytes());
        let mut after = Vec::new();
        // The allocator keeps a crowd's memory, and may take a few crowds to settle; a leak never does.
        while !has_settled(&after) {
            assert!(after.len() < CROWDS_MAX, "memory grows with each crowd: {after:?} bytes");
            let mut crowd: Vec<_> = (0..MANY).map(|_| daemon.connect()).collect();
            // All clients send a request before the first one reads its reply.
            let (idle, talking) = crowd.split_at_mut(IDLE);
            talking.iter_mut().for_each(ask);
            talking.iter_mut().for_each(read_reply);
            // Idle connections are served as well, and so is another client meanwhile.
            idle.iter_mut().for_each(ask);
            idle.iter_mut().for_each(read_reply);
            admin.write("/alive", "v").unwrap();
            // The connection that waited for the daemon's start may have been counted before it was closed.
            assert!(daemon.descriptors() <= descriptors + MANY);
            let grown = daemon.resident_bytes().saturating_sub(before);
            let most = BYTES_EACH * u64::try_from(MANY).unwrap();
            assert!(grown < most, "{MANY} connections take {grown} bytes");
            drop(crowd);
            until_closed(&daemon, descriptors);
            admin.read("/tool").unwrap();
            after.push(daemon.resident_bytes());
        }
    }
}

/// Returns whether memory did not grow with the last crowd. The tolerance of 2 MiB is 200 bytes per connection.
fn has_settled(after: &[u64]) -> bool {
    let Some((last, before)) = after.split_last() else { return false };
    before.iter().max().is_some_and(|most| *last < most + (2 << 20))
}

/// Returns the CPU time of a thread that spins while `work` sleeps, and the result of `work`.
fn beside_a_spinning_thread<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let spinner = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
            let line = read_to_string("/proc/thread-self/schedstat").unwrap();
            Duration::from_nanos(line.split_whitespace().next().unwrap().parse().unwrap())
        });
        let result = {
            let _stop = SetOnDrop(&stop);
            work()
        };
        (spinner.join().unwrap(), result)
    })
}

#[test]
fn descriptor_exhaustion_pauses_accepting() {
    // A shell lowers the limit and starts the daemon, because a child's limits cannot be set from here.
    let mut daemon = Daemon::start_limited(64);
    let mut crowd: Vec<_> = (0..100).map(|_| daemon.connect()).collect();
    crowd.iter_mut().for_each(ask);
    // Accepted connections work.
    read_reply(&mut crowd[0]);
    let mut first = Client::new("first", Link::Socket(crowd[0].try_clone().unwrap()));
    (0..100).for_each(|_| _ = first.read("/tool").unwrap());
    // The limit is not 64, because the daemon may inherit descriptors that are numbered above it.
    assert!(daemon.descriptors() < crowd.len());
    // The other connections wait, and the daemon sleeps. A spinning daemon would get as much CPU time as this process's
    // spinning thread, however busy the machine is.
    let (spinning, spent) = beside_a_spinning_thread(|| {
        let before = daemon.cpu_time();
        std::thread::sleep(Duration::from_secs(1));
        daemon.cpu_time() - before
    });
    assert!(spent < spinning / 10, "{spent:?} of CPU time; a spinning thread takes {spinning:?}");
    let log = daemon.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("cannot accept clients")).collect();
    let [line] = lines[..] else { panic!("not logged exactly once:\n{log}") };
    assert!(line.contains("LimitNOFILE=") && line.ends_with("socket=\"store\" limit=64"), "{line}");
    // As descriptors are freed, the waiting connections are served in their order.
    for mut waiting in crowd.into_iter().skip(1) {
        read_reply(&mut waiting);
    }
    let mut late = Client::new("late", Link::Socket(daemon.connect()));
    late.read("/tool").unwrap();
    assert!(daemon.is_alive());
}

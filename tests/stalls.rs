//! Cases in which a client could wait forever, or lose a reply or an event.

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::client::Link;
use common::wire::Message;
use common::{Client, Control, Daemon, HANG, World, op};

#[test]
fn requests_beyond_one_read_all_get_replies() {
    let world = World::new(Control::Socket, 1);
    // With messages of any size, a read may end anywhere in a message.
    for value in (8..600).step_by(11) {
        let mut client = Client::new("pipeline", Link::Socket(world.daemon.connect()));
        let payload = [&b"/v\0"[..], &vec![b'x'; value]].concat();
        let count = 40_000 / payload.len();
        let all: Vec<u8> =
            (0..count).flat_map(|_| client.compose(op::WRITE, 0, &payload)).collect();
        client.send_raw(&all);
        for _ in 0..count {
            client.reply().unwrap();
        }
    }
}

#[test]
fn worker_flooded_with_events_still_serves_its_clients() {
    let world = World::new(Control::Socket, 2);
    // Clients are assigned to the two threads in turn.
    let mut watcher = Client::new("watcher", Link::Socket(world.daemon.connect()));
    let writer = world.daemon.connect();
    for number in 0..400 {
        watcher.watch("/x", &number.to_string()).unwrap();
    }
    let write = Message { kind: op::WRITE, req: 0, tx: 0, payload: b"/x\0v".to_vec() };
    let writes = write.encode().repeat(500);
    std::thread::scope(|scope| {
        // Both threads end when the writer's socket is shut down.
        scope.spawn(|| while (&writer).write_all(&writes).is_ok() {});
        scope.spawn(|| while (&writer).read(&mut [0; 65536]).is_ok_and(|len| len > 0) {});
        let _end = ShutsDown(&writer);
        let started = Instant::now();
        for _ in 0..10 {
            watcher.next_event();
            watcher.read("/").unwrap();
            watcher.take_events();
        }
        assert!(started.elapsed() < HANG, "{:?}", started.elapsed());
    });
}

/// Shuts a socket down on drop, so that the threads that use it end even if a test fails.
struct ShutsDown<'s>(&'s UnixStream);

impl Drop for ShutsDown<'_> {
    fn drop(&mut self) {
        self.0.shutdown(Shutdown::Both).unwrap();
    }
}

#[test]
fn half_closed_client_still_gets_replies() {
    let world = World::new(Control::Socket, 2);
    for count in [1, 64, 150, 1000] {
        let socket = world.daemon.connect();
        let writing = socket.try_clone().unwrap();
        let mut client = Client::new("half", Link::Socket(socket));
        let all: Vec<u8> = (0..count).flat_map(|_| client.compose(op::READ, 0, b"/\0")).collect();
        client.send_raw(&all);
        writing.shutdown(Shutdown::Write).unwrap();
        for _ in 0..count {
            client.reply().unwrap();
        }
        assert!(client.is_closed_by_daemon());
    }
}

#[test]
fn removal_settled_before_its_events_are_delivered_gets_a_reply() {
    let world = World::new(Control::Socket, 1);
    let mut client = Client::new("remover", Link::Socket(world.daemon.connect()));
    for _ in 0..5 {
        let paths = (0..4200).map(|i| format!("/tool/much/{i}\0"));
        let (mut make, mut watch) = (Vec::new(), Vec::new());
        for path in paths {
            watch.push((op::WATCH, 0, format!("{path}token\0").into_bytes()));
            make.push((op::MKDIR, 0, path.into_bytes()));
        }
        client.pipeline(&make).into_iter().for_each(|reply| assert!(reply.is_ok()));
        client.pipeline(&watch).into_iter().for_each(|reply| assert!(reply.is_ok()));
        client.rm("/tool/much").unwrap();
        client.request(op::RESET_WATCHES, 0, "\0").unwrap();
        client.take_events();
    }
}

#[test]
fn watch_fires_again_after_its_collapsed_event_was_read() {
    let mut world = World::new(Control::Socket, 1);
    let mut reader = Client::new("reader", Link::Socket(world.daemon.connect()));
    let token = "t".repeat(3900);
    reader.watch("/a", &token).unwrap();
    for i in 0..800 {
        reader.watch(&format!("/b{i}"), &token).unwrap();
    }
    while reader.next_event() != format!("/b799|{token}") {}
    // From here on the client does not read: its events collapse, and many follow that of /a.
    for i in 0..500 {
        world.admin.write(&format!("/a/{i}"), "").unwrap();
    }
    for i in 0..800 {
        world.admin.write(&format!("/b{i}"), "").unwrap();
    }
    while reader.next_event() != format!("/a|{token}") {}
    world.admin.write("/a/later", "").unwrap();
    world.admin.write("/b0", "").unwrap();
    let is_of_a = |event: &String| event.starts_with("/a");
    let mut notified = reader.take_events().iter().any(is_of_a);
    while !notified {
        let event = reader.next_event();
        notified = is_of_a(&event);
    }
}

#[test]
fn kernel_is_notified_of_each_path_however_many_are_pending() {
    let mut world = World::new(Control::Ring, 1);
    world.admin.watch("/backend", &"t".repeat(3900)).unwrap();
    world.admin.next_event();
    let mut toolstack = Client::new("toolstack", Link::Socket(world.daemon.connect()));
    let paths: Vec<String> = (0..200).map(|number| format!("/backend/{number}")).collect();
    for path in &paths {
        toolstack.write(path, "").unwrap();
    }
    for path in &paths {
        assert_eq!(world.admin.next_event().split('|').next(), Some(path.as_str()));
    }
}

/// Waits for a line of the log about a client of this process; returns it from `text` on.
fn line_of_this_process(daemon: &Daemon, text: &str) -> String {
    let (started, pid) = (Instant::now(), format!("pid={}", std::process::id()));
    loop {
        let log = daemon.log();
        let mut lines = log.lines().filter(|line| line.contains(&pid));
        if let Some(line) = lines.find_map(|line| line.find(text).map(|at| &line[at..])) {
            return line.to_owned();
        }
        assert!(started.elapsed() < HANG, "no {text}\n{log}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Returns the number in ` <name>=<number>`.
fn field(line: &str, name: &str) -> usize {
    let value = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name} in {line}")).parse().unwrap()
}

#[test]
fn client_that_stops_reading_is_logged_once_and_at_its_end() {
    for shards in ["1", "4"] {
        // A timeout longer than a round of writes takes on a busy machine.
        let daemon = Daemon::start_with(&["--shards", shards, "-w", "watch-event=6"]);
        let mut world = World::around(daemon, Control::Socket);
        world.client("dom0.deaf").watch("/x", "t").unwrap();
        let mut slow = world.daemon.connect();
        let watch = Message { kind: op::WATCH, req: 1, tx: 0, payload: b"/x\0t\0".to_vec() };
        slow.write_all(&watch.encode()).unwrap();
        for round in 0..30 {
            let written = |i| (op::WRITE, 0, format!("/x/{round}-{i}\0").into_bytes());
            let written: Vec<_> = (0..1000).map(written).collect();
            assert!(world.admin.pipeline(&written).iter().all(Result::is_ok));
            // The slow client takes less than a round adds, so it falls behind, but never stops taking.
            let _ = slow.read(&mut [0; 5000]).unwrap();
        }
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(7) {
            let _ = slow.read(&mut [0; 10_000]).unwrap();
            std::thread::sleep(Duration::from_millis(150));
        }
        let line = line_of_this_process(&world.daemon, "client stalled");
        let (unsent, events) = (field(&line, "unsent"), field(&line, "events"));
        assert!(events > 500 && unsent > events * 16, "{line}");
        assert_eq!((field(&line, "domid"), field(&line, "watches")), (0, 1), "{line}");
        let count = world.log().matches("client stalled").count();
        assert_eq!(count, 1, "{}", world.log());
        world.close("dom0.deaf");
        line_of_this_process(&world.daemon, "stalled client disconnected");
    }
}

#[test]
fn guest_at_its_memory_quota_can_still_end_its_transactions() {
    let mut world = World::new(Control::Socket, 2);
    world.guest(5);
    world.admin.set_quota(Some(5), "memory", 20_000);
    let guest = world.guest(5);
    let tx = guest.start().unwrap();
    let refused = (0..1000).any(|_| guest.request(op::READ, tx, "none\0") == Err("ENOSPC".into()));
    assert!(refused, "no request was refused");
    guest.request(op::TRANSACTION_END, tx, "F\0").unwrap();
    guest.write("after", "v").unwrap();
}

#[test]
fn stop_does_not_wait_for_finished_commands() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_xenstored"));
    let dir = tempfile::TempDir::new().unwrap();
    command.args(["--host", "sim", "-N", "--no-keeper"]).env("XENSTORED_RUNDIR", dir.path());
    let mut daemon = command.env_remove("XENSTORED_PATH").spawn().unwrap();
    let started = Instant::now();
    let socket = loop {
        match std::os::unix::net::UnixStream::connect(dir.path().join("socket")) {
            Ok(socket) => break socket,
            Err(error) => assert!(started.elapsed() < HANG, "{error}"),
        }
    };
    let mut client = Client::new("control", Link::Socket(socket));
    client.control("check").unwrap();
    let stopped = Instant::now();
    let pid = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    daemon.wait().unwrap();
    assert!(stopped.elapsed() < Duration::from_secs(1), "{:?}", stopped.elapsed());
}

#[test]
fn a_special_node_outlives_its_owner() {
    let mut world = World::new(Control::Socket, 2);
    world.guest(5);
    world.guest(6);
    world.admin.set_perms("@releaseDomain", "r5").unwrap();
    world.until_released(5);
    world.until_released(6);
    world.check_store();
}

#[test]
fn removal_of_many_watched_partitions_is_not_quadratic() {
    let world = World::new(Control::Socket, 2);
    let mut client = Client::new("remover", Link::Socket(world.daemon.connect()));
    // Compares the time per partition with many partitions to that with few.
    let mut took = |partitions: u32| {
        let (mut make, mut watch) = (Vec::new(), Vec::new());
        for i in 0..partitions {
            let path = format!("/local/domain/1/backend/vif/{i}\0");
            watch.push((op::WATCH, 0, format!("{path}token\0").into_bytes()));
            make.push((op::MKDIR, 0, path.into_bytes()));
        }
        client.pipeline(&make).into_iter().for_each(|reply| assert!(reply.is_ok()));
        client.pipeline(&watch).into_iter().for_each(|reply| assert!(reply.is_ok()));
        client.take_events();
        let started = Instant::now();
        client.rm("/local/domain/1/backend").unwrap();
        let took = started.elapsed();
        client.request(op::RESET_WATCHES, 0, "\0").unwrap();
        took / partitions
    };
    let few = took(300);
    let many = took(9_000);
    assert!(many < few * 6, "per partition: {many:?} with many, {few:?} with few");
}

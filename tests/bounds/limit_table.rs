//! Limits of the control domain's clients, to which no quota applies.

use rustix::process::{Pid, Signal, kill_process};

use super::all_ok;
use super::common::{Client, Control, World, op};

/// Writes a value and waits until a daemon with one thread has notified all watches on it.
fn write_and_deliver(world: &mut World, path: &str) {
    world.admin.write(path, "v").unwrap();
    // Each read takes a pass, which notifies a bounded number of watches.
    for _ in 0..20 {
        world.admin.read(path).unwrap();
    }
}

/// Events collapse into one per watch, so the test needs many watches.
#[test]
fn client_that_leaves_16_mib_of_events_unread_is_closed() {
    const EVENT_BYTES: usize = 16 + 2900 + 1 + 1000 + 1;
    /// Number of bytes in the buffers between the client and the daemon.
    const SOCKET_BYTES: usize = 512 << 10;
    let path = format!("/{}", "p".repeat(2899));
    let below = (16 << 20) / EVENT_BYTES - 1;
    let above = ((16 << 20) + SOCKET_BYTES) / EVENT_BYTES + 1;
    let watch = |client: &mut Client, numbers: std::ops::Range<usize>| {
        let watches: Vec<_> =
            numbers.map(|i| (op::WATCH, 0, format!("{path}\0{i:0>1000}\0").into_bytes())).collect();
        all_ok(&client.pipeline(&watches));
        watches.iter().for_each(|_| drop(client.next_event()));
    };
    let mut world = World::new(Control::Socket, 1);
    watch(world.client("dom0.deaf"), 0..below);
    write_and_deliver(&mut world, &path);
    (0..below).for_each(|_| drop(world.client("dom0.deaf").next_event()));
    watch(world.client("dom0.deaf"), below..above);
    write_and_deliver(&mut world, &path);
    // The daemon checks at intervals; bytes that the client reads before are not unread.
    world.daemon.await_text("log", "stalled client closed, too much unread output");
    assert!(world.client("dom0.deaf").is_closed_by_daemon());
}

#[test]
fn a_client_of_the_control_domain_has_65536_transactions() {
    let mut world = World::new(Control::Socket, 1);
    for _ in 0..(1 << 16) / 1024 {
        (0..1024).for_each(|_| world.admin.send(op::TRANSACTION_START, 0, "\0"));
        (0..1024).for_each(|_| _ = world.admin.started().unwrap());
    }
    assert_eq!(world.admin.start(), Err("ENOSPC".to_owned()));
    // Another client's transactions are counted separately.
    world.client("dom0.other").start().unwrap();
}

/// While the daemon is stopped, one client sends requests that create more nodes in a transaction than a pass may, and
/// then a READ; another client sends a WRITE of the same node later. The READ sees the WRITE, since the first client's
/// pass ends early.
#[test]
fn pass_ends_after_much_work_in_transactions() {
    const LEVELS: usize = 500;
    let mut world = World::new(Control::Socket, 1);
    for name in ["dom0.busy", "dom0.other"] {
        world.client(name).read("/tool").unwrap();
    }
    let tx = world.client("dom0.busy").start().unwrap();
    let pid = Pid::from_raw(i32::try_from(world.daemon.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    // Fewer bytes than one read takes, and fewer requests than one pass serves.
    let busy = world.client("dom0.busy");
    for i in 0..7 {
        busy.send(op::WRITE, tx, format!("/busy/{i}{}\0", "/a".repeat(LEVELS)));
    }
    busy.send(op::READ, 0, "/other\0");
    world.client("dom0.other").send(op::WRITE, 0, "/other\0v");
    kill_process(pid, Signal::CONT).unwrap();
    let busy = world.client("dom0.busy");
    (0..7).for_each(|_| drop(busy.reply().unwrap()));
    assert_eq!(busy.reply().as_deref(), Ok(&b"v"[..]));
    world.client("dom0.other").reply().unwrap();
}

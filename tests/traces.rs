//! The lines of each trace switch.

mod common;

use std::time::Instant;

use common::{Control, Daemon, HANG, World, op};

/// Returns a world of one shard whose daemon traces `switches`.
fn traced(switches: &[&str]) -> World {
    let switches = switches.iter().map(|switch| format!("--trace-control=+{switch}"));
    let options: Vec<_> = ["--shards".into(), "1".into()].into_iter().chain(switches).collect();
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    World::around(Daemon::start_with(&options), Control::Socket)
}

/// Returns the lines of a switch about a domain, in order, without time, connection and request id.
fn lines(world: &mut World, switch: &str, domid: u16) -> Vec<String> {
    let (log, domain) = (world.log(), format!(" domid={domid}"));
    let words = |line: &str| line.splitn(3, ' ').skip(1).map(str::to_owned).collect::<Vec<_>>();
    let is_ours = |line: &Vec<String>| {
        line[0] == switch && line.get(1).is_some_and(|rest| rest.contains(&domain))
    };
    let short = |line: Vec<String>| {
        let left_out = |word: &&str| !word.starts_with("connection=") && !word.starts_with("req=");
        line[1].split(' ').filter(left_out).collect::<Vec<_>>().join(" ")
    };
    log.lines().map(words).filter(is_ours).map(short).collect()
}

/// Waits until the log contains a line: some are written after the reply.
fn until(world: &mut World, switch: &str, domid: u16, line: &str) {
    let started = Instant::now();
    while !lines(world, switch, domid).iter().any(|other| other == line) {
        assert!(started.elapsed() < HANG, "no {line:?} in {:#?}", lines(world, switch, domid));
        std::thread::yield_now();
    }
}

/// Sends some requests of every kind.
fn something(world: &mut World) {
    let guest = world.guest(5);
    guest.watch("x", "to\x01ken").unwrap();
    guest.next_event();
    guest.write("x", "a\0b\n").unwrap();
    guest.next_event();
    guest.read("none").unwrap_err();
    let tx = guest.start().unwrap();
    guest.request(op::WRITE, tx, format!("y\0{}", "v".repeat(300))).unwrap();
    guest.commit(tx).unwrap();
    world.until_released(5);
}

#[test]
fn io_switch_traces_every_message() {
    let mut world = traced(&["io"]);
    something(&mut world);
    let long = "v".repeat(256 - r"y0".len());
    assert_eq!(
        lines(&mut world, "io", 5),
        [
            r#"in WATCH domid=5 tx=0 len=9 payload="x\x00to\x01ken\x00""#,
            r#"out WATCH domid=5 tx=0 len=3 payload="OK\x00""#,
            r#"out WATCH_EVENT domid=5 tx=0 len=9 payload="x\x00to\x01ken\x00""#,
            r#"in WRITE domid=5 tx=0 len=6 payload="x\x00a\x00b\n""#,
            r#"out WRITE domid=5 tx=0 len=3 payload="OK\x00""#,
            r#"out WATCH_EVENT domid=5 tx=0 len=9 payload="x\x00to\x01ken\x00""#,
            r#"in READ domid=5 tx=0 len=5 payload="none\x00""#,
            r#"out ERROR domid=5 tx=0 len=7 payload="ENOENT\x00""#,
            r#"in TRANSACTION_START domid=5 tx=0 len=1 payload="\x00""#,
            r#"out TRANSACTION_START domid=5 tx=0 len=2 payload="1\x00""#,
            &format!(r#"in WRITE domid=5 tx=1 len=302 payload="y\x00{long}"..."#),
            r#"out WRITE domid=5 tx=1 len=3 payload="OK\x00""#,
            r#"in TRANSACTION_END domid=5 tx=1 len=2 payload="T\x00""#,
            r#"out TRANSACTION_END domid=5 tx=1 len=3 payload="OK\x00""#,
        ]
    );
    assert!(lines(&mut world, "obj", 5).is_empty() && lines(&mut world, "acc", 5).is_empty());
}

#[test]
fn obj_switch_traces_creations_and_destructions() {
    let mut world = traced(&["obj"]);
    something(&mut world);
    let lines: Vec<_> = lines(&mut world, "obj", 5)
        .iter()
        .map(|line| line.split(" birth=").next().unwrap().to_owned())
        .collect();
    assert_eq!(
        lines,
        [
            "create domain domid=5",
            "create connection of a ring domid=5",
            r#"create watch /local/domain/5/x "to\x01ken" domid=5"#,
            "create transaction 1 domid=5",
            "destroy transaction 1 domid=5",
            r#"destroy watch /local/domain/5/x "to\x01ken" domid=5"#,
            "destroy connection domid=5",
            "destroy domain domid=5",
        ]
    );
}

#[test]
fn acc_switch_traces_the_charges_of_domains() {
    let mut world = traced(&["acc"]);
    something(&mut world);
    for line in [
        r#"change domid=5 quota="watches" before=0 used=1"#,
        r#"change domid=5 quota="nodes" before=1 used=2"#,
        r#"change domid=5 quota="transactions" before=0 used=1"#,
        r#"change domid=5 quota="transactions" before=1 used=0"#,
        r#"change domid=5 quota="nodes" before=2 used=3"#,
    ] {
        until(&mut world, "acc", 5, line);
    }
}

#[test]
fn wrl_switch_traces_waiting_and_throttled_domains() {
    let mut world = traced(&["wrl"]);
    world.guest(5).write("hot", "0").unwrap();
    let path = "/local/domain/5/hot";
    let toolstack = &mut world.admin;
    for value in ["1", "2"] {
        let tx = toolstack.start().unwrap();
        toolstack.request(op::READ, tx, format!("{path}\0")).unwrap();
        toolstack.write(path, value).unwrap();
        assert_eq!(toolstack.commit(tx), Err("EAGAIN".to_owned()));
    }
    let tx = toolstack.start().unwrap();
    toolstack.request(op::READ, tx, format!("{path}\0")).unwrap();
    world.guest(5).write("hot", "3").unwrap();
    assert!(world.log().contains("wrl path reserved path=/local/domain/5/hot"));
    let waits = lines(&mut world, "wrl", 5);
    assert!(waits.iter().any(|line| line.starts_with("waiting for a reservation")), "{waits:?}");
    // A guest above its quota is not read while part of a reply waits for room in its ring.
    world.admin.write(path, &"4".repeat(1500)).unwrap();
    world.admin.set_quota(Some(5), "memory", 1);
    world.guest(5).send(op::READ, 0, "hot\0");
    until(&mut world, "wrl", 5, "throttling by a quota changed domid=5 throttled=true");
    world.admin.set_quota(Some(5), "memory", 0);
    until(&mut world, "wrl", 5, "throttling by a quota changed domid=5 throttled=false");
    world.guest(5).reply().unwrap();
}

#[test]
fn trace_switches_change_at_run_time() {
    let mut world = traced(&[]);
    something(&mut world);
    let traces = |world: &mut World, domid| {
        ["io", "obj", "acc", "wrl", "tdb"].map(|switch| lines(world, switch, domid).len())
    };
    assert_eq!(traces(&mut world, 5), [0; 5]);
    world.admin.control("log +io").unwrap();
    world.guest(6).read("x").unwrap_err();
    assert_eq!(traces(&mut world, 6), [2, 0, 0, 0, 0]);
    world.admin.control("log off").unwrap();
    world.guest(6).read("x").unwrap_err();
    assert_eq!(traces(&mut world, 6), [2, 0, 0, 0, 0]);
}

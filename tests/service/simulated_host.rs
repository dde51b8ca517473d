//! The process of the simulated host, across the daemon's starts, stops and crashes.

#[path = "../common/host.rs"]
mod host;

use std::io::{Read, Write};
use std::path::Path;

use rustix::process::Signal;
use xenstored::host::sim::{SimClient, SimGuest};

use super::*;
use host::HostProcess;

/// Sends a request over a daemon's socket and returns the reply's payload.
pub fn request(socket: &Path, kind: u32, payload: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(kit::TIMEOUT)).unwrap();
    stream.write_all(&message(kind, payload)).unwrap();
    let mut header = [[0; 4]; 4];
    stream.read_exact(header.as_flattened_mut()).unwrap();
    let mut reply = vec![0; u32::from_le_bytes(header[3]) as usize];
    stream.read_exact(&mut reply).unwrap();
    String::from_utf8(reply).unwrap()
}

fn message(kind: u32, payload: &str) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap();
    [[kind, 1, 0, len].map(u32::to_le_bytes).as_flattened(), payload.as_bytes()].concat()
}

/// Reads the node `name` of the guest over its ring, and checks its value.
fn reads(guest: &SimGuest, value: &str) {
    let (request, expected) = (message(2, "name\0"), message(2, value));
    assert_eq!(guest.try_send(&request).unwrap(), request.len());
    let mut reply = vec![0; expected.len()];
    let mut filled = 0;
    while filled < reply.len() {
        match guest.try_recv(&mut reply[filled..]).unwrap() {
            0 => assert!(guest.wait(Some(kit::TIMEOUT)).unwrap(), "no reply"),
            count => filled += count,
        }
    }
    assert_eq!(reply, expected);
}

/// Introduces the guest like a toolstack, with a node of this value.
fn introduce(place: &Place, guest: &SimGuest, value: &str) {
    let (domid, port) = (guest.domid, guest.port);
    assert_eq!(request(&place.path("socket"), 8, &format!("{domid}\x001\0{port}\0")), "OK\0");
    let node = format!("/local/domain/{domid}/name\0");
    assert_eq!(request(&place.path("socket"), 11, &format!("{node}{value}")), "OK\0");
    assert_eq!(request(&place.path("socket"), 14, &format!("{node}n{domid}\0")), "OK\0");
}

fn host(place: &Place) -> SimClient {
    SimClient::connect(place.path("sim")).unwrap()
}

pub fn is_running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn guest_survives_a_killed_daemon() {
    let place = Place::new();
    let daemon = place.serve("");
    let mut client = host(&place);
    let pid = client.status().unwrap().pid;
    let guest = client.create(Some(Domid(7))).unwrap();
    introduce(&place, &guest, "before");
    reads(&guest, "before");
    let (_, text) = daemon.end(Signal::KILL);
    assert!(text.contains("info simulated host started"), "{text}");

    let daemon = place.serve("");
    assert_eq!(client.status().unwrap().pid, pid);
    assert_eq!(request(&place.path("socket"), 17, "7\0"), "F\0", "introduced without a toolstack");
    assert_eq!(request(&place.path("socket"), 2, "/local/domain/7/name\0"), "ENOENT\0");
    introduce(&place, &guest, "after");
    reads(&guest, "after");
    let mut watch = host(&place);
    let (status, text) = daemon.end(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{text}");
    let found = text.lines().find(|line| line.contains("simulated host found")).unwrap();
    assert!(found.contains("the store is empty") && found.contains(" guests=1 "), "{found}");
    assert!(watch.list().is_err(), "the host still serves");
    assert!(!place.path("sim").exists());
    wait_for("the end of the host's process", || (!is_running(pid)).then_some(()));
}

#[test]
fn host_ends_with_the_daemon_that_started_it() {
    for end in [Signal::TERM, Signal::INT] {
        let place = Place::new();
        let daemon = place.serve("");
        let pid = host(&place).status().unwrap().pid;
        assert_ne!(pid, u32::try_from(daemon.pid().as_raw_nonzero().get()).unwrap());
        daemon.end(end);
        assert!(!is_running(pid));
        assert!(!place.path("sim").exists());
    }
}

#[test]
fn host_started_by_hand_stays_until_it_is_stopped() {
    let place = Place::new();
    let process = HostProcess::start(&place.path("sim"), &[]);
    let sim = |options: &str| {
        let mut command = bare();
        command.args(["sim", "host", "--sim-socket"]).arg(place.path("sim"));
        command.args(options.split_whitespace()).output().unwrap()
    };
    let (status, text) = place.serve("").end(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{text}");
    let sentence = format!("process {} is the simulated host at ", process.pid());
    assert_fails(&sim(""), 7, &format!("a simulated host is there already: {sentence}"));
    let described = String::from_utf8(sim("--status").stdout).unwrap();
    assert!(described.starts_with(&sentence), "{described}");
    let rest = "sim: guests 0, no daemon; it stays until it is stopped\n";
    assert!(described.ends_with(rest), "{described}");
    assert!(sim("--stop").status.success());
    process.ends();
    assert_fails(&sim("--stop"), 8, "there is no simulated host at ");
    assert_fails(&sim("--status"), 8, "there is no simulated host at ");
}

#[test]
fn second_daemon_of_a_host_is_refused() {
    let place = Place::new();
    let daemon = place.serve("");
    let options = "--socket @other --sim-socket @sim";
    let sentence = "sim is a simulated host that another daemon serves; stop that daemon, or";
    assert_fails(&place.daemon(options).output().unwrap(), 7, sentence);
    assert!(!place.path("other").exists());
    assert!(serves(&place.path("socket")));
    assert_eq!(daemon.end(Signal::TERM).0.code(), Some(0));
}

#[test]
fn daemon_ends_with_its_host() {
    let place = Place::new();
    let mut daemon = place.serve("");
    host(&place).stop().unwrap();
    let mut text = String::new();
    daemon.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(daemon.0.wait().unwrap().code(), Some(8), "{text}");
    assert!(text.contains("xenstored: the simulated host at "), "{text}");
    assert!(text.contains("sim has ended\n"), "{text}");
    assert_eq!(place.serve("").end(Signal::TERM).0.code(), Some(0));
}

#[test]
fn host_that_cannot_start_says_why() {
    let place = Place::new();
    fs::write(place.path("sim"), "precious").unwrap();
    let sentence = "sim exists and is not a socket; remove it, or choose another path";
    assert_fails(&place.daemon("").output().unwrap(), 7, sentence);
    let command = &mut bare();
    command.args(["sim", "host", "--sim-socket"]).arg(place.path("sim"));
    assert_fails(&command.output().unwrap(), 7, sentence);
    assert_eq!(fs::read(place.path("sim")).unwrap(), b"precious");
    let missing = place.daemon("--sim-socket @none/sim").output().unwrap();
    assert_fails(&missing, 8, "the simulated host could not be started (exit status: 5)");
    assert_fails(&missing, 8, "none does not exist; create it with: mkdir -p ");
}

#[test]
fn unused_host_ends_after_its_time() {
    let place = Place::new();
    let process = HostProcess::start(&place.path("sim"), &["--until-unused=1"]);
    assert!(host(&place).status().unwrap().until_unused);
    process.ends();
}

//! `xenstored sim fleet` and a guest that works: they are moved, and see each loss and repetition.

#[path = "../common/lines.rs"]
mod lines;

use std::io::Write;
use std::process::Output;

use rustix::process::Pid;

use super::simulated_host::{is_running, request};
use super::*;
use lines::Lines;

fn fleet(place: &Place, options: &str) -> Command {
    let mut command = bare();
    command.args(["sim", "fleet", "--directory"]).arg(place.path("fleet"));
    command.args(options.split_whitespace());
    command
}

fn shell(line: &str) -> Output {
    Command::new("sh").args(["-c", line]).output().unwrap()
}

/// Returns the processes of a fleet's daemons.
fn daemons(place: &Place) -> Vec<u32> {
    let of = |name: &str| {
        let lock = fs::read_to_string(place.path(&format!("fleet/{name}/socket.lock"))).unwrap();
        lock.lines().next().unwrap().parse().unwrap()
    };
    ["a", "b"].into_iter().map(of).collect()
}

fn until_ended(processes: &[u32]) {
    wait_for("the processes' end", || processes.iter().all(|&pid| !is_running(pid)).then_some(()));
}

#[test]
fn fleet_moves_by_the_commands_it_prints_and_leaves_nothing() {
    let place = Place::new();
    let fleet_of = |options: &str| fleet(&place, options);
    let running = Lines::of(&mut fleet_of("--guests 5"));
    let command = |name: &str| running.until(name).split_once(':').unwrap().1.trim().to_owned();
    let [there, show, back] = ["move them:", "show them:", "move them back:"].map(command);
    running.until("guests on a: 5, on b: 0; ");
    let daemons = daemons(&place);
    assert!(daemons.iter().all(|&pid| is_running(pid)));

    let sentence = format!("process {} runs a fleet there:", running.child.id());
    let again = fleet_of("").output().unwrap();
    assert_fails(&again, 7, &sentence);
    assert!(String::from_utf8_lossy(&again.stderr).contains(&there), "{again:?}");

    for (command, line) in
        [(&there, "guests on a: 0, on b: 5; "), (&back, "guests on a: 5, on b: 0; ")]
    {
        let moved = shell(command);
        assert!(moved.status.success(), "{moved:?}");
        let line = running.until(line);
        assert!(line.contains(" steps, nothing lost, nothing repeated; "), "{line}");
        // The fleet destroys the domains that have left, as a toolstack does.
        wait_for("settled domains", || {
            let shown = String::from_utf8(shell(&show).stdout).unwrap();
            shown.starts_with("all domains run; ").then_some(())
        });
    }
    assert_eq!(running.interrupt(), (Some(0), String::new()));
    until_ended(&daemons);
    assert!(!place.path("fleet").exists());
}

#[test]
fn guest_of_a_fleet_sees_a_change_that_is_not_its_own() {
    const NODE: &str = "/local/domain/2/data/counter\0";
    for (value, sentence) in [("1000000", ": repeated\n"), ("0", ": lost\n")] {
        let place = Place::new();
        let running = Lines::of(&mut fleet(&place, "--guests 2"));
        running.until("guests on a: 2, ");
        let socket = place.path("fleet/a/socket");
        assert_eq!(request(&socket, 11, &format!("{NODE}{value}")), "OK\0");
        for _ in 0..2 {
            let before = request(&socket, 2, NODE);
            wait_for("a step", || (request(&socket, 2, NODE) != before).then_some(()));
        }
        let (code, text) = running.interrupt();
        let said = format!("domain 2: the counter is {value}, not ").replace("is 0,", "is \"0\",");
        let line = text.lines().find(|line| line.starts_with(&said));
        assert!(line.is_some_and(|line| line.ends_with(sentence.trim_end())), "{text}");
        assert_eq!((code, text.contains("domain 1")), (Some(1), false), "{text}");
    }
}

#[test]
fn fleet_that_cannot_start_says_why() {
    let place = Place::new();
    assert_fails(&fleet(&place, "--guests 0").output().unwrap(), 2, "0 is not in 1..=500");
    let missing = &mut bare();
    missing.args(["sim", "fleet", "--directory"]).arg(place.path("none/fleet"));
    assert_fails(&missing.output().unwrap(), 5, "none does not exist; create it with: mkdir -p ");
    let long = &mut bare();
    long.args(["sim", "fleet", "--directory"]).arg(place.path(&"x".repeat(100)));
    assert_fails(&long.output().unwrap(), 6, "and the system allows 107");
    fs::create_dir(place.path("fleet")).unwrap();
    fs::set_permissions(place.path("fleet"), fs::Permissions::from_mode(0o755)).unwrap();
    let sentence = "fleet is not a directory that only this user can use; choose another";
    assert_fails(&fleet(&place, "").output().unwrap(), 8, sentence);
    fs::set_permissions(place.path("fleet"), fs::Permissions::from_mode(0o700)).unwrap();
    // Another daemon has the place of one of the two.
    fs::create_dir(place.path("fleet/b")).unwrap();
    fs::write(place.path("fleet/b/own"), "precious").unwrap();
    for (sim_socket, code, sentence) in [
        ("@fleet/b/sim", 7, "another simulated host serves "),
        ("@other", 8, "the daemon of host b has ended (exit status: 3): xenstored: another"),
    ] {
        let daemon = place.serve(&format!("--socket @fleet/b/socket --sim-socket {sim_socket}"));
        assert_fails(&fleet(&place, "").output().unwrap(), code, sentence);
        assert!(serves(&place.path("fleet/b/socket")));
        assert_eq!(daemon.end(Signal::TERM).0.code(), Some(0));
    }
    assert_eq!(fs::read(place.path("fleet/b/own")).unwrap(), b"precious");
    assert!(!place.path("fleet/a").exists());
}

#[test]
fn fleet_and_daemons_end_with_any_of_them() {
    for killed in 0..3 {
        let place = Place::new();
        let running = Lines::of(&mut fleet(&place, "--guests 2"));
        running.until("guests on a: 2, ");
        let daemons = daemons(&place);
        let all = [running.child.id(), daemons[0], daemons[1]];
        let pid = Pid::from_raw(all[killed].cast_signed()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        let (code, text) = running.end();
        until_ended(&daemons);
        let log = place.path("fleet/a/log");
        if killed == 0 {
            assert_eq!(code, None, "{text}");
        } else {
            assert_eq!(code, Some(8), "{text}");
            let name = ["a", "b"][killed - 1];
            let said = format!("the daemon of host {name} has ended (signal: 9 (SIGKILL)): ");
            assert!(text.contains(&said), "{text}");
            assert!(log.exists(), "the logs of a failure");
        }
        let again = Lines::of(&mut fleet(&place, "--guests 1"));
        again.until("guests on a: 1, ");
        assert_eq!(again.interrupt(), (Some(0), String::new()));
        assert!(!place.path("fleet").exists());
    }
}

/// The guest types on at the other host, where its earlier watch and nodes are.
#[test]
fn sim_guest_goes_on_at_another_host() {
    let [from, to] = [Place::new(), Place::new()];
    let daemons = [from.serve(""), to.serve("")];
    let guest = |options: &str| {
        let mut command = bare();
        command.args(["sim", "guest", "--sim-socket"]).arg(from.path("sim"));
        command.arg("--other-host").arg(to.path("sim")).args(options.split_whitespace());
        Lines::of(&mut command)
    };
    let mut typed = guest("--domid 7");
    let mut input = typed.child.stdin.take().unwrap();
    input.write_all(b"watch door\nwrite door open\n").unwrap();
    typed.until("event door");
    typed.until("event door");
    let mut working = guest("--domid 8 --work");
    working.until("domain 8 works and checks itself");

    let mut xsctl = Command::new(env!("CARGO_BIN_EXE_xsctl"));
    xsctl.args(["move", "--domains", "7,8", "--socket"]).arg(from.path("socket"));
    let moved = xsctl.arg("--to").arg(to.path("socket")).output().unwrap();
    assert!(moved.status.success(), "{moved:?}");
    let read = |node: &str| request(&to.path("socket"), 2, node);
    input.write_all(b"read door\nwrite door shut\n").unwrap();
    assert_eq!(typed.until(""), "open");
    assert_eq!(typed.until(""), "event door");
    assert_eq!(read("/local/domain/7/door\0"), "shut");
    let before = read("/local/domain/8/data/counter\0");
    wait_for("a step", || (read("/local/domain/8/data/counter\0") != before).then_some(()));

    drop(input);
    assert_eq!(typed.end(), (Some(0), String::new()));
    drop(working.child.stdin.take());
    working.until(" steps, nothing lost, nothing repeated");
    assert_eq!(working.end(), (Some(0), String::new()));
    daemons.into_iter().for_each(|daemon| drop(daemon.end(Signal::TERM)));
}

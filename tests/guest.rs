//! `xenstored sim guest`, driven through pipes.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

use common::{Control, World};

fn guest(world: &World, options: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["20", env!("CARGO_BIN_EXE_xenstored"), "sim", "guest", "--sim-socket"]);
    command.arg(world.daemon.path("sim")).args(options).env_remove("XENSTORED_PATH");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(world: &World, options: &[&str]) -> Child {
    guest(world, options).spawn().unwrap()
}

/// Runs a guest with this input.
fn run(world: &World, options: &[&str], input: &str) -> Output {
    let mut child = start(world, options);
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[track_caller]
fn prints(world: &World, input: &str, expected: &str) {
    let output = run(world, &["--domid", "7"], input);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{errors}");
    assert_eq!(output.status.code(), Some(0), "{errors}");
    until_gone(world);
}

/// Waits until the guest's domain, which ends with the guest, is gone; then its domid is free again.
fn until_gone(world: &World) {
    let mut host = xenstored::host::sim::SimClient::connect(world.daemon.path("sim")).unwrap();
    let start = std::time::Instant::now();
    while host.list().unwrap().iter().any(|listed| listed.domid.0 == 7) {
        assert!(start.elapsed() < common::HANG, "timed out waiting for the domain's destruction");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn sim_guest_reads_writes_and_lists_without_a_prompt() {
    let world = &World::new(Control::Socket, 2);
    prints(world, "write a/b some value\nread a/b\nls\nls a\nrm a\nls\n", "some value\na\nb\n");
    prints(world, "mkdir a\nperms a\nperms a b7 r0\nperms a\n", "n7\nb7\nr0\n");
    prints(
        world,
        "  read /local/domain/7/a\n# no such node\n\n".replace("read", "mkdir").as_str(),
        "",
    );
    prints(world, "write a 1\nread a", "1\n");
    prints(world, "mkdir a\nquit\nread nothing\n", "");
}

#[test]
fn sim_guest_transactions_are_atomic() {
    let world = &World::new(Control::Socket, 2);
    prints(world, "begin\nwrite a 1\nread a\nabort\nls\n", "1\n");
    prints(world, "begin\nwrite a 1\ncommit\nread a\n", "1\n");
}

#[test]
fn sim_guest_prints_all_events_including_the_last() {
    let world = &World::new(Control::Socket, 2);
    let expected = "event a\nevent a/b\nevent a\n";
    prints(world, "watch a\nwrite a/b 1\nrm a\n", expected);
    prints(world, "watch a\nunwatch a\nwrite a 1\n", "event a\n");
}

#[test]
fn sim_guest_prints_events_caused_by_others_at_once() {
    let mut world = World::new(Control::Socket, 2);
    let mut child = start(&world, &["--domid", "7"]);
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    stdin.write_all(b"watch door\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "event door");
    world.admin.write("/local/domain/7/door", "evil \x1b[2J").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "event door");
    stdin.write_all(b"read door\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "evil \\x1b[2J");
    drop(stdin);
    assert!(lines.next().is_none());
    assert!(child.wait().unwrap().success());
}

#[test]
fn failed_command_is_named_and_sets_the_exit_code() {
    let world = &World::new(Control::Socket, 2);
    for (line, why) in [
        ("read nothing", "read nothing: ENOENT"),
        ("write /tool/x 1", "write /tool/x 1: EACCES"),
        ("read", "read: usage:\nread PATH"),
        ("dance", "dance: unknown command; type help for a list"),
        ("commit", "commit: no transaction is open"),
    ] {
        let output = run(world, &[], &format!("{line}\nwrite a 1\nread a\n"));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(why), "{line}: {text}");
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert_eq!(output.stdout, b"1\n", "{line}: the other commands still run");
    }
}

#[test]
fn failed_start_of_a_sim_guest_reports_the_reason() {
    let mut world = World::new(Control::Socket, 2);
    world.create(9);
    let output = run(&world, &["--domid", "9"], "");
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("exists already"), "{output:?}");
    let mut without = guest(&world, &[]);
    let output = without.env("XENSTORED_PATH", "/nonexistent/socket").output().unwrap();
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("cannot use /nonexistent/socket: "), "{text}");
}

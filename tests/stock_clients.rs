//! Debian's clients (packages xenstore-utils and xen-utils-4.17) against this daemon.
//!
//! `.ci/run` installs them. Without these clients the tests fail, unless `XENSTORED_WITHOUT_STOCK_CLIENTS` is set.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use common::stock::{present, program};
use common::{Control, World, op};

fn command(world: &World, words: &[&str]) -> Command {
    let mut command = Command::new(program(words[0]));
    command.args(&words[1..]).env("XENSTORED_PATH", world.daemon.path("socket"));
    command
}

fn run(world: &World, words: &[&str]) -> Output {
    // The clients wait for nothing except the daemon; `timeout` turns a hang into a failure.
    let inner = command(world, words);
    let mut command = Command::new("timeout");
    command.arg("20").arg(inner.get_program()).args(inner.get_args());
    command.env("XENSTORED_PATH", world.daemon.path("socket")).output().unwrap()
}

/// Returns the output of a client, which must succeed.
fn says(world: &World, words: &[&str]) -> String {
    let output = run(world, words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn fails(world: &World, words: &[&str]) -> Output {
    let output = run(world, words);
    assert!(!output.status.success(), "{words:?}: {output:?}");
    assert_ne!(output.status.code(), Some(124), "{words:?} hangs");
    output
}

fn each_world(test: impl Fn(&mut World)) {
    if present() {
        for shards in [1, 4] {
            test(&mut World::new(Control::Socket, shards));
        }
    }
}

#[test]
fn read_write_exists_and_rm_work() {
    each_world(|world| {
        says(world, &["write", "/a/b", "value", "/a/c", "other"]);
        assert_eq!(says(world, &["read", "/a/b"]), "value\n");
        assert_eq!(says(world, &["read", "-p", "/a/b", "/a/c"]), "/a/b: value\n/a/c: other\n");
        says(world, &["exists", "/a/b"]);
        fails(world, &["exists", "/a/x"]);
        fails(world, &["read", "/a/x"]);
        fails(world, &["write", "/a//b", "v"]);
        says(world, &["rm", "/a/b"]);
        fails(world, &["read", "/a/b"]);
        // -t removes parents that become empty.
        says(world, &["rm", "-t", "/a/c"]);
        fails(world, &["exists", "/a"]);
    });
}

#[test]
fn list_and_ls_show_children_and_values() {
    each_world(|world| {
        says(world, &["write", "/l/one", "1", "/l/two/three", "3", "/l/empty", ""]);
        let mut names: Vec<_> = says(world, &["list", "/l"]).lines().map(str::to_owned).collect();
        names.sort();
        assert_eq!(names, ["empty", "one", "two"]);
        let mut lines: Vec<_> = says(world, &["ls", "/l"]).lines().map(str::to_owned).collect();
        lines.sort();
        assert_eq!(lines, [" three = \"3\"", "empty = \"\"", "one = \"1\"", "two = \"\""]);
        let full = says(world, &["ls", "-f", "-p", "/l"]);
        assert!(
            full.lines()
                .any(|line| line.starts_with("/l/two/three = \"3\"") && line.ends_with("(n0)"))
        );
        assert!(says(world, &["ls"]).contains("xenstored = \"\""));
        fails(world, &["ls", "/missing"]);
    });
}

#[test]
fn ls_lists_more_children_than_a_reply_holds() {
    each_world(|world| {
        for i in 0..2000 {
            world.admin.write(&format!("/local/domain/{i}/name"), "n").unwrap();
        }
        let listed = says(world, &["ls", "/local/domain"]);
        assert_eq!(listed.lines().filter(|line| line.ends_with("name = \"n\"")).count(), 2000);
        assert_eq!(says(world, &["list", "/local/domain"]).lines().count(), 2000);
    });
}

#[test]
fn chmod_sets_permissions() {
    each_world(|world| {
        world.guest(5);
        says(world, &["write", "/c/d", "v"]);
        says(world, &["chmod", "/c/d", "n0", "r5"]);
        assert_eq!(world.guest(5).read("/c/d").as_deref(), Ok(&b"v"[..]));
        says(world, &["chmod", "-r", "/c", "r0", "b5"]);
        let full = says(world, &["ls", "-f", "-p", "/c"]);
        assert!(full.contains("(r0,b5)"), "{full}");
    });
}

#[test]
fn watch_prints_events() {
    each_world(|world| {
        // The client prints the first event, then as many as requested.
        let mut child =
            command(world, &["watch", "-n", "3", "/w"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "/w");
        says(world, &["write", "/w/x", "v"]);
        assert_eq!(lines.next().unwrap().unwrap(), "/w/x");
        says(world, &["rm", "/w"]);
        assert_eq!(lines.next().unwrap().unwrap(), "/w");
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn control_runs_commands() {
    each_world(|world| {
        assert_eq!(says(world, &["control", "check"]).trim(), "OK");
        assert_eq!(says(world, &["control", "print", "hello"]).trim(), "OK");
        let help = says(world, &["control", "help"]);
        assert!(help.contains("memreport") && help.contains("quota-soft"), "{help}");
        let quota = says(world, &["control", "quota"]);
        assert!(quota.starts_with("Quota settings:"), "{quota}");
        assert_eq!(says(world, &["control", "quota", "set", "nodes", "77"]).trim(), "OK");
        assert!(
            says(world, &["control", "quota"])
                .lines()
                .any(|line| line.contains("nodes") && line.contains(" 77 "))
        );
        let report = world.daemon.path("report").display().to_string();
        assert_eq!(says(world, &["control", "memreport", &report]).trim(), "OK");
        let report = std::fs::read_to_string(report).unwrap();
        assert!(report.lines().any(|line| line == "open transactions: 0"), "{report}");
        fails(world, &["control", "no-such-command"]);
    });
}

#[test]
fn control_quiesces_and_unquiesces() {
    each_world(|world| {
        world.guest(5).write("x", "old").unwrap();
        world.guest(6);
        assert_eq!(says(world, &["control", "quiesce", "5", "6"]), "OK\n");
        world.guest(5).send(op::WRITE, 0, "x\0new");
        assert_eq!(says(world, &["control", "quiesce", "5", "77"]).trim(), "77 ENOENT");
        fails(world, &["control", "quiesce", "77"]);
        assert_eq!(says(world, &["read", "/local/domain/5/x"]), "old\n");
        assert_eq!(says(world, &["control", "unquiesce", "5", "6"]), "OK\n");
        assert_eq!(world.guest(5).reply().as_deref(), Ok(&b"OK\0"[..]));
        assert_eq!(says(world, &["read", "/local/domain/5/x"]), "new\n");
    });
}

#[test]
fn control_moves_watches_and_reserves_transactions() {
    each_world(|world| {
        world.guest(5).watch("data", " odd\n\\").unwrap();
        world.guest(5).watch("@releaseDomain", "t").unwrap();
        world.guest(5).request(op::WATCH, 0, "deep\0t\x001\0").unwrap();
        world.guest(6);
        let listed = says(world, &["control", "get-domain-watches", "-d", "5", "0"]);
        let lines: Vec<_> = listed.lines().skip(1).filter(|line| !line.is_empty()).collect();
        assert_eq!(lines, ["data \\x20odd\\x0a\\x5c ", "@releaseDomain t ", "deep t 1"]);
        // One line per watch, its words separated by blanks, as a script would pass them.
        let words = lines.iter().flat_map(|line| line.split(' '));
        let add = ["control", "add-domain-watches", "-d", "6"];
        assert_eq!(says(world, &add.into_iter().chain(words).collect::<Vec<_>>()), "OK\n");
        let again = says(world, &["control", "get-domain-watches", "-d", "6", "0"]);
        assert_eq!(
            again.lines().skip(1).collect::<Vec<_>>(),
            listed.lines().skip(1).collect::<Vec<_>>()
        );
        fails(world, &["control", "add-domain-watches", "6", "data", "t", "data"]);
        assert_eq!(says(world, &["control", "start-domain-transaction", "6", "9"]), "OK\n");
        fails(world, &["control", "start-domain-transaction", "6", "9"]);
        assert_eq!(world.guest(6).commit(9), Err("EAGAIN".to_owned()));
    });
}

#[test]
fn control_live_update_fails_with_a_message() {
    each_world(|world| {
        let output = fails(world, &["control", "live-update", "/bin/true"]);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(said.contains("--no-keeper"), "{said}");
        says(world, &["exists", "/tool"]);
    });
}

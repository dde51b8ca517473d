//! `xsctl upgrade`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::daemon::Daemon;
use crate::common::world::{Control, World};

fn upgrade(world: &World, arguments: &[&str]) -> Output {
    let socket = world.daemon.path("socket");
    let mut command = Command::new(env!("CARGO_BIN_EXE_xsctl"));
    command.arg("--socket").arg(socket).arg("upgrade").args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

#[test]
fn upgrade_replaces_the_program_and_says_what_it_carried() {
    let world = &mut World::around(Daemon::start_with_keeper(2), Control::Socket);
    world.guest(5).write("x", "1").unwrap();
    let tx = world.guest(5).start().unwrap();
    for (arguments, result) in [
        (&["--dry-run"][..], "result=checked program=\""),
        (&[], "result=upgraded program=\""),
        // The same again does the same.
        (&[], "result=upgraded program=\""),
        (&["--json", env!("CARGO_BIN_EXE_xenstored")], "{\"result\":\"upgraded\",\"program\":\""),
        (&["--json", "--dry-run"], "{\"result\":\"checked\",\"program\":\""),
    ] {
        let output = upgrade(world, arguments);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {text}");
        assert!(text.starts_with(result), "{arguments:?}: {text}");
        for carried in ["domains", "nodes", "clients", "transactions"] {
            assert!(text.contains(carried), "{arguments:?}: {text}");
        }
        let is_check = arguments.contains(&"--dry-run");
        assert_eq!(text.contains("pause_us"), !is_check, "{text}");
    }
    assert!(said(&upgrade(world, &["--quiet"])).is_empty());
    world.guest(5).commit(tx).unwrap();
    assert_eq!(world.guest(5).read("x").unwrap(), b"1");
}

#[test]
fn upgrade_that_is_refused_fails_with_a_sentence() {
    let world = &mut World::around(Daemon::start_with_keeper(2), Control::Socket);
    for (arguments, code, sentence) in [
        (&["/bin/true"][..], 8, "is no xenstored that can go on"),
        (&["/nonexistent"], 8, "No such file"),
        (&["--options", "--shards x"], 8, "without a report"),
        (&["--dry-run", "/bin/true"], 8, "is no xenstored that can go on"),
        (&["a", "b"], 2, "unexpected argument"),
    ] {
        let output = upgrade(world, arguments);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(sentence), "{arguments:?}: {text}");
    }
    world.check_store();
}

/// A package replaces the file of the running program.
#[test]
fn upgrade_without_a_program_takes_the_file_at_the_running_ones_path() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("xenstored");
    let replace = || {
        let new = directory.path().join("new");
        fs::copy(env!("CARGO_BIN_EXE_xenstored"), &new).unwrap();
        fs::rename(new, &program).unwrap();
    };
    replace();
    let daemon = Daemon::start_program_with_keeper(Path::new(&program), 2);
    let world = &mut World::around(daemon, Control::Socket);
    world.guest(5).write("x", "1").unwrap();
    for _ in 0..2 {
        replace();
        let output = upgrade(world, &[]);
        assert!(said(&output).contains(&format!("program={program:?}")), "{}", said(&output));
        assert_eq!(world.guest(5).read("x").unwrap(), b"1");
    }
}

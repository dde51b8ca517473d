//! Programs that cannot go on: each is refused with a sentence, and the daemon goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::daemon::Daemon;
use crate::common::wire::{op, show};
use crate::common::world::{Control, World};

/// Requests an update, and returns the reply.
fn update(world: &mut World, program: &Path, options: Option<&str>) -> String {
    let mut ask = |words: &str| {
        let payload = format!("{}\0", words.replace('|', "\0"));
        let reply = world.admin.request(op::CONTROL, 0, payload).map(|reply| show(&reply));
        reply.unwrap_or_else(|errno| errno).trim_end_matches('|').to_owned()
    };
    let mut requests = vec![format!("live-update|-f|{}", program.display())];
    requests.extend(options.map(|options| format!("live-update|-c|{options}")));
    for request in requests {
        match ask(&request) {
            reply if reply == "OK" => {}
            reply => return reply,
        }
    }
    ask("live-update|-s|-t|60")
}

#[test]
fn program_that_cannot_go_on_is_refused_with_a_sentence() {
    let world = &mut World::around(Daemon::start_with_keeper(2), Control::Socket);
    let own = Path::new(env!("CARGO_BIN_EXE_xenstored"));
    let file = |name: &str, bytes: &[u8]| {
        let path = world.daemon.path(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let bytes = fs::read(own).unwrap();
    let other_machine = {
        let mut bytes = bytes.clone();
        // e_machine of the ELF header: SPARC.
        bytes[18..20].copy_from_slice(&[2, 0]);
        file("other-machine", &bytes)
    };
    let script =
        file("script", b"#!/bin/sh\n# xenstored live update, state of version 1\nexit 0\n");
    let truncated = file("truncated", &bytes[..bytes.len() / 16]);
    let empty = file("empty", b"");
    world.guest(5).write("x", "1").unwrap();
    let no_xenstored = "is no xenstored that can go on with the state of this one";
    for (program, options, expected) in [
        (Path::new("/bin/true"), None, no_xenstored),
        (Path::new("/nonexistent"), None, "No such file or directory"),
        (Path::new("/tmp"), None, "is not a file"),
        (Path::new("relative"), None, "absolute path"),
        (&empty, None, no_xenstored),
        (&script, None, "without a report"),
        (&other_machine, None, "cannot start"),
        (&truncated, None, ""),
        (own, Some("--help"), "without a report"),
        (own, Some("--no-such-option"), "without a report"),
        (own, Some("'"), "quote"),
    ] {
        let reply = update(world, program, options);
        assert!(reply.contains(expected) && reply != "OK", "{program:?} {options:?}: {reply}");
        assert_eq!(world.guest(5).read("x").unwrap(), b"1", "{program:?}");
    }
    world.check_store();
    assert_eq!(update(world, own, None), "OK");
    assert_eq!(world.guest(5).read("x").unwrap(), b"1");
}

#[test]
fn checked_program_does_not_take_over() {
    let world = &mut World::around(Daemon::start_with_keeper(2), Control::Socket);
    world.guest(5).write("x", "1").unwrap();
    let own = env!("CARGO_BIN_EXE_xenstored");
    world.admin.control(&format!("live-update -f {own}")).unwrap();
    let reply = show(&world.admin.control("live-update -s -n").unwrap());
    assert!(reply.starts_with("OK, nodes="), "{reply}");
    assert!(!world.log().contains("serving after a live update"));
    // What was prepared is used up.
    let reply = show(&world.admin.control("live-update -s").unwrap());
    assert!(reply.contains("must be named first"), "{reply}");
}

#[test]
fn daemon_without_keeper_refuses_an_update() {
    let world = &mut World::around(Daemon::start(1), Control::Socket);
    let reply = update(world, Path::new(env!("CARGO_BIN_EXE_xenstored")), None);
    assert!(reply.contains("--no-keeper"), "{reply}");
}

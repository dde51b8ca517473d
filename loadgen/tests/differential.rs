//! The differential test as `loadgen differential` runs it: short here, long in `.ci/run`.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use loadgen::target::{Target, peers};

/// Runs the differential test with these arguments; returns `None` if the peers are not installed, which fails in CI.
fn run(arguments: &[&str]) -> Option<Output> {
    run_with(arguments, &[])
}

/// Runs the differential test with these arguments and environment variables.
fn run_with(arguments: &[&str], variables: &[(&str, &Path)]) -> Option<Output> {
    if !peers::are_installed() {
        let in_ci = std::env::var_os("CI").is_some();
        assert!(!in_ci, "run loadgen/install-peers.sh first");
        eprintln!("skipped: loadgen/install-peers.sh has not been run");
        return None;
    }
    let mut command = Command::new(LOADGEN);
    command.arg("differential").args(arguments).envs(variables.iter().copied());
    Some(command.output().unwrap())
}

const LOADGEN: &str = env!("CARGO_BIN_EXE_loadgen");

/// Returns a step count of the report.
fn compared(text: &str, peer: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{peer}: ")));
    line.and_then(|line| line.split(' ').next()?.parse().ok()).unwrap_or_default()
}

/// Writes a script that acts as a daemon.
fn script(path: &Path, lines: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

/// Returns the script of a daemon that aborts, as by a failed assertion, once a sequence has changed `/t/a`. The daemon
/// survives its start, since a watch's first event comes when the watch is set.
fn aborting(daemon: &str) -> String {
    format!(
        "daemon=$$
         (
             until test -S $XENSTORED_RUNDIR/socket; do sleep 0.01; done
             export XENSTORED_PATH=$XENSTORED_RUNDIR/socket
             LD_LIBRARY_PATH= xenstore-watch -n 2 /t/a && kill -ABRT $daemon
         ) >/dev/null 2>&1 &
         exec {daemon} \"$@\""
    )
}

/// Creates a folder of peers in which the C daemon is this script.
fn peers_with(lines: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    script(&folder.path().join("xenstored"), lines);
    symlink(peers::program(&Target::OCaml), folder.path().join("oxenstored")).unwrap();
    let path = folder.path().to_owned();
    (folder, path)
}

#[test]
fn three_daemons_agree_except_for_known_differences() {
    let Some(output) = run(&["--requests", "2000", "--seed", "1"]) else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // A run that compares nothing would find no difference.
    assert!(compared(&text, "c") > 1000, "{text}");
    assert!(compared(&text, "ocaml") > 400, "{text}");
    for peer in [Target::C, Target::OCaml] {
        let version = peer.version();
        assert!(text.contains(&format!("\n{peer} is {version}")), "{version}: {text}");
    }
}

#[test]
fn aborting_peer_is_dropped_and_reported_with_its_version() {
    let c = peers::program(&Target::C);
    let (_kept, folder) = peers_with(&aborting(&c.display().to_string()));
    let variables: [(&str, &Path); 1] = [("XENSTORED_PEERS", &folder)];
    let Some(output) = run_with(&["--requests", "2000", "--seed", "1"], &variables) else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let version = format!("{}/xenstored (of no package)", folder.display());
    let ended = format!("c is {version}, and EXITED in ");
    let (_, rest) = text.split_once(&ended).unwrap_or_else(|| panic!("no {ended:?} in {text}"));
    let times: u64 = rest.split(' ').next().unwrap().parse().unwrap();
    assert!(times > 2, "c is restarted for the next sequence: {text}");
    assert!(rest.contains(", first in sequence ") && rest.contains("SIGABRT"), "{text}");
    assert_eq!(text.matches("EXITED").count(), 1, "oxenstored keeps running: {text}");
    assert!(compared(&text, "c") > 0 && compared(&text, "ocaml") > 400, "{text}");
}

#[test]
fn peer_that_cannot_be_started_is_an_error() {
    let (_kept, folder) = peers_with("echo no such luck; exit 7");
    let variables: [(&str, &Path); 1] = [("XENSTORED_PEERS", &folder)];
    let Some(output) = run_with(&["--requests", "100"], &variables) else { return };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    for part in ["cannot start c, ", "(of no package)", "exit status: 7", "no such luck"] {
        assert!(stderr.contains(part), "no {part:?} in {stderr}");
    }
}

#[test]
fn abort_of_our_daemon_fails_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let ours = folder.path().join("ours");
    // The test runs only once: a failure that cannot be reproduced fails it too.
    // It is asked for its options first.
    let begun = folder.path().join("begun");
    let once = format!("if [ \"$1\" != --help ] && mkdir {} 2>/dev/null; then", begun.display());
    let daemon = format!("{LOADGEN} daemon");
    script(&ours, &format!("{once}\n{}\nfi\nexec {daemon} \"$@\"", aborting(&daemon)));
    let Some(output) = run_with(&["--requests", "2000"], &[("XENSTORED", &ours)]) else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("ours does not reply: "), "{text}");
}

/// A difference that no row explains ends the run, with a sequence of few steps that shows it.
#[test]
fn unexplained_difference_fails_the_run() {
    for (name, shown) in [
        ("directory-part-offset", "(c DIRECTORY_PART: EINVAL| here, "),
        ("o-watch-transaction", "ocaml: \"OK|\" of another transaction"),
    ] {
        let arguments = ["--requests", "100000", "--seed", "1", "--forget", name];
        let Some(output) = run(&arguments) else { return };
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        assert!(text.contains(shown), "{name}: {text}");
        let steps = text.lines().skip(1).take_while(|line| line.starts_with(' ')).count();
        assert!((1..10).contains(&steps), "{name}: {text}");
    }
    let Some(output) = run(&["--forget", "nothing"]) else { return };
    assert_eq!(output.status.code(), Some(3));
}

//! The differential test as `loadgen differential` runs it: short here, long in `.ci/run`.

use std::process::{Command, Output};

use loadgen::target::peers;

/// Runs it with these arguments; `None` where the peers are not installed, which is no excuse in CI.
fn run(arguments: &[&str]) -> Option<Output> {
    if !peers::are_installed() {
        let told = std::env::var_os("CI").is_some();
        assert!(!told, "run loadgen/install-peers.sh first");
        eprintln!("skipped: loadgen/install-peers.sh has not been run");
        return None;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    Some(command.arg("differential").args(arguments).output().unwrap())
}

#[test]
fn the_three_daemons_agree_but_for_what_is_known() {
    let Some(output) = run(&["--requests", "2000", "--seed", "1"]) else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // What compares nothing finds nothing.
    let compared = |peer: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{peer}: ")));
        line.and_then(|line| line.split(' ').next()?.parse().ok()).unwrap_or_default()
    };
    assert!(compared("c") > 1000, "{text}");
    assert!(compared("ocaml") > 400, "{text}");
}

/// A difference that no row explains ends the run, with a sequence of a few steps that shows it.
#[test]
fn a_new_difference_fails() {
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

//! The differential test as `loadgen differential` runs it: short here, long in `.ci/run`.

use std::process::Command;

use loadgen::target::peers;

#[test]
fn the_three_daemons_agree_but_for_what_is_known() {
    if !peers::are_installed() {
        let told = std::env::var_os("CI").is_some();
        assert!(!told, "run loadgen/install-peers.sh first");
        return eprintln!("skipped: loadgen/install-peers.sh has not been run");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(["differential", "--requests", "2000", "--seed", "1"]);
    let output = command.output().unwrap();
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

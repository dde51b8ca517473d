//! Runs in which a target fails: the others are measured, the reports are written, and the exit code shows the
//! failure.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const LOADGEN: &str = env!("CARGO_BIN_EXE_loadgen");

/// Runs `loadgen --quick` with these arguments and its reports in `dir`.
fn run(dir: &Path, words: &[&str], xenstored: Option<&Path>) -> Output {
    let mut command = Command::new(LOADGEN);
    command.args(words).args(["--quick", "--json"]).arg(dir.join("json"));
    command.arg("--html").arg(dir.join("html")).env_remove("XENSTORED");
    if let Some(xenstored) = xenstored {
        command.env("XENSTORED", xenstored);
    }
    command.output().unwrap()
}

/// Returns the reports, as JSON and as HTML.
fn reports(dir: &Path) -> (Value, String) {
    let text = |name| std::fs::read_to_string(dir.join(name)).unwrap();
    (serde_json::from_str(&text("json")).unwrap(), text("html"))
}

/// Returns the targets of which a scenario of the report has figures.
fn measured<'a>(report: &'a Value, scenario: &str) -> Vec<&'a str> {
    let scenarios = report["scenarios"].as_array().unwrap();
    let found = scenarios.iter().find(|one| one["name"] == scenario).unwrap();
    let mut targets: Vec<&str> = found["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["target"].as_str().unwrap())
        .collect();
    targets.dedup();
    targets
}

#[test]
fn wrong_reply_fails_the_run_and_keeps_the_report() {
    let dir = tempfile::tempdir().unwrap();
    // A daemon that replies to everything with three bytes.
    let liar = dir.path().join("liar");
    let script = format!(
        "#!/bin/sh\nexec {LOADGEN} echo --socket $XENSTORED_RUNDIR/socket --sim $XENSTORED_RUNDIR/sim\n"
    );
    std::fs::write(&liar, script).unwrap();
    std::fs::set_permissions(&liar, Permissions::from_mode(0o755)).unwrap();
    let words = ["directory", "shards", "--target", "ours", "--target", "echo"];
    let output = run(dir.path(), &words, Some(&liar));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("loadgen: directory, "), "{stderr}");
    let (json, html) = reports(dir.path());
    assert_eq!(measured(&json, "directory"), ["echo"]);
    // The daemon does not print its version either, but serves until it is killed.
    let version = json["versions"]["ours"].as_str().unwrap();
    assert_eq!(version, format!("of unknown version, {}", liar.display()));
    assert_eq!(measured(&json, "shards"), ["echo"], "the run continues after a failure");
    assert!(html.contains("FAILED"), "{html}");
}

#[test]
fn unreachable_target_is_named_and_the_run_continues() {
    let dir = tempfile::tempdir().unwrap();
    let unreachable = format!("socket:{}", dir.path().join("absent").display());
    let words =
        ["directory", "vchan", "--target", &unreachable, "--target", "ours", "--target", "echo"];
    let output = run(dir.path(), &words, None);
    let (stderr, table) =
        (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    let (json, html) = reports(dir.path());
    assert_eq!(measured(&json, "vchan"), ["ours"]);
    assert!(measured(&json, "directory").contains(&"ours"));
    let (failed, absent) =
        (format!("FAILED: {unreachable}"), "left out: echo: it has no transactions");
    for text in [&*table, &*html] {
        assert!(text.contains(&failed), "{text}");
        assert!(text.contains(absent), "{text}");
    }
}

#[test]
fn report_names_builds_and_leaves_one_cycle_undecided() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["soak", "--target", "ours"], None);
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{table}");
    let (json, html) = reports(dir.path());
    let commit = json["commit"].as_str().unwrap();
    let builds = format!("commit {commit}\nours: xenstored {}\n", env!("CARGO_PKG_VERSION"));
    assert!(table.starts_with(&builds), "{builds:?} is not the start of {table}");
    assert!(html.contains(&format!("commit {commit}")), "{html}");
    let version = format!("xenstored {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(json["versions"]["ours"], version);
    // One cycle cannot show growth, so the goal is reported as undecided.
    let soak = &json["scenarios"][0];
    assert_eq!(soak["goals"], Value::Array(Vec::new()));
    assert!(soak["undecided"][0].as_str().unwrap().contains("growth of memory"), "{soak}");
    assert!(table.contains("undecided: soak: growth") && !table.contains("reached: "), "{table}");
    assert!(html.contains("? undecided") && html.contains("1 undecided."), "{html}");
}

#[test]
fn unwritable_report_fails_before_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&dir.path().join("no/such"), &["directory"], None);
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.is_empty(), "measured before the report was opened");
}

//! Tests of the keeper with scripts that serve.

use super::super::config_layer::ConfigLayer;
use super::super::config_layer::tests::bare;
use super::*;

/// Run by the next test in its own process: a keeper adopts orphans and waits for all of its children.
#[test]
#[ignore = "child process of the next test"]
fn child_process_is_a_keeper() {
    let settings = ConfigLayer::default().resolve(&bare()).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", &env::var("SERVING").unwrap()]);
    let code = Keeper::start(&settings, false, command).unwrap().run().unwrap();
    std::process::exit(code.into());
}

/// Returns the exit code of a keeper whose serving process runs this script, in which `$link` is the link.
fn kept(script: &str) -> Option<i32> {
    let link = "link=/proc/$$/fd/${XENSTORED_KEEPER% *}; ";
    let child = "daemon::keeper::tests::child_process_is_a_keeper";
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", child, "--ignored"])
        .env("SERVING", format!("{link}{script}"))
        .output();
    output.unwrap().status.code()
}

#[test]
fn keeper_waits_for_the_successor_of_the_serving_process() {
    // The successor is an orphan, and ends after the process that started it.
    let successor = r#"(while [ -e /proc/$$/exe ]; do sleep 0.01; done; exit 9) &"#;
    let reports = "echo serving $$ >$link; echo serving $! >$link; exit 5";
    assert_eq!(kept(&format!("{successor} {reports}")), Some(9));
    assert_eq!(kept("echo serving $$ >$link; exit 5"), Some(5));
    assert_eq!(kept("(exit 9) & wait $!; exit 5"), Some(5), "another child is none");
}

#[test]
fn lines_of_the_serving_process_name_it() {
    let mut line = Line::default();
    let long = format!("serving {}\n", "1".repeat(REPORT_MAX));
    for (text, expected) in [
        ("serving 123\n", Some(123)),
        ("\n", None),
        (&long, None),
        ("updating\n", None),
        ("serving x\n", None),
        ("serving 0\n", None),
        ("serving 4194304\n", Some(4_194_304)),
    ] {
        let named: Vec<Pid> = text.bytes().filter_map(|byte| line.push(byte)).collect();
        let expected = expected.and_then(Pid::from_raw);
        assert_eq!(named, expected.into_iter().collect::<Vec<_>>(), "{text}");
    }
}

#[test]
fn end_by_a_signal_has_the_conventional_exit_code() {
    let ends = |script: &str| {
        let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let (_, status) =
            rustix::process::waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        assert!(child.try_wait().is_err(), "waited for above");
        code_of(status)
    };
    assert_eq!(ends("exit 7").unwrap(), 7);
    let killed = ends("kill -9 $$").unwrap_err();
    assert_eq!(killed.code(), 137);
    assert_eq!(killed.to_string(), "the serving process was ended by signal 9");
}

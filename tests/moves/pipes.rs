//! `xsctl export -o -` and `xsctl import -`: several domains through a pipe, whole or not at all.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use super::*;

/// Exports domains of `from` to a pipe; returns the bytes.
fn exported(from: &World, domains: &str) -> Vec<u8> {
    let line = ["export", "--socket", &socket(from), "--domains", domains, "-o", "-"];
    let output = command(&line).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("exported "), "{said}");
    output.stdout
}

/// Imports from a pipe with these bytes.
fn import(to: &World, bytes: &[u8], how: &[&str]) -> Run {
    let line = ["import", "--socket", &socket(to), "-"];
    let mut command = command(&[&line[..], how].concat());
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    // The tool may refuse the first bytes and end.
    let _ = child.stdin.take().unwrap().write_all(bytes);
    Run::of(child.wait_with_output().unwrap())
}

#[test]
fn domains_move_through_a_pipe() {
    let (mut a, mut b) = worlds([1, 2, 10, 11]);
    let held = tempfile::tempdir().unwrap();
    let copy = text(&held.path().join("copy"));
    let xsctl_path = env!("CARGO_BIN_EXE_xsctl");
    let (from, to) = (socket(&a), socket(&b));
    let line = format!(
        "{xsctl_path} export --socket {from} --domains 1-10 --batch 2 -o - | tee {copy} | \
         {xsctl_path} import --socket {to} --introduce -"
    );
    let run = Run::of(Command::new("sh").args(["-c", &line]).output().unwrap());
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.out.starts_with("imported 3 of 3 domains, 15 nodes, in "), "{run:?}");
    assert!(run.err.contains("exported 3 of 3 domains, 15 nodes, in "), "{run:?}");
    for domid in [1, 2, 10] {
        is_quiesced(&mut a, domid);
        is_quiesced(&mut b, domid);
    }
    is_served(&mut a, 11);
    // The copy is checked before anything is given up for it.
    let whole = fs::read(&copy).unwrap();
    fs::write(&copy, &whole[..whole.len() - 1]).unwrap();
    let run = xsctl(&["release", "--socket", &from, &copy]);
    assert!(run.code == 4 && run.err.contains("it is truncated: "), "{run:?}");
    fs::write(&copy, whole).unwrap();
    let run = well(&["release", "--socket", &from, &copy]);
    assert!(run.out.starts_with("released 3 of 3 domains"), "{run:?}");
    well(&["unquiesce", "--socket", &to, "--domains", "1-10"]);
    for domid in [1, 2, 10] {
        is_released(&mut a, domid);
        is_served(&mut b, domid);
    }
}

#[test]
fn a_truncated_or_damaged_pipe_imports_nothing() {
    let (a, mut b) = worlds([1, 2]);
    let bytes = exported(&a, "1,2");
    let first = bytes.windows(8).position(|some| some == b"domain 1").unwrap();
    let second = bytes.windows(8).position(|some| some == b"domain 2").unwrap();
    let marks = bytes.windows(6).position(|some| some == b"marks ").unwrap();
    for (len, said) in [
        (0, "it is empty: the command that writes it may have failed"),
        (9, "it is truncated: it ends in its first line"),
        (first, "it ends after 0 domains and before its marks"),
        (first + 4, "it ends after 0 domains and before its marks"),
        (second - 1, "of the stream of domain 1"),
        (second, "it ends after 1 domain and before its marks"),
        (marks - 9, "of the stream of domain 2"),
        (marks, "it ends after 2 domains and before its marks"),
        (bytes.len() - 1, "bytes of its marks"),
    ] {
        let run = import(&b, &bytes[..len], &[]);
        assert_eq!((run.code, run.out.as_str()), (4, ""), "{len}: {run:?}");
        assert!(run.err.contains(said), "{len}: {run:?}");
        assert!(run.err.ends_with("; none of it was used\n"), "{len}: {run:?}");
        is_absent(&mut b, 1);
    }
    for (other, said) in [
        (b"no export".to_vec(), "it is not the output of xsctl export -o -"),
        ([&bytes[..], b"x"].concat(), "something follows its end"),
    ] {
        let run = import(&b, &other, &[]);
        assert!(run.code == 4 && run.err.contains(said), "{run:?}");
    }
    // A damaged stream does not stop the other domain's.
    let mut damaged = bytes.clone();
    damaged[second + 100] ^= 1;
    let run = import(&b, &damaged, &[]);
    assert_eq!(run.code, 6, "{run:?}");
    let said = "-/2.xenstore: its contents are not those that were exported, by marks.json\n";
    assert!(run.err.contains(said), "{run:?}");
    is_absent(&mut b, 2);
    assert_eq!(b.admin.read("/local/domain/1/data/own").as_deref(), Ok(&b"of 1"[..]));
}

#[test]
fn a_pipe_may_have_the_stream_of_a_file() {
    let (a, mut b) = worlds([1]);
    let held = tempfile::tempdir().unwrap();
    let state = held.path().join("state");
    well(&["export", "--socket", &socket(&a), "--domains", "1", "-o", &text(&state)]);
    let bytes = fs::read(state.join("1.xenstore")).unwrap();
    let run = import(&b, &bytes[..bytes.len() - 1], &["--json"]);
    assert!(run.code == 6 && run.out.contains("-/stream"), "{run:?}");
    is_absent(&mut b, 1);
    let run = import(&b, &bytes, &["--introduce"]);
    assert!(run.out.starts_with("imported 1 of 1 domain, 5 nodes"), "{run:?}");
    is_quiesced(&mut b, 1);
}

/// An output that cannot be written leaves the domains quiesced, and says so.
#[test]
fn an_output_that_closes_is_reported_with_the_way_back() {
    let (mut a, _) = worlds([1, 2]);
    let from = socket(&a);
    let line = ["export", "--socket", &from, "--domains", "1,2", "-o", "-", "--batch", "1"];
    let run =
        Run::of(command(&line).stdout(fs::File::create("/dev/full").unwrap()).output().unwrap());
    assert_eq!(run.code, 6, "{run:?}");
    let unquiesce = format!("to serve it again: xsctl unquiesce --socket {from} --domains 1");
    assert!(run.err.contains(&unquiesce), "{run:?}");
    assert!(run.err.contains("no further domain was exported"), "{run:?}");
    is_quiesced(&mut a, 1);
    is_served(&mut a, 2);
}

/// `script` gives the tool a terminal.
#[test]
fn a_terminal_gets_no_streams() {
    let (mut a, _) = worlds([1]);
    let xsctl = env!("CARGO_BIN_EXE_xsctl");
    for (line, said) in [
        (format!("{xsctl} export --socket {} --domains 1 -o -", socket(&a)), "to a terminal"),
        (format!("{xsctl} import --socket {} -", socket(&a)), "a terminal has no streams"),
        (format!("{xsctl} send --socket {} --domains 1", socket(&a)), "a terminal is no"),
    ] {
        let mut script = Command::new("script");
        let run = Run::of(script.args(["-qec", &line, "/dev/null"]).output().unwrap());
        assert!(run.code == 2 && run.out.contains(said), "{line}: {run:?}");
    }
    is_served(&mut a, 1);
}

//! `xsctl move --domains -`: a domid on each line of standard input, and a line of output for each.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use super::common::bulk;
use super::*;

/// A running `xsctl move --domains -`.
struct Mover {
    child: Child,
    input: Option<ChildStdin>,
    replies: Lines<BufReader<ChildStdout>>,
}

impl Mover {
    fn start(from: &World, to: &str, how: &[&str]) -> Mover {
        let line = ["move", "--socket", &socket(from), "--to", to, "--domains", "-"];
        let mut command = command(&[&line[..], how].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let replies = BufReader::new(child.stdout.take().unwrap()).lines();
        Mover { input: child.stdin.take(), child, replies }
    }

    fn say(&mut self, text: &str) {
        self.input.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn reply(&mut self) -> String {
        self.replies.next().expect("a reply").unwrap()
    }

    fn json(&mut self) -> Value {
        serde_json::from_str(&self.reply()).unwrap()
    }

    /// Ends the input, and returns the rest of the output with the exit code.
    fn end(mut self) -> Run {
        drop(self.input.take());
        let out = self.replies.map(|line| line.unwrap() + "\n").collect();
        let run = Run::of(self.child.wait_with_output().unwrap());
        Run { out, ..run }
    }
}

/// A command that notes each start of itself in a file.
fn noting(to: &World, file: &Path) -> String {
    let xsctl = env!("CARGO_BIN_EXE_xsctl");
    format!("exec:echo >>{}; exec {xsctl} receive --socket {}", file.display(), socket(to))
}

#[test]
fn each_line_moves_a_domain_and_gets_a_reply_over_one_tunnel() {
    let (mut a, mut b) = worlds(1..=6);
    let held = tempfile::tempdir().unwrap();
    let starts = held.path().join("starts");
    let mut mover = Mover::start(&a, &noting(&b, &starts), &[]);
    for domid in 1..=3 {
        mover.say(&format!("{domid}\n"));
        let reply = mover.reply();
        assert!(reply.starts_with(&format!("{domid} moved, 5 nodes, pause ")), "{reply}");
        is_released(&mut a, domid);
        is_served(&mut b, domid);
    }
    is_served(&mut a, 4);
    mover.say("4\n 5 \n6");
    let run = mover.end();
    let replies: Vec<_> = run.out.lines().map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(replies[..3], ["4 moved", "5 moved", "6 moved"], "{run:?}");
    assert!(replies[3].starts_with("moved 6 of 6 domains") && replies.len() == 4, "{run:?}");
    assert_eq!((run.code, &*run.err), (0, ""));
    for domid in 4..=6 {
        is_served(&mut b, domid);
    }
    assert_eq!(std::fs::read_to_string(starts).unwrap(), "\n", "one tunnel for all lines");
}

/// Returns the requests in the frames of a tunnel: the type of each message on a channel that was opened to a socket.
fn requests(frames: &[u8]) -> Vec<u32> {
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
    let (mut rest, mut opened, mut kinds) = (frames, Vec::new(), Vec::new());
    while let [kind, header @ ..] = rest {
        let (channel, len) = (number(header), number(&header[4..]) as usize);
        let payload = &header[8..8 + len];
        match kind {
            1 => opened.push(channel),
            2 if opened.contains(&channel) => kinds.push(number(payload)),
            _ => {}
        }
        rest = &header[8 + len..];
    }
    kinds
}

/// Each request waits for the reply to the one before, so their number is that of round trips; the source's are not
/// among them.
#[test]
fn a_domain_pauses_for_two_round_trips_or_three_to_an_older_daemon() {
    for (is_older, pause) in [
        (false, &[bulk::IMPORT, op::UNQUIESCE][..]),
        (true, &[bulk::IMPORT, op::INTRODUCE, op::UNQUIESCE]),
    ] {
        let (mut a, mut b) = worlds(1..=2);
        if is_older {
            introduces_no_imports(&mut b);
        }
        let held = tempfile::tempdir().unwrap();
        let frames = held.path().join("frames");
        let receive = format!("{} receive --socket {}", env!("CARGO_BIN_EXE_xsctl"), socket(&b));
        let to = format!("exec:tee {} | {receive}", frames.display());
        let mut mover = Mover::start(&a, &to, &[]);
        for domid in 1..=2 {
            mover.say(&format!("{domid}\n"));
            assert!(mover.reply().starts_with(&format!("{domid} moved")));
        }
        assert_eq!(mover.end().code, 0);
        let requests = requests(&std::fs::read(frames).unwrap());
        let of_one = [&[bulk::STATES], pause].concat();
        assert!(requests.ends_with(&of_one.repeat(2)), "{is_older}: {requests:?}");
        for domid in 1..=2 {
            is_released(&mut a, domid);
            is_served(&mut b, domid);
        }
    }
}

#[test]
fn bad_lines_and_failed_domains_get_replies_and_the_rest_goes_on() {
    let (mut a, mut b) = worlds(1..=3);
    b.destroy(2);
    b.guests.remove(&2);
    let mut mover = Mover::start(&a, &socket(&b), &["--json"]);
    let long = "9".repeat(5000);
    for (line, domid, said) in [
        ("x y", None, "\"x y\" is not a valid domid"),
        ("", None, "is not a valid domid"),
        ("1-3", None, "expected a single domid on a line"),
        ("\u{1}\u{fc}", None, "is not a valid domid"),
        (&long, None, "is not a valid domid"),
        ("2", Some(2), "IMPORT_DOMAINS: ENOENT"),
        ("7", Some(7), "there is no domain 7 at the source or the destination"),
    ] {
        mover.say(&format!("{line}\n"));
        let reply = mover.json();
        assert_eq!((reply["done"].as_bool(), reply["domid"].as_u64()), (Some(false), domid));
        assert!(reply["error"].as_str().unwrap().contains(said), "{reply}");
        assert_eq!(reply["line"].is_string(), domid.is_none(), "{reply}");
    }
    mover.say("3\n");
    assert_eq!(mover.json()["done"], true);
    let run = mover.end();
    let summary = run.json().1;
    let numbers = ["domains", "done", "failed", "left"].map(|name| &summary[name]);
    assert_eq!((run.code, numbers), (6, [8, 1, 7, 0].map(Value::from).each_ref()), "{run:?}");
    is_served(&mut a, 1);
    is_served(&mut a, 2);
    is_served(&mut b, 3);
}

#[test]
fn lines_that_arrive_together_form_a_batch() {
    let (mut a, mut b) = worlds(1..=4);
    let to = socket(&b);
    let from = socket(&a);
    let line = ["move", "--socket", &from, "--to", &to, "--domains", "-", "--batch", "4"];
    let mut child =
        command(&line).arg("--json").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // All lines are in the pipe before the first is read.
    child.stdin.take().unwrap().write_all(b"3\n1\nnone\n1\n2\n4\n").unwrap();
    let run = Run::of(child.wait_with_output().unwrap());
    let replies: Vec<Value> =
        run.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let order: Vec<_> = replies[..6].iter().map(|reply| reply["domid"].as_u64()).collect();
    assert_eq!(order, [Some(3), Some(1), None, Some(1), Some(2), Some(4)], "{run:?}");
    // Three lines and a bad one, then the others: at most four lines in a batch.
    let log = a.log();
    assert!(log.contains(" exported domains=2 ") && !log.contains(" exported domains=1 "), "{log}");
    for domid in 1..=4 {
        is_served(&mut b, domid);
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_line() {
    for signal in ["INT", "TERM"] {
        let (mut a, mut b) = worlds(1..=2);
        let mut mover = Mover::start(&a, &socket(&b), &[]);
        mover.say("1\n");
        assert!(mover.reply().starts_with("1 moved"));
        let kill = format!("kill -{signal} {}", mover.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        // The input stays open.
        assert!(mover.reply().starts_with("moved 1 of 1 domain,"));
        assert_eq!(mover.child.wait().unwrap().code(), Some(0));
        is_served(&mut b, 1);
        is_served(&mut a, 2);
    }
}

#[test]
fn a_lost_tunnel_fails_its_lines_and_the_next_one_starts_another() {
    let (mut a, mut b) = worlds(1..=3);
    let held = tempfile::tempdir().unwrap();
    let (starts, pid) = (held.path().join("starts"), held.path().join("pid"));
    let to = noting(&b, &starts).replace("exec ", &format!("echo $$ >{}; exec ", pid.display()));
    let mut mover = Mover::start(&a, &to, &["--json"]);
    mover.say("1\n");
    assert_eq!(mover.json()["done"], true);
    let kill = format!("kill -KILL $(cat {})", pid.display());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    // The tool may notice the end of the tunnel before or after it sends the next request.
    let mut next = 2;
    for _ in 0..4 {
        mover.say(&format!("{next}\n"));
        if mover.json()["done"] == true {
            next += 1;
        }
        if next > 3 {
            break;
        }
    }
    mover.end();
    assert_eq!(next, 4);
    assert_eq!(std::fs::read_to_string(starts).unwrap(), "\n\n");
    for domid in 1..=3 {
        is_released(&mut a, domid);
        is_served(&mut b, domid);
    }
}

/// An idle `move --domains -` holds no lock, so another tool may finish an earlier move.
#[test]
fn an_idle_mover_does_not_count_as_a_move_in_progress() {
    let (mut a, mut b) = worlds(1..=2);
    let held = tempfile::tempdir().unwrap();
    let to = noting(&b, &held.path().join("starts"));
    let mut mover = Mover::start(&a, &to, &[]);
    mover.say("1\n");
    assert!(mover.reply().starts_with("1 moved"));
    let state = text(&held.path().join("state"));
    well(&["export", "--socket", &socket(&a), "--domains", "2", "-o", &state]);
    well(&["import", "--socket", &socket(&b), &state]);
    let run = well(&["move", "--socket", &socket(&a), "--to", &socket(&b), "--domains", "2"]);
    assert!(run.out.starts_with("moved 1 of 1 domain"), "{run:?}");
    mover.end();
    is_released(&mut a, 2);
    is_served(&mut b, 2);
}

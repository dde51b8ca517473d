//! `xsctl evacuate`: the domains of one daemon go to two others, the first by its socket, the second by a command.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::common::HANG;
use super::common::bulk::Bulk;
use super::failures::{held_at, interrupt};
use super::hold::{Hold, Moment};
use super::rerun::{state_of, until};
use super::tunnel::through_command;
use super::*;

const DOMAINS: u16 = 6;

/// Returns a source with domains, and two destinations where each of them exists.
fn three() -> (World, World, World) {
    let (a, b) = worlds(1..=DOMAINS);
    let c = destination();
    (a, b, c)
}

fn destination() -> World {
    let mut world = World::new(Control::Socket, 1);
    (1..=DOMAINS).for_each(|domid| world.create(domid));
    world
}

/// A plan in a directory of its own.
struct Plan {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Plan {
    fn named(name: &str) -> Plan {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        Plan { _directory: directory, path }
    }

    fn of(hosts: &[(&str, &str)]) -> Plan {
        let plan = Plan::named("plan.toml");
        let host = |(to, domains): &(&str, &str)| {
            format!("[[host]]\nto = {}\ndomains = '{domains}'\n", Value::from(*to))
        };
        fs::write(&plan.path, hosts.iter().map(host).collect::<String>()).unwrap();
        plan
    }

    fn run(&self, from: &World, how: &[&str]) -> Run {
        let (from, plan) = (socket(from), text(&self.path));
        xsctl(&[&["evacuate", "--socket", &from, "--plan", &plan], how].concat())
    }
}

/// Checks the counts of a host in a summary.
fn counts(of: &Value, expected: [u16; 5]) {
    let numbers = ["domains", "done", "before", "failed", "left"].map(|name| &of[name]);
    assert_eq!(numbers, expected, "{of}");
}

fn is_moved(from: &mut World, to: &mut World, domids: impl IntoIterator<Item = u16>) {
    for domid in domids {
        is_released(from, domid);
        is_served(to, domid);
    }
}

#[test]
fn spread_plan_moves_all_domains_once() {
    let (mut a, mut b, mut c) = three();
    // As many nodes as all others have together.
    for number in 0..12 {
        a.guest(1).write(&format!("data/{number}"), "").unwrap();
    }
    let (from, plan) = (socket(&a), Plan::named("plan.toml"));
    let to = format!("{},{}", socket(&b), through_command(&c));
    let file = text(&plan.path);
    let spread = ["evacuate", "--socket", &from, "--spread", &to, "-o", &file];
    let run = well(&spread);
    assert_eq!((run.out.as_str(), run.err.as_str()), ("", ""), "{run:?}");
    let made = fs::read_to_string(&plan.path).unwrap();
    let of_b =
        format!("# 1 domain, 15 nodes\n[[host]]\nto = \"{}\"\ndomains = \"1\"\n", socket(&b));
    let of_c = format!("to = \"{}\"\ndomains = \"2,3,4,5,6\"\n", through_command(&c));
    assert!(made.contains(&of_b) && made.contains(&of_c), "{made}");
    let again = xsctl(&spread);
    assert!(again.code == 3 && again.err.contains("it exists, and may be the plan"), "{again:?}");

    let dry = plan.run(&a, &["--dry-run"]);
    assert!(dry.out.ends_with("s\n") && dry.out.contains("to move 6 of 6 domains"), "{dry:?}");
    assert!((1..=DOMAINS).all(|domid| state_of(&a, domid) == "running"), "{dry:?}");

    let run = plan.run(&a, &["--json"]);
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{run:?}");
    let (lines, summary) = run.json();
    counts(&summary, [6, 6, 0, 0, 0]);
    counts(&summary["hosts"][0], [1, 1, 0, 0, 0]);
    counts(&summary["hosts"][1], [5, 5, 0, 0, 0]);
    assert_eq!(
        (&lines[0]["to"], &lines[5]["to"]),
        (&socket(&b).into(), &through_command(&c).into())
    );
    is_moved(&mut a, &mut b, 1..=1);
    is_moved(&mut a, &mut c, 2..=DOMAINS);

    let again = plan.run(&a, &[]);
    assert_eq!((again.code, again.err.as_str()), (0, ""), "{again:?}");
    assert!(again.out.ends_with("\nnothing to do: 6 domains had moved before\n"), "{again:?}");
    counts(&plan.run(&a, &["--json"]).json().1, [6, 6, 6, 0, 0]);
    [&mut a, &mut b, &mut c].into_iter().for_each(World::check_store);
}

#[test]
fn spread_names_each_domain_that_is_here_once() {
    let (a, b, c) = three();
    Bulk::connect(&a.daemon).export("5|to=/elsewhere|");
    let from = socket(&a);
    let to = format!("{},{}", socket(&b), socket(&c));
    let how = ["evacuate", "--socket", &from, "--spread", &to, "--by", "memory", "--json"];
    let run = xsctl(&how);
    assert_eq!(run.code, 6, "{run:?}");
    assert!(run.err.starts_with("xsctl: domain 5 is left out: to finish its move"), "{run:?}");
    let plan: Value = serde_json::from_str(&run.out).unwrap();
    let hosts = plan["host"].as_array().unwrap();
    let domids = hosts.iter().flat_map(|host| host["domains"].as_str().unwrap().split(','));
    let mut domids: Vec<_> = domids.collect();
    domids.sort_unstable();
    assert_eq!((hosts.len(), domids), (2, vec!["1", "2", "3", "4", "6"]), "{plan}");
}

#[test]
fn other_hosts_are_moved_to_while_one_fails_and_a_rerun_completes_it() {
    let (mut a, mut b, mut c) = three();
    introduces_no_imports(&mut b);
    let (held, link) = (b.daemon.path("hold"), a.daemon.path("b"));
    symlink(&held, &link).unwrap();
    let hold = Hold::start(&held, b.daemon.path("socket"), op::INTRODUCE, Moment::Before);
    let plan = Plan::of(&[(&text(&link), "1-3"), (&through_command(&c), "4-6")]);
    let (from, file) = (socket(&a), text(&plan.path));
    let mut first = command(&["evacuate", "--socket", &from, "--plan", &file, "--json"]);
    first.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let first = first.spawn().unwrap();
    hold.reached.recv_timeout(HANG).unwrap();
    until("the other host", || (4..=6).all(|domid| state_of(&c, domid) == "running"));
    fs::remove_file(&link).unwrap();
    b.daemon.kill();
    drop(hold);
    let run = Run::of(first.wait_with_output().unwrap());
    assert_eq!(run.code, 6, "{run:?}");
    let (lines, summary) = run.json();
    counts(&summary, [6, 3, 0, 1, 2]);
    counts(&summary["hosts"][0], [3, 0, 0, 1, 2]);
    let reason = summary["hosts"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("cannot connect"), "{reason}");
    assert!(run.err.contains("; no further domain was moved there\n"), "{run:?}");
    assert_eq!((lines.len(), &lines[0]["source"]), (4, &"served".into()), "{run:?}");
    assert!((1..=3).all(|domid| state_of(&a, domid) == "running"), "{run:?}");

    let unreachable = plan.run(&a, &[]);
    assert_eq!(unreachable.code, 5, "{unreachable:?}");
    let mut b = destination();
    symlink(b.daemon.path("socket"), &link).unwrap();
    let run = plan.run(&a, &[]);
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{run:?}");
    assert!(run.out.contains("\nmoved 6 of 6 domains to 2 hosts, 3 of them before, "), "{run:?}");
    is_moved(&mut a, &mut b, 1..=3);
    is_moved(&mut a, &mut c, 4..=6);
    [&mut a, &mut b, &mut c].into_iter().for_each(World::check_store);
}

/// What a killed command left is finished or taken back, and a domain that is nowhere is reported.
#[test]
fn rerun_settles_what_a_killed_command_left() {
    for (kind, left) in [(op::INTRODUCE, "arrived"), (op::UNQUIESCE, "arrived-introduced")] {
        let (mut a, mut b, mut c) = three();
        introduces_no_imports(&mut b);
        let (held, link) = (b.daemon.path("hold"), a.daemon.path("b"));
        symlink(&held, &link).unwrap();
        let hold = Hold::start(&held, b.daemon.path("socket"), kind, Moment::Before);
        let plan = Plan::of(&[(&text(&link), "1,2,99"), (&through_command(&c), "3-6")]);
        let (from, file) = (socket(&a), text(&plan.path));
        let mut first = command(&["evacuate", "--socket", &from, "--plan", &file]);
        let first = first.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut first = first.spawn().unwrap();
        hold.reached.recv_timeout(HANG).unwrap();
        until("the other host", || (3..=6).all(|domid| state_of(&c, domid) == "running"));
        first.kill().unwrap();
        first.wait().unwrap();
        drop(hold);
        let is_left = |domid| state_of(&b, domid) == left;
        until("killed", || is_left(1) != is_left(2));
        fs::remove_file(&link).unwrap();
        symlink(b.daemon.path("socket"), &link).unwrap();
        let run = plan.run(&a, &["--json"]);
        let (lines, summary) = run.json();
        assert_eq!(run.code, 6, "{run:?}");
        counts(&summary["hosts"][0], [3, 2, 0, 1, 0]);
        counts(&summary["hosts"][1], [4, 4, 4, 0, 0]);
        let nowhere = "there is no domain 99 at the source or the destination";
        assert_eq!(lines[6]["error"], nowhere, "{run:?}");
        is_moved(&mut a, &mut b, 1..=2);
        is_moved(&mut a, &mut c, 3..=6);
        [&mut a, &mut b, &mut c].into_iter().for_each(World::check_store);
    }
}

#[test]
fn signal_ends_an_evacuation_after_the_batches_in_progress() {
    let (mut a, mut b, mut c) = three();
    let mut plan = None;
    let (proxy, child, release) = held_at(&b, op::UNQUIESCE, &mut |to| {
        let made = plan.insert(Plan::of(&[(to, "1-4"), (&socket(&c), "5,6")]));
        ["evacuate", "--json", "--socket", &socket(&a), "--plan", &text(&made.path)]
            .map(str::to_owned)
            .to_vec()
    });
    until("the other host", || (5..=6).all(|domid| state_of(&c, domid) == "running"));
    interrupt(&child);
    drop(release);
    let run = Run::of(child.wait_with_output().unwrap());
    drop(proxy);
    let (lines, summary) = run.json();
    let moved = u16::try_from(lines.len()).unwrap() - 2;
    // The tool may react to a delivered signal with a delay.
    assert!(run.code == 6 && (1..4).contains(&moved), "{run:?}");
    counts(&summary["hosts"][0], [4, moved, 0, 0, 4 - moved]);
    assert_eq!(summary["hosts"][0]["reason"], "a signal ended the command");
    for domid in 1..=4 {
        if lines.iter().any(|line| line["domid"] == domid) {
            is_moved(&mut a, &mut b, [domid]);
        } else {
            is_served(&mut a, domid);
            is_absent(&mut b, domid);
        }
    }
    is_moved(&mut a, &mut c, 5..=6);
}

#[test]
fn wrong_plan_is_refused_before_anything_is_quiesced() {
    let (a, b, _) = three();
    let (from, good) = (socket(&a), socket(&b));
    let host = |to: &str, domains: &str| format!("[[host]]\nto = '{to}'\n{domains}\n");
    let to_b = |domains: &str| host(&good, &format!("domains = {domains}"));
    for (plan, code, said) in [
        (to_b("'1,2,1'"), 4, "domain 1 is named twice"),
        (to_b("'1-4,3'"), 4, "domain 3 is named twice"),
        (to_b("'1'") + &host("/c", "domains = '1-2'"), 4, "domain 1 is named twice, for "),
        (to_b("'1'") + &to_b("'2'"), 4, "is named twice"),
        (host(&good, "domain = '1'"), 4, "unknown field `domain`"),
        ("[hosts]\n".into(), 4, "unknown field `hosts`"),
        (to_b("'0'"), 4, "domain 0 is the control domain"),
        (to_b("'1-32752'"), 4, "\"32752\" is not a valid domid; expected 1 to 32751"),
        (to_b("'5-4'"), 4, "the end of a range must be greater"),
        (to_b("5"), 4, "invalid type: integer `5`"),
        (host(&good, ""), 4, "missing field `domains`"),
        (host("", "domains = '1'"), 4, "a host has an empty name"),
        ("host = []".into(), 4, "it names no host"),
        (String::new(), 4, "missing field `host`"),
        ("{\"host\": []}".into(), 4, "it names no host"),
        ("{\"host\": [}".into(), 4, "expected value at line 1 column 11"),
        (to_b("'1'") + &host(&from, "domains = '2'"), 4, " is the source"),
        (to_b("'1'") + &host(&format!("/proc/self/root{good}"), "domains = '2'"), 4, "same host"),
        (to_b("'1'") + &host("/none/c", "domains = '2'"), 5, "at /none/c: cannot connect"),
        (
            to_b("'1'") + &host("exec:exit 3", "domains = '2'"),
            5,
            "(exit status: 3) before it spoke",
        ),
        (to_b("'1'") + &host("ssh://-x", "domains = '2'"), 5, "names no host"),
    ] {
        let file = Plan::named("plan");
        fs::write(&file.path, &plan).unwrap();
        let run = file.run(&a, &[]);
        assert!(run.code == code && run.err.contains(said), "{plan}: {run:?}");
        assert_eq!(run.out, "", "{plan}");
    }
    let both = Plan::of(&[("/none/b", "1"), (&good, "2"), ("/none/c", "3")]);
    let run = both.run(&a, &[]);
    assert!(run.err.contains("/none/b") && run.err.contains("/none/c"), "{run:?}");
    assert_eq!(Plan::named("none").run(&a, &[]).code, 3);
    for usage in [
        &["--plan", "p", "--spread", "/b"][..],
        &["--spread", "/b,/b"],
        &["--spread", "/b,"],
        &["--spread", "/b", "--dry-run"],
        &["--plan", "p", "--by", "nodes"],
        &["--plan", "p", "--jobs", "7"],
        &[],
    ] {
        let run = xsctl(&[&["evacuate", "--socket", &from], usage].concat());
        assert_eq!(run.code, 2, "{usage:?}: {run:?}");
    }
    assert!((1..=DOMAINS).all(|domid| state_of(&a, domid) == "running"));
}

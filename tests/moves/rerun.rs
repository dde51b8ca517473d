//! The tool is killed at a random moment, and the same command is repeated until it succeeds: then each domain is
//! served in one place, and none is left out.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::common::bulk::{self, Bulk};
use super::common::random::seeds;
use super::common::{HANG, Random};
use super::hold::{Hold, Moment};
use super::proxy::{Action, Proxy};
use super::*;
use xenstored::types::Domid;

const DOMAINS: u16 = 60;
/// Maximum number of commands after the killed one: one to finish the move, and one more if the daemons were still
/// handling requests of the killed tool when the first queried their states.
const RERUNS_MAX: usize = 2;

/// Returns how long an undisturbed move takes.
fn duration(how: &[&str]) -> Duration {
    let (a, b) = worlds(1..=DOMAINS);
    let began = Instant::now();
    well(&move_all(&socket(&a), &socket(&b), how));
    began.elapsed()
}

fn move_all<'a>(from: &'a str, to: &'a str, how: &[&'a str]) -> Vec<&'a str> {
    let all = ["move", "--socket", from, "--to", to, "--domains", "1-60", "--json"];
    all.into_iter().chain(how.iter().copied()).collect()
}

/// Kills a move after this long; returns whether it was still running.
fn killed(arguments: &[&str], after: Duration) -> bool {
    let mut child = command(arguments);
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(after);
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

#[test]
fn same_command_finishes_a_killed_move() {
    let mut killed_in_between = 0;
    for how in [&["--batch", "1"][..], &["--batch", "7", "--jobs", "3"]] {
        let whole = duration(how);
        for seed in seeds(8) {
            let context = format!("XENSTORED_SEED={seed}, {how:?}");
            let (mut a, mut b) = worlds(1..=DOMAINS);
            let (from, to) = (socket(&a), socket(&b));
            let arguments = move_all(&from, &to, how);
            let part = u32::try_from(Random::new(seed).below(900)).unwrap();
            killed_in_between += u32::from(killed(&arguments, whole * part / 1000));
            let mut runs = Vec::new();
            while runs.last().is_none_or(|run: &Run| run.code != 0) {
                assert!(runs.len() < RERUNS_MAX, "{context}: {runs:#?}");
                runs.push(xsctl(&arguments));
                let (lines, summary) = runs[runs.len() - 1].json();
                assert_eq!(
                    (lines.len(), &summary["left"]),
                    (60, &0.into()),
                    "{context}: {runs:#?}"
                );
            }
            for domid in 1..=DOMAINS {
                assert!(
                    !is_introduced(&mut a.admin, domid),
                    "{context}: domain {domid}: {runs:#?}"
                );
                is_served(&mut b, domid);
            }
            a.check_store();
            b.check_store();
        }
    }
    // On a busy machine a single kill may come too late.
    assert!(killed_in_between > 0 || seeds(8).len() == 1);
}

/// Returns the state of domain 1 at a daemon.
fn state(world: &World) -> String {
    state_of(world, 1)
}

pub fn state_of(world: &World, domid: u16) -> String {
    let said = Bulk::connect(&world.daemon).ask(bulk::STATES, &format!("{domid}|"), &[]);
    said.split('|').nth(2).unwrap_or_else(|| panic!("{said}")).to_owned()
}

pub fn until(context: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < HANG, "{context}");
    }
}

/// The daemon, and its socket, at which a request is held.
#[derive(Clone, Copy, Debug)]
enum At {
    SourceClients,
    SourceMigration,
    DestinationClients,
    DestinationMigration,
}

/// Each request of a move is held before the daemon receives it, or after it was executed, and the tool is killed. The
/// resulting states are those of MIGRATION.md, and the same command finishes the move.
#[test]
fn move_killed_at_every_request_is_finished_by_a_rerun() {
    use At::{DestinationClients, DestinationMigration, SourceClients, SourceMigration};
    for (at, kind, before, after) in [
        (SourceMigration, bulk::EXPORT, ["running", "absent"], ["exported", "arrived-introduced"]),
        (
            DestinationMigration,
            bulk::IMPORT,
            ["exported", "absent"],
            ["exported", "arrived-introduced"],
        ),
        (
            DestinationClients,
            op::INTRODUCE,
            ["exported", "arrived"],
            ["exported", "arrived-introduced"],
        ),
        (
            SourceClients,
            op::RELEASE,
            ["exported", "arrived-introduced"],
            ["left", "arrived-introduced"],
        ),
        (DestinationClients, op::UNQUIESCE, ["left", "arrived-introduced"], ["left", "running"]),
        (
            DestinationMigration,
            bulk::DISCARD,
            ["exported", "arrived-introduced"],
            ["exported", "absent"],
        ),
    ] {
        for (moment, states) in [(Moment::Before, before), (Moment::After, after)] {
            for resumes in [false, true] {
                killed_at(at, kind, (moment, resumes), states);
            }
        }
    }
}

fn killed_at(at: At, kind: u32, (moment, resumes): (Moment, bool), states: [&str; 2]) {
    const MIGRATION: &str = "/tool/xenstored/operations/migration-socket";
    let context = format!("{at:?} {kind} {moment:?} {resumes}");
    let (mut a, mut b) = worlds([1]);
    let [mut from, mut to] = [socket(&a), socket(&b)];
    if kind == op::INTRODUCE {
        introduces_no_imports(&mut b);
    }
    // To have its import discarded, the domain is changed before its first RELEASE.
    let _changes = (kind == bulk::DISCARD).then(|| {
        let path = a.daemon.path("changes");
        let mut writer = Client::new("writer", common::client::Link::Socket(a.daemon.connect()));
        from = text(&path);
        Proxy::start(&a.daemon, &path, move |kind, _| {
            if kind == op::RELEASE {
                writer.write("/local/domain/1/data/late", "").unwrap();
            }
            Action::Pass
        })
    });
    let world = if matches!(at, At::SourceClients | At::SourceMigration) { &mut a } else { &mut b };
    let path = world.daemon.path("hold");
    let real = match at {
        At::SourceClients | At::DestinationClients => world.daemon.path("socket"),
        At::SourceMigration | At::DestinationMigration => {
            world.admin.write(MIGRATION, &text(&path)).unwrap();
            world.daemon.path("socket.migration")
        }
    };
    let hold = Hold::start(&path, real.clone(), kind, moment);
    match at {
        At::SourceClients => from = text(&path),
        At::DestinationClients => to = text(&path),
        At::SourceMigration | At::DestinationMigration => {}
    }
    let mut child = command(&["move", "--domains", "1", "--socket", &from, "--to", &to]);
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    hold.reached.recv_timeout(HANG).unwrap_or_else(|_| panic!("{context}"));
    child.kill().unwrap();
    child.wait().unwrap();
    // The daemons may still be handling their requests. The source must finish first: dropping the hold also closes an
    // end of its pipe, which would stop it.
    until(&context, || state(&a) == states[0]);
    drop(hold);
    until(&context, || [state(&a), state(&b)] == states);
    for world in [&mut a, &mut b] {
        world.admin.write(MIGRATION, &text(&world.daemon.path("socket.migration"))).unwrap();
    }
    let (from, to) = (socket(&a), socket(&b));
    let ends = ["--socket", &from, "--to", &to];
    let run = xsctl(&[&["status"], &ends[..]].concat());
    let is_settled = states == ["running", "absent"];
    assert_eq!(run.code, if is_settled { 0 } else { 9 }, "{context}: {run:?}");
    for (place, state) in ["here", "there"].into_iter().zip(states) {
        let shown = format!("{place} {state}");
        assert!(is_settled || run.out.contains(&shown), "{context}: {shown}: {run:?}");
    }
    if resumes {
        return resumed(a, b, states, &context);
    }
    let run = well(&[&["move", "--domains", "1-5"], &ends[..]].concat());
    assert!(run.out.starts_with("moved 1 of 1 domain, "), "{context}: {run:?}");
    is_released(&mut a, 1);
    // The rerun first serves the domain at the source again, where the guest is notified.
    if (kind, moment) == (bulk::DISCARD, Moment::After) {
        b.connect_guest(1);
        assert_eq!(b.guest(1).next_event(), "data/late|t");
    }
    is_served(&mut b, 1);
    a.check_store();
    b.check_store();
}

/// Resumes a move that was killed in these states, and moves the domain then if it was not released.
fn resumed(mut a: World, mut b: World, states: [&str; 2], context: &str) {
    let (from, to) = (socket(&a), socket(&b));
    let ends = ["--socket", &from, "--to", &to];
    let run = well(&[&["move", "--resume"], &ends[..]].concat());
    if states[0] != "left" {
        assert!(is_introduced(&mut a.admin, 1), "{context}: {run:?}");
        is_absent(&mut b, 1);
        assert_eq!(state(&a), "running", "{context}: {run:?}");
        well(&[&["move", "--domains", "1"], &ends[..]].concat());
    }
    is_released(&mut a, 1);
    assert_eq!(state(&b), "running", "{context}: {run:?}");
    a.check_store();
    b.check_store();
}

/// Runs a move that leaves domain 1; returns its error and its states.
fn left(from: &World, to: &World) -> (String, [String; 2]) {
    let (from, to) = (socket(from), socket(to));
    let run = xsctl(&["move", "--domains", "1", "--socket", &from, "--to", &to, "--json"]);
    assert_eq!(run.code, 6, "{run:?}");
    let (lines, _) = run.json();
    let states = ["source", "destination"].map(|at| lines[0][at].as_str().unwrap().to_owned());
    (lines[0]["error"].as_str().unwrap().to_owned(), states)
}

/// A domain of a third host, with the same domid, was imported at the destination. It is unknown whether that host
/// released the domain, so it is neither discarded nor served.
#[test]
fn import_of_another_hosts_domain_is_left_alone() {
    let (mut a, mut b) = worlds([1]);
    let mut other = World::new(Control::Socket, 1);
    // Each simulated host counts its incarnations; creating and destroying a domain makes the counts differ.
    other.create(77);
    other.guest(1).write("data/own", "of another").unwrap();
    let (stream, _) = Bulk::connect(&other.daemon).export("1|");
    for state in ["arrived", "arrived-introduced"] {
        match state {
            "arrived" => _ = Bulk::connect(&b.daemon).import(&stream),
            _ => b.introduce(1),
        }
        let (error, states) = left(&a, &b);
        assert_eq!(states, ["served", state]);
        let discard = format!("else: xsctl discard --socket {} --domains 1", socket(&b));
        assert!(error.ends_with(&discard), "{error}");
        is_served(&mut a, 1);
        assert_eq!(self::state(&b), state);
    }
    well(&["unquiesce", "--socket", &socket(&b), "--domains", "1"]);
    let (error, states) = left(&a, &b);
    assert_eq!(states, ["served", "served"]);
    let said = "it is served at the source, and another domain with this domid is served at the \
                destination";
    assert_eq!(error, said);
}

#[test]
fn rerun_counts_moved_domains_and_reports_unknown_ones() {
    let (mut a, mut b) = worlds([1, 2]);
    let (from, to) = (socket(&a), socket(&b));
    let all = ["move", "--domains", "1-9", "--socket", &from, "--to", &to];
    well(&all);
    let run = well(&all);
    assert!(run.out.starts_with("moved 2 of 2 domains, in "), "{run:?}");
    assert!(run.err.contains("2 domains were released at the source by an earlier"), "{run:?}");
    // The toolstack destroys the first one at the source.
    a.host.destroy(Domid(1)).unwrap();
    until("destroyed", || state_of(&a, 1) == "absent");
    let run = well(&all);
    assert!(run.out.starts_with("moved 2 of 2 domains, in "), "{run:?}");
    // The destination is lost, which only an operator can know.
    b.destroy(2);
    until("destroyed", || state_of(&b, 2) == "absent");
    let (lines, _) = xsctl(&[&all[..], &["--json"]].concat()).json();
    assert_eq!([&lines[1]["source"], &lines[1]["destination"]], ["released", "absent"]);
    let error = lines[1]["error"].as_str().unwrap();
    let take_up = format!(
        "only if no other host serves it: xsctl introduce --socket {from} --domains 2; xsctl \
         unquiesce --socket {from} --domains 2"
    );
    assert!(error.ends_with(&take_up), "{error}");
    let run = xsctl(&["move", "--domains", "4000", "--socket", &from, "--to", &to]);
    assert_eq!(run.code, 6);
    let said = "xsctl: domain 4000: there is no domain 4000 at the source or the destination\n";
    assert_eq!((run.err.as_str(), &run.out[..22]), (said, "moved 0 of 1 domain, i"));
    is_served(&mut b, 1);
}

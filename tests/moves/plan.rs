//! `xsctl move --plan`, `--pause-max` and `--rate`.

use super::common::bulk::{self, Bulk};
use super::*;

fn plan(from: &World, to: &str, domains: &str, how: &[&str]) -> Run {
    let from = socket(from);
    let line = ["move", "--plan", "--socket", &from, "--to", to, "--domains", domains];
    xsctl(&[&line[..], how].concat())
}

/// Returns the states of the domains that are not absent: a daemon knows of a domain once it has checked its import.
fn states(world: &World) -> Vec<String> {
    let said = Bulk::connect(&world.daemon).ask(bulk::STATES, "1-100|", &[]);
    said.lines().filter(|line| !line.contains("|OK|absent|")).map(str::to_owned).collect()
}

#[test]
fn plan_shows_what_a_move_would_carry_and_changes_nothing() {
    let (mut a, mut b) = worlds(1..=3);
    let transaction = a.guest(2).start().unwrap();
    a.admin.write("/vm/u3/name", "guest").unwrap();
    a.guest(3).write("vm", "/vm/u3").unwrap();
    let before = (states(&a), states(&b));
    let xsctl = env!("CARGO_BIN_EXE_xsctl");
    let tunnel = format!("exec:{xsctl} receive --socket {}", socket(&b));
    for to in [socket(&b), tunnel] {
        let run = plan(&a, &to, "1-9", &["--json"]);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{run:?}");
        let (rows, summary) = run.json();
        for (row, (nodes, transactions)) in rows.iter().zip([(5, 0), (5, 1), (6, 0)]) {
            let numbers = ["nodes", "watches", "transactions"].map(|name| &row[name]);
            let expected = [nodes, 1, transactions].map(Value::from);
            assert_eq!(numbers, expected.each_ref(), "{row}");
            assert!(row["bytes"].as_u64().unwrap() > 500 && row["step"] == "move", "{row}");
            let pause = row["pause_ms"].as_f64().unwrap();
            assert!(pause > 0.0 && pause <= summary["pause_max_ms"].as_f64().unwrap(), "{row}");
        }
        let said = rows[2]["left_out"][0].as_str().unwrap();
        assert!(said.starts_with("/vm/u3, named by its node vm"), "{said}");
        assert_eq!([&summary["domains"], &summary["failed"], &summary["nodes"]], [3, 0, 16]);
        assert!(summary["round_trip_ms"].as_f64().unwrap() > 0.0, "{summary}");
    }
    let run = plan(&a, &socket(&b), "1-9", &[]);
    let lines: Vec<_> = run.out.lines().collect();
    assert!(lines.len() == 5 && lines[0].starts_with("domid step"), "{run:?}");
    assert!(lines[3].contains("  stays behind: /vm/u3, named by"), "{run:?}");
    let said = "3 of 3 domains can be moved, 16 nodes, ";
    assert!(lines[4].starts_with(said) && lines[4].contains("round trip"), "{run:?}");
    assert_eq!((states(&a), states(&b)), before);
    a.guest(2).commit(transaction).unwrap();
    (1..=2).for_each(|domid| is_served(&mut a, domid));
    is_absent(&mut b, 1);
}

#[test]
fn plan_names_each_problem_and_the_move_has_the_same() {
    let (mut a, mut b) = worlds(1..=6);
    // The destination has no domain 1; a node of 2 belongs to one that is not there; the target of 3 is not there;
    // the number of 4 is in use there.
    b.destroy(1);
    b.guests.remove(&1);
    a.guest(50);
    a.guest(60);
    a.admin.mkdir("/local/domain/2/of50").unwrap();
    a.admin.set_perms("/local/domain/2/of50", "n50").unwrap();
    a.admin.request(op::SET_TARGET, 0, "3\x0060\0").unwrap();
    b.admin.write("/local/domain/4/occupied", "").unwrap();
    let run = plan(&a, &socket(&b), "1-6,9", &["--json"]);
    assert_eq!(run.code, 6, "{run:?}");
    let (rows, summary) = run.json();
    let problem = |rows: &[Value], domid: u16| {
        let row = rows.iter().find(|row| row["domid"] == domid).unwrap();
        let text = if row["problem"].is_string() { &row["problem"] } else { &row["error"] };
        text.as_str().unwrap_or_default().to_owned()
    };
    for (domid, said) in [
        (1, "IMPORT_DOMAINS: ENOENT"),
        (2, "domain 50"),
        (3, "domain 60"),
        (4, "IMPORT_DOMAINS: EEXIST"),
        (9, "there is no domain 9 at the source or the destination"),
    ] {
        assert!(problem(&rows, domid).contains(said), "{domid}: {run:?}");
    }
    assert_eq!([&summary["domains"], &summary["failed"]], [7, 5], "{run:?}");
    let quiet = plan(&a, &socket(&b), "1-6,9", &["-q"]);
    assert_eq!(quiet.out.lines().count(), 5, "{quiet:?}");
    let from = socket(&a);
    let to = socket(&b);
    let moved =
        xsctl(&["move", "--socket", &from, "--to", &to, "--domains", "1-6,9", "--json"]).json().0;
    for domid in 1..=4 {
        assert!(problem(&moved, domid).contains(&problem(&rows, domid)), "{domid}: {moved:?}");
    }
    is_served(&mut b, 5);
    is_served(&mut b, 6);
}

#[test]
fn pause_max_chooses_the_batches() {
    for (pause_max, batches) in [("100000", 1), ("1", 12)] {
        let (mut a, mut b) = worlds(1..=12);
        // So much that no machine moves it in a millisecond.
        let value = "v".repeat(3000);
        for (domid, number) in (1..=12).flat_map(|domid| (0..40).map(move |n| (domid, n))) {
            a.admin.write(&format!("/local/domain/{domid}/big/{number}"), &value).unwrap();
        }
        let (from, to) = (socket(&a), socket(&b));
        // The rate makes the estimate independent of the machine: at least 12 ms for each domain.
        let line = ["move", "--socket", &from, "--to", &to, "--domains", "1-12", "--json"];
        let run = xsctl(&[&line[..], &["--pause-max", pause_max, "--rate", "10M"]].concat());
        assert_eq!(run.code, 0, "{run:?}");
        let note = run.json().1["notes"][0].as_str().unwrap().to_owned();
        let said = if batches == 1 { "batches of 12 domains: " } else { "more than 1 ms even of" };
        assert!(note.contains(said), "{note}");
        assert_eq!(a.log().matches(" exported domains=").count(), batches);
        is_served(&mut b, 7);
    }
}

#[test]
fn rate_limits_the_streams() {
    let (mut a, mut b) = worlds([1, 2]);
    let value = "v".repeat(3000);
    for number in 0..20 {
        a.admin.write(&format!("/local/domain/1/big/{number}"), &value).unwrap();
    }
    let (from, to) = (socket(&a), socket(&b));
    let line = ["move", "--socket", &from, "--to", &to, "--domains", "1", "--rate", "200k"];
    let run = well(&[&line[..], &["--json"]].concat());
    // More than 60,000 bytes, of which the first piece passes at once.
    let pause = run.json().0[0]["pause_ms"].as_f64().unwrap();
    assert!(pause >= 250.0, "{pause}");
    is_served(&mut b, 1);
    // A destination that is not there ends the stream.
    b.daemon.kill();
    let run = xsctl(&["move", "--socket", &from, "--to", &to, "--domains", "2", "--rate", "200k"]);
    assert_eq!(run.code, 5, "{run:?}");
    is_served(&mut a, 2);
}

/// The check of an export quiesces nothing, keeps earlier marks, and has what the export has but the connection.
#[test]
fn checked_export_leaves_the_domain_and_its_mark() {
    let (mut a, _) = worlds([1, 2]);
    let mut bulk = Bulk::connect(&a.daemon);
    let (exported, said) = bulk.export("1|");
    let mark = bulk::mark(&said).to_owned();
    let (checked, said) = bulk.export("1|check|");
    assert_eq!(said, "1|OK|5|1|0|");
    assert!(!checked.is_empty() && checked.len() < exported.len());
    let (_, said) = bulk.export("1-2,9|check|".replace(',', "|").as_str());
    assert_eq!(said, "1|OK|5|1|0|\n2|OK|5|1|0|\n9|ENOENT|it is not introduced|");
    let (_, said) = bulk.export("check|");
    assert_eq!(said, "EINVAL|");
    is_served(&mut a, 2);
    a.admin.request(op::RELEASE, 0, format!("1\0{mark}\0")).unwrap();
}

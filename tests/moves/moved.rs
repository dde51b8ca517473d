//! Whole moves.

use super::*;

#[test]
fn domains_are_moved_with_all_their_state() {
    let (mut a, mut b) = worlds(1..=7);
    let transaction = a.guest(3).start().unwrap();
    let run = well(&[
        "move",
        "--socket",
        &socket(&a),
        "--to",
        &socket(&b),
        "--domains",
        "1-7",
        "--batch",
        "3",
        "--json",
    ]);
    assert_eq!(run.err, "");
    let (lines, summary) = run.json();
    assert_eq!(lines.len(), 7);
    for (line, domid) in lines.iter().zip(1..) {
        assert_eq!((&line["domid"], &line["done"]), (&domid.into(), &true.into()), "{line}");
        assert_eq!((&line["source"], &line["tries"]), (&"released".into(), &1.into()), "{line}");
        assert_eq!(line["destination"], "served");
        // The partition root, data and data/own; two nodes of libxl's.
        assert_eq!(line["nodes"], 5, "{line}");
        assert!(line["pause_ms"].as_f64().unwrap() > 0.0);
        assert!(line.get("error").is_none() && line.get("commands").is_none());
    }
    let numbers = ["domains", "done", "failed", "left", "nodes"].map(|name| &summary[name]);
    assert_eq!(numbers, [7, 7, 0, 0, 35], "{summary}");
    assert!(summary["pause"]["p99_ms"].as_f64() <= summary["pause"]["max_ms"].as_f64());
    for domid in 1..=7 {
        is_released(&mut a, domid);
        is_served(&mut b, domid);
    }
    // The transaction's earlier requests are not known at the destination, so it must be retried.
    assert_eq!(b.guest(3).commit(transaction).err().as_deref(), Some("EAGAIN"));
    b.check_store();
}

#[test]
fn failed_domains_stay_and_the_others_are_moved() {
    let (mut a, mut b) = worlds([1, 2, 3, 4, 5]);
    b.destroy(2);
    b.guests.remove(&2);
    b.admin.write("/local/domain/3/occupied", "").unwrap();
    let run = xsctl(&[
        "move",
        "--socket",
        &socket(&a),
        "--to",
        &socket(&b),
        "--domains",
        "1-5,9",
        "--batch",
        "3",
        "--json",
    ]);
    assert_eq!((run.code, run.err.as_str()), (6, ""), "{run:?}");
    let (lines, summary) = run.json();
    assert_eq!([&summary["done"], &summary["failed"], &summary["left"]], [3, 3, 0]);
    for (domid, error, source) in [
        (2, "ENOENT", "served"),
        (3, "EEXIST", "served"),
        (9, "there is no domain 9 at the source", "absent"),
    ] {
        let line = lines.iter().find(|line| line["domid"] == domid).unwrap();
        let said = line["error"].as_str().unwrap();
        assert!(said.contains(error), "{said}");
        assert_eq!((&line["source"], &line["destination"]), (&source.into(), &"absent".into()));
        assert!(line.get("commands").is_none(), "{line}");
    }
    for domid in [2, 3] {
        is_served(&mut a, domid);
        assert!(!is_introduced(&mut b.admin, domid));
    }
    for domid in [1, 4, 5] {
        is_released(&mut a, domid);
        is_served(&mut b, domid);
    }
    // The text form says the same, without repetitions.
    let run = xsctl(&["move", "--socket", &socket(&a), "--to", &socket(&b), "--domains", "2"]);
    assert_eq!((run.code, run.err.lines().count()), (6, 1), "{run:?}");
    assert!(run.err.starts_with("xsctl: domain 2: IMPORT_DOMAINS: ENOENT"), "{run:?}");
    assert!(run.err.ends_with("it is served at the source, not at the destination\n"), "{run:?}");
    assert!(run.out.starts_with("moved 0 of 1 domain,"), "{run:?}");
}

#[test]
fn vm_subtree_left_out_of_a_move_is_named() {
    let (mut a, b) = worlds([1, 2]);
    for domid in [1, 2] {
        a.admin.write(&format!("/vm/u{domid}/name"), "guest").unwrap();
        a.guest(domid).write("vm", &format!("/vm/u{domid}")).unwrap();
    }
    let said = |domid| {
        format!(
            "domain {domid}: left out: /vm/u{domid}, named by its node vm, which the domain can \
             write\n"
        )
    };
    let held = tempfile::tempdir().unwrap();
    let (from, state) = (socket(&a), text(held.path()));
    let run = well(&["export", "--socket", &from, "--domains", "1", "-o", &state]);
    assert!(run.err.contains(&said(1)), "{run:?}");
    let run = well(&["move", "--socket", &from, "--to", &socket(&b), "--domains", "2"]);
    assert_eq!(run.err, format!("xsctl: {}", said(2)));
}

#[test]
fn socket_option_may_precede_the_command() {
    let (mut a, mut b) = worlds([1, 2]);
    let (from, to) = (socket(&a), socket(&b));
    let run = well(&["--socket", &from, "quiesce", "--domains", "1"]);
    assert!(run.out.starts_with("quiesced 1 of 1 domain, in "), "{run:?}");
    is_quiesced(&mut a, 1);
    let run = well(&["--socket", &from, "move", "--to", &to, "--domains", "1-2"]);
    assert!(run.out.starts_with("moved 2 of 2 domains, 10 nodes, in "), "{run:?}");
    is_served(&mut b, 1);
}

#[test]
fn move_without_a_daemon_changes_nothing() {
    let (mut a, b) = worlds([1]);
    let nowhere = text(&b.daemon.path("nowhere"));
    for (from, to, said) in [
        (&socket(&a), &nowhere, "cannot connect: No such file"),
        (&nowhere, &socket(&a), "cannot connect: No such file"),
    ] {
        let run = xsctl(&["move", "--socket", from, "--to", to, "--domains", "1"]);
        assert_eq!((run.code, run.out.as_str()), (5, ""), "{run:?}");
        assert!(run.err.contains(said) && run.err.contains(&nowhere), "{run:?}");
    }
    let run = xsctl(&["move", "--socket", &socket(&a), "--to", &socket(&b), "--domains", "2-9"]);
    assert_eq!(run.code, 6, "{run:?}");
    assert!(
        run.err.ends_with(
            "none of these domains is at the source or was imported at the destination\n"
        ),
        "{run:?}"
    );
    // A move to the same daemon is refused.
    let run = xsctl(&["move", "--socket", &socket(&a), "--to", &socket(&a), "--domains", "1"]);
    assert_eq!((run.code, run.out.as_str()), (2, ""), "{run:?}");
    is_served(&mut a, 1);
}

#[test]
fn daemon_without_extensions_is_recognized() {
    let (a, _) = worlds([]);
    let path = a.daemon.path("other");
    // The proxy stands for a daemon without extensions, like Xen's.
    let _proxy = proxy::Proxy::start(&a.daemon, &path, |kind, _| match kind {
        op::READ => proxy::Action::Refuse("ENOENT"),
        _ => proxy::Action::Refuse("ENOSYS"),
    });
    let run = xsctl(&["move", "--socket", &socket(&a), "--to", &text(&path), "--domains", "1"]);
    assert_eq!(run.code, 5);
    assert!(run.err.contains("it has no migration socket"), "{run:?}");
    let run = xsctl(&["quiesce", "--socket", &text(&path), "--domains", "1,2"]);
    assert_eq!((run.code, run.err.lines().count()), (6, 2));
    assert!(run.err.contains("ENOSYS: this daemon has no such operation"), "{run:?}");
}

#[test]
fn usage_errors_are_reported_before_any_change() {
    for arguments in [
        &["move", "--domains", "1"][..],
        &["move", "--to", "s"],
        &["move", "--to", "s", "--domains", "0"],
        &["move", "--to", "s", "--domains", "5-1"],
        &["move", "--to", "s", "--domains", "1", "--batch", "254"],
        &["move", "--to", "s", "--domains", "1", "--jobs", "0"],
        &["move", "--to", "s", "--domains", "-", "--resume"],
        &["move", "--to", "s", "--domains", "-", "--jobs", "2"],
        &["move", "--to", "s", "--domains", "-", "--plan"],
        &["move", "--to", "s", "--domains", "1", "--plan", "--resume"],
        &["move", "--to", "s", "--domains", "1", "--rate", "9k"],
        &["move", "--to", "s", "--domains", "1", "--pause-max", "5", "--batch", "2"],
        &["export", "--domains", "1"],
        &["import"],
        &["import", "-n", "--introduce", "dir"],
        &["import", "--format", "libxl", "file"],
        &["import", "--domain", "5", "file"],
        &["import", "--format", "libxl", "--domain", "5", "a", "b"],
        &["import", "--format", "libxl", "--domain", "5-6", "a"],
        &["import", "--format", "libxl", "--domain", "5", "--introduce", "a"],
        &["quiesce"],
        &["introduce", "--domains", "1-5", "--port", "3"],
        &["introduce", "--domains", "1", "--port", "-3"],
        &["--socket", "s", "quiesce", "--socket", "s", "--domains", "1"],
        &["--socket", "s", "inspect", "file"],
        &["--socket", "s"],
    ] {
        let run = xsctl(arguments);
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{arguments:?}: {run:?}");
        assert!(run.err.starts_with("error: "), "{arguments:?}: {run:?}");
    }
}

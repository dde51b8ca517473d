//! Domains that an interrupted move left: what `status` shows of them, what `unquiesce` refuses, and what
//! `move --resume` makes of them. Each is served at one end, whatever commands are given.

use super::common::bulk::{self, Bulk};
use super::*;

/// Returns two daemons with domains whose ports the nodes of libxl name, so that `introduce` finds them.
fn introducible(domids: std::ops::RangeInclusive<u16>) -> (World, World) {
    let (mut a, b) = worlds(domids.clone());
    for domid in domids {
        let (store, port) = (format!("/local/domain/{domid}/store"), a.ports[&domid]);
        a.admin.write(&format!("{store}/port"), &port.to_string()).unwrap();
        a.admin.write(&format!("{store}/ring-ref"), "1").unwrap();
        a.admin.write(&format!("/local/domain/{domid}/vm"), &format!("/vm/u{domid}")).unwrap();
    }
    (a, b)
}

/// Exports domain 1 for a destination; returns its stream and its mark.
fn export_to(world: &World, to: &str) -> (Vec<u8>, String) {
    let (stream, said) = Bulk::connect(&world.daemon).export(&format!("1|to={to}|"));
    (stream, bulk::mark(&said).to_owned())
}

fn release(world: &mut World, mark: &str) {
    world.admin.request(op::RELEASE, 0, format!("1\0{mark}\0")).unwrap();
}

/// Destroys domain 1, and waits until the daemon has handled its death.
fn destroy(world: &mut World) {
    world.destroy(1);
    let state = |world: &World| Bulk::connect(&world.daemon).ask(bulk::STATES, "1|", &[]);
    let began = std::time::Instant::now();
    while !state(world).starts_with("1|OK|absent|") {
        assert!(began.elapsed() < common::HANG);
    }
}

/// Runs a command that is refused for domain 1 alone, and returns the reason.
fn refused(arguments: &[&str]) -> String {
    let run = xsctl(arguments);
    assert_eq!(run.code, 6, "{arguments:?}: {run:?}");
    let reason = run.err.strip_prefix("xsctl: domain 1: ").unwrap_or_else(|| panic!("{run:?}"));
    reason.trim_end().to_owned()
}

/// The hazard that there was: the same command on both ends made two of each domain without a word.
#[test]
fn unquiesce_of_all_domains_on_both_ends_serves_each_at_one() {
    let (mut a, mut b) = introducible(1..=3);
    a.guest(4);
    let (from, to) = (socket(&a), socket(&b));
    well(&["move", "--socket", &from, "--to", &to, "--domains", "1-3"]);
    let all = |socket: &str| xsctl(&["unquiesce", "--socket", socket, "--domains", "1-32751"]);
    let run = all(&to);
    assert_eq!((run.code, &*run.err), (0, ""), "{run:?}");
    let run = all(&from);
    let said = format!("{to} serves it; destroy it here with the toolstack");
    assert_eq!((run.code, run.err.matches(&said).count()), (6, 3), "{run:?}");
    assert!(run.out.starts_with("unquiesced 1 of 4 domains"), "{run:?}");
    // Also after they were introduced at the source again.
    well(&["introduce", "--socket", &from, "--domains", "1-3"]);
    let run = all(&from);
    assert_eq!((run.code, run.err.matches(&said).count()), (6, 3), "{run:?}");
    for domid in 1..=3 {
        is_quiesced(&mut a, domid);
        is_served(&mut b, domid);
    }
    // The daemon itself refuses it of any client.
    assert_eq!(a.admin.request(op::UNQUIESCE, 0, "1\0"), Err("EEXIST".to_owned()));
    drop(b);
    let reason = refused(&["unquiesce", "--socket", &from, "--domains", "1"]);
    let force = format!("xsctl unquiesce --force --socket {from} --domains 1");
    assert!(reason.starts_with(&format!("{to} may have it, and cannot be asked: ")), "{reason}");
    assert!(reason.ends_with(&format!("never will: {force}")), "{reason}");
    well(&["unquiesce", "--force", "--socket", &from, "--domains", "1-3"]);
    is_served(&mut a, 1);
}

#[test]
fn unquiesce_asks_the_destination() {
    let (mut a, mut b) = introducible(1..=1);
    let (from, to) = (socket(&a), socket(&b));
    let unquiesce = ["unquiesce", "--socket", &from, "--domains", "1"];
    let resume = format!("xsctl move --resume --socket {from} --to {to} --domains 1");
    let (stream, mark) = export_to(&a, &to);
    Bulk::connect(&b.daemon).import(&stream);
    for state in ["arrived", "arrived-introduced"] {
        let reason = refused(&unquiesce);
        assert!(reason.starts_with(&format!("{to} has it too ({state} since ")), "{reason}");
        assert!(reason.ends_with(&resume), "{reason}");
        if state == "arrived" {
            let reason = refused(&["unquiesce", "--socket", &to, "--domains", "1"]);
            assert!(reason.contains("it was imported and is not introduced"), "{reason}");
            b.introduce(1);
        }
    }
    // The destination asks its source if that is named.
    let at_destination = ["unquiesce", "--socket", &to, "--to", &from, "--domains", "1"];
    let reason = refused(&at_destination);
    assert!(reason.starts_with(&format!("its source {from} has not released it")), "{reason}");
    release(&mut a, &mark);
    let reason = refused(&unquiesce);
    assert!(reason.starts_with(&format!("{to} has it too (arrived-introduced")), "{reason}");
    well(&at_destination);
    is_served(&mut b, 1);
    // The destination loses it.
    destroy(&mut b);
    let reason = refused(&unquiesce);
    assert!(reason.contains("it has left and is not introduced; "), "{reason}");
    well(&["introduce", "--socket", &from, "--domains", "1"]);
    well(&unquiesce);
    is_served(&mut a, 1);
}

#[test]
fn status_names_the_way_to_a_destination_on_another_host() {
    let (a, _) = introducible(1..=1);
    export_to(&a, "ssh://other/run/xenstored/socket");
    let run = xsctl(&["status", "--socket", &socket(&a)]);
    let resume = format!(
        "xsctl move --resume --socket {} --to ssh://other/run/xenstored/socket --domains 1",
        socket(&a)
    );
    assert!(run.code == 9 && run.out.contains(&resume), "{run:?}");
}

#[test]
fn each_cause_of_a_refused_unquiesce_has_its_own_sentence() {
    let (mut a, b) = introducible(1..=1);
    let from = socket(&a);
    let unquiesce = ["unquiesce", "--socket", &from, "--domains", "1"];
    let nowhere = text(&b.daemon.path("nowhere"));
    for (to, why) in [
        ("exec:exit 3", "a command that a daemon has noted is not run; name it with --to"),
        ("at the other host", "it is neither the path of a socket nor the URL of a host"),
        (&nowhere, "cannot connect: No such file"),
    ] {
        export_to(&a, to);
        let reason = refused(&unquiesce);
        assert!(
            reason.starts_with(&format!("{to} may have it, and cannot be asked: ")),
            "{reason}"
        );
        assert!(reason.contains(why), "{reason}");
        is_quiesced(&mut a, 1);
        well(&["unquiesce", "--force", "--socket", &from, "--domains", "1"]);
        is_served(&mut a, 1);
    }
    // No destination was named.
    let said = Bulk::connect(&a.daemon).export("1|").1;
    release(&mut a, bulk::mark(&said));
    let reason = refused(&unquiesce);
    assert!(reason.contains("no destination was noted: name it with --to"), "{reason}");
    well(&["introduce", "--socket", &from, "--domains", "1"]);
    let reason = refused(&unquiesce);
    assert!(reason.contains("no destination was noted: name it with --to"), "{reason}");
    let to = socket(&b);
    well(&["unquiesce", "--socket", &from, "--domains", "1", "--to", &to]);
    is_served(&mut a, 1);
    let run = xsctl(&["unquiesce", "--socket", &from, "--domains", "9"]);
    assert!(run.err.contains("domain 9: there is no such domain"), "{run:?}");
}

/// Returns what `status --json` shows: the domains, and the summary.
fn status(arguments: &[&str], code: i32) -> (Vec<Value>, Value) {
    let run = xsctl(&[&["status", "--json"], arguments].concat());
    assert_eq!((run.code, &*run.err), (code, ""), "{run:?}");
    run.json()
}

#[test]
fn status_shows_unsettled_domains_with_their_authors() {
    let (mut a, mut b) = introducible(1..=3);
    let (from, to) = (socket(&a), socket(&b));
    let both = ["--socket", &from, "--to", &to];
    let run = well(&[&["status"], &both[..]].concat());
    assert_eq!(run.out, "all domains run; running: 3 here, 0 there\n");
    let resume = format!("xsctl move --resume --socket {from} --to {to} --domains 1");
    let (stream, mark) = export_to(&a, &to);
    well(&["quiesce", "--socket", &from, "--domains", "2"]);

    let (lines, summary) = status(&["--socket", &from], 9);
    assert_eq!([&summary["running"], &summary["unsettled"]], [1, 2], "{summary}");
    let [first, second] = &lines[..] else { panic!("{lines:?}") };
    let here = &first["here"];
    assert_eq!((&here["state"], &here["to"]), (&"exported".into(), &(&*to).into()), "{first}");
    assert_eq!((&here["vm"], &here["elsewhere"]), (&"/vm/u1".into(), &"exported".into()));
    let by = &here["by"];
    assert_eq!((&by["pid"], &by["lives"]), (&std::process::id().into(), &true.into()), "{first}");
    assert!(here["since_ms"].as_u64().unwrap() > 1 << 40);
    assert_eq!(first["commands"][0], resume);
    let by = &second["here"]["by"];
    assert_eq!((&by["command"], &by["lives"]), (&"xsctl".into(), &false.into()), "{second}");
    let unquiesce = format!("xsctl unquiesce --socket {from} --domains 2");
    assert_eq!(second["commands"][0], unquiesce);
    let run = xsctl(&["status", "--socket", &from, "--domains", "1-2"]);
    let text = run.out.lines().nth(1).unwrap();
    assert!(text.starts_with("domain 2: here quiesced since 20"), "{run:?}");
    assert!(
        text.contains(" by xsctl, process ") && text.contains(", which has ended; to serve it")
    );
    assert!(text.ends_with(&unquiesce), "{run:?}");
    assert_eq!(run.out.lines().count(), 3, "{run:?}");
    // Named individually, a domain is shown in any state.
    let (lines, _) = status(&["--socket", &from, "--domains", "3,9"], 0);
    assert_eq!([&lines[0]["here"]["state"], &lines[1]["here"]["state"]], ["running", "absent"]);
    well(&["unquiesce", "--socket", &from, "--domains", "2"]);

    Bulk::connect(&b.daemon).import(&stream);
    let (lines, summary) = status(&both, 9);
    assert_eq!([&summary["running"], &summary["running_there"]], [2, 0], "{summary}");
    assert_eq!(lines.len(), 1);
    assert_eq!(
        (&lines[0]["there"]["state"], &lines[0]["commands"][0]),
        (&"arrived".into(), &(&*resume).into())
    );
    // At the destination alone both ways are shown.
    let (lines, _) = status(&["--socket", &to], 9);
    assert_eq!(lines[0]["commands"].as_array().unwrap().len(), 2, "{lines:?}");
    b.introduce(1);
    release(&mut a, &mark);
    let (lines, _) = status(&both, 9);
    assert_eq!(
        (&lines[0]["here"]["state"], &lines[0]["commands"][0]),
        (&"left".into(), &(&*resume).into())
    );
    well(&["move", "--resume", "--socket", &from, "--to", &to]);
    let (lines, _) = status(&both, 9);
    assert_eq!(lines[0]["next"], "it was moved; destroy it here with the toolstack", "{lines:?}");
    is_served(&mut b, 1);
}

#[test]
fn resume_takes_back_what_was_not_released_and_finishes_what_was() {
    let (mut a, mut b) = introducible(1..=3);
    let (from, to) = (socket(&a), socket(&b));
    let resume = ["move", "--resume", "--socket", &from, "--to", &to];
    let run = well(&resume);
    assert!(run.out.starts_with("resumed 0 of 0 domains"), "{run:?}");
    // Exported only, and arrived.
    well(&["quiesce", "--socket", &from, "--domains", "2"]);
    for arrives in [false, true] {
        let (stream, _) = export_to(&a, &to);
        if arrives {
            Bulk::connect(&b.daemon).import(&stream);
        }
        let run = xsctl(&resume);
        assert!(run.err.contains("domain 2: it is quiesced since "), "{run:?}");
        assert_eq!((run.code, run.out.starts_with("resumed 1 of 2 domains")), (6, true), "{run:?}");
        is_served(&mut a, 1);
        is_absent(&mut b, 1);
        is_quiesced(&mut a, 2);
    }
    // Released: it is finished. Another time there is nothing to do.
    let (stream, mark) = export_to(&a, &to);
    Bulk::connect(&b.daemon).import(&stream);
    release(&mut a, &mark);
    let of_first = [&resume[..], &["--domains", "1,3"]].concat();
    for _ in 0..2 {
        let run = well(&of_first);
        assert!(run.out.starts_with("resumed 1 of 1 domain, "), "{run:?}");
    }
    is_released(&mut a, 1);
    b.connect_guest(1);
    assert_eq!(b.guest(1).read("data/own").as_deref(), Ok(&b"of 1"[..]));
    is_absent(&mut b, 2);
    is_served(&mut a, 3);
}

/// The number alone identifies nothing: the domain was destroyed at the source and made anew.
#[test]
fn another_domain_of_the_number_is_recognized() {
    for (vm, said) in [
        (
            "/vm/u1",
            "another incarnation of its virtual machine (a host was rebooted, or it was made anew)",
        ),
        ("/vm/other", "another domain with this domid"),
    ] {
        let (mut a, mut b) = introducible(1..=1);
        let (from, to) = (socket(&a), socket(&b));
        let (stream, mark) = export_to(&a, &to);
        Bulk::connect(&b.daemon).import(&stream);
        release(&mut a, &mark);
        destroy(&mut a);
        a.guest(1);
        a.admin.write("/local/domain/1/vm", vm).unwrap();
        for command in [&["move", "--resume"][..], &["move"]] {
            let rest = ["--socket", &from, "--to", &to, "--domains", "1"];
            let reason = refused(&[command, &rest].concat());
            assert!(reason.contains(said), "{vm}: {reason}");
        }
        let (lines, _) = status(&["--socket", &from, "--to", &to], 9);
        assert!(lines[0]["next"].as_str().unwrap().contains(said), "{lines:?}");
        assert!(is_introduced(&mut a.admin, 1) && !is_introduced(&mut b.admin, 1));
    }
}

/// A killed move to one destination, and another move to a second one.
#[test]
fn domain_exported_elsewhere_is_not_moved() {
    let (a, b) = introducible(1..=1);
    let mut c = World::new(Control::Socket, 1);
    c.create(1);
    let (from, first, second) = (socket(&a), socket(&b), socket(&c));
    let (stream, _) = export_to(&a, &first);
    Bulk::connect(&b.daemon).import(&stream);
    let move_on = ["move", "--socket", &from, "--to", &second, "--domains", "1"];
    let reason = refused(&move_on);
    let resume = format!("xsctl move --resume --socket {from} --to {first} --domains 1");
    assert!(reason.starts_with(&format!("{first} has it too (arrived ")), "{reason}");
    assert!(reason.ends_with(&resume), "{reason}");
    drop(b);
    let reason = refused(&move_on);
    assert!(reason.contains("cannot be asked"), "{reason}");
    well(&["unquiesce", "--force", "--socket", &from, "--domains", "1"]);
    well(&move_on);
    is_served(&mut c, 1);
}

/// Another client serves the domain at the destination before the tool would take it back.
#[test]
fn domain_served_at_the_destination_meanwhile_is_not_served_at_the_source() {
    let (mut a, mut b) = introducible(1..=1);
    let path = a.daemon.path("proxy");
    let [mut here, mut there] = [&a, &b]
        .map(|world| Client::new("other", common::client::Link::Socket(world.daemon.connect())));
    let _proxy = proxy::Proxy::start(&a.daemon, &path, move |kind, _| {
        if kind == op::RELEASE {
            there.request(op::UNQUIESCE, 0, "1\0").unwrap();
            // So the mark has ended.
            here.write("/libxl/1/late", "").unwrap();
        }
        proxy::Action::Pass
    });
    let (from, to) = (text(&path), socket(&b));
    let run = xsctl(&["move", "--socket", &from, "--to", &to, "--domains", "1", "--json"]);
    let (lines, _) = run.json();
    assert_eq!([&lines[0]["source"], &lines[0]["destination"]], ["quiesced", "served"], "{run:?}");
    assert_eq!((run.code, lines[0].get("commands")), (6, None), "{run:?}");
    is_quiesced(&mut a, 1);
    is_served(&mut b, 1);
}

/// The toolstack's destruction ends all that is known of a domain.
#[test]
fn destroyed_domain_is_not_unsettled() {
    let (mut a, b) = introducible(1..=1);
    let (_, mark) = export_to(&a, &socket(&b));
    release(&mut a, &mark);
    status(&["--socket", &socket(&a)], 9);
    destroy(&mut a);
    status(&["--socket", &socket(&a)], 0);
}

//! A participant of a move fails during the move. Afterwards each domain is served in one place, at the latest after
//! the commands that `xsctl` names or xsctl(8) documents, and never in two.

use std::process::{Child, Stdio};
use std::sync::mpsc;

use rustix::process::Signal;

use super::proxy::{Action, Proxy};
use super::*;

/// Starts a proxy that applies `action` to the first request of a type, and passes all others.
fn at_first(world: &World, kind: u32, action: Action) -> (Proxy, String) {
    let path = world.daemon.path("proxy");
    let mut first = true;
    let proxy = Proxy::start(&world.daemon, &path, move |asked, _| {
        if asked == kind && std::mem::take(&mut first) { action } else { Action::Pass }
    });
    (proxy, text(&path))
}

/// Moves domains 1 and 2 in one batch.
fn move_both(from: &str, to: &str) -> (Run, Vec<Value>) {
    let both = ["--domains", "1,2", "--batch", "2", "--json"];
    let run = xsctl(&[&["move", "--socket", from, "--to", to][..], &both].concat());
    let (lines, _) = run.json();
    (run, lines)
}

#[test]
fn failure_before_release_discards_the_import() {
    for (kind, action) in [
        (op::INTRODUCE, Action::Cut),
        (op::INTRODUCE, Action::CutAfter),
        (op::INTRODUCE, Action::Refuse("EIO")),
    ] {
        let (mut a, mut b) = worlds([1, 2]);
        introduces_no_imports(&mut b);
        let (_proxy, to) = at_first(&b, kind, action);
        let (run, lines) = move_both(&socket(&a), &to);
        assert_eq!(run.code, 6, "{run:?}");
        for line in lines.iter().filter(|line| line["done"] == false) {
            assert_eq!(
                (&line["source"], &line["destination"]),
                (&"served".into(), &"absent".into())
            );
        }
        // If one request is refused, only its domain stays; if the connection is lost, both do.
        is_served(&mut a, 1);
        is_absent(&mut b, 1);
        if let Action::Refuse(_) = action {
            is_released(&mut a, 2);
            is_served(&mut b, 2);
        } else {
            is_served(&mut a, 2);
            is_absent(&mut b, 2);
        }
    }
}

/// The page of domain 1 names an event channel that is not its own.
#[test]
fn domain_that_its_import_cannot_introduce_stays_at_the_source() {
    let (mut a, mut b) = worlds([1, 2]);
    b.guests[&1].page.store(common::ring::at::EVTCHN_PORT, 999);
    let (run, lines) = move_both(&socket(&a), &socket(&b));
    assert_eq!(run.code, 6, "{run:?}");
    let error = lines[0]["error"].as_str().unwrap();
    assert!(error.starts_with("INTRODUCE at the destination: EINVAL"), "{run:?}");
    is_served(&mut a, 1);
    is_absent(&mut b, 1);
    is_released(&mut a, 2);
    is_served(&mut b, 2);
    b.check_store();
}

/// The tool asks the source again whether the first domain was released; the second was not.
#[test]
fn release_without_a_reply_is_queried_again() {
    for (action, released) in [(Action::Cut, false), (Action::CutAfter, true)] {
        let (mut a, mut b) = worlds([1, 2]);
        let (_proxy, from) = at_first(&a, op::RELEASE, action);
        let (run, lines) = move_both(&from, &socket(&b));
        assert_eq!(run.code, 6, "{run:?}");
        assert_eq!(lines[0]["done"], released, "{run:?}");
        assert_eq!(lines[1]["done"], false);
        for (domid, is_moved) in [(1, released), (2, false)] {
            if is_moved {
                is_released(&mut a, domid);
                is_served(&mut b, domid);
            } else {
                is_served(&mut a, domid);
                is_absent(&mut b, domid);
            }
        }
    }
}

/// The source cannot be asked again: the domains are not served anywhere, and an operator must decide.
#[test]
fn release_in_doubt_is_left_to_the_operator() {
    for action in [Action::Gone, Action::GoneAfter] {
        let (mut a, mut b) = worlds([1, 2]);
        let (_proxy, from) = at_first(&a, op::RELEASE, action);
        let (run, lines) = move_both(&from, &socket(&b));
        assert_eq!(run.code, 6, "{run:?}");
        for (line, domid) in lines.iter().zip(1..) {
            assert_eq!(line["source"], "quiesced-or-released");
            assert_eq!(line["destination"], "quiesced");
            assert!(line.get("commands").is_none());
            let error = line["error"].as_str().unwrap();
            let [discard, unquiesce] = ["discard", "unquiesce"]
                .map(|name| format!("xsctl {name} --socket {} --domains {domid}", socket(&b)));
            assert!(error.contains(&discard) && error.contains(&unquiesce), "{error}");
            is_quiesced(&mut b, domid);
            assert_eq!(
                is_introduced(&mut a.admin, domid),
                (action, domid) != (Action::GoneAfter, 1)
            );
        }
        well(&["discard", "--socket", &socket(&b), "--domains", "2"]);
        well(&["unquiesce", "--socket", &socket(&a), "--domains", "2"]);
        is_served(&mut a, 2);
        is_absent(&mut b, 2);
        if action == Action::GoneAfter {
            well(&["unquiesce", "--socket", &socket(&b), "--domains", "1"]);
            is_served(&mut b, 1);
        }
    }
}

#[test]
fn failure_after_release_leaves_domains_at_the_destination() {
    for (action, done) in [
        (Action::Cut, true),
        (Action::CutAfter, true),
        (Action::Gone, false),
        (Action::GoneAfter, false),
    ] {
        let (mut a, mut b) = worlds([1, 2]);
        let (_proxy, to) = at_first(&b, op::UNQUIESCE, action);
        let (run, lines) = move_both(&socket(&a), &to);
        assert_eq!(run.code, if done { 0 } else { 6 }, "{run:?}");
        for (line, domid) in lines.iter().zip(1..) {
            is_released(&mut a, domid);
            assert_eq!((&line["done"], &line["source"]), (&done.into(), &"released".into()));
            if !done {
                // The printed command names the proxy's socket, which no longer exists; the daemon itself still serves.
                let command = line["commands"][0].as_str().unwrap();
                assert_eq!(command, format!("xsctl unquiesce --socket {to} --domains {domid}"));
                well(&["unquiesce", "--socket", &socket(&b), "--domains", &domid.to_string()]);
            }
            is_served(&mut b, domid);
        }
    }
}

/// The proxy changes the domain between its export and its release.
#[test]
fn domain_changed_after_its_export_is_moved_again() {
    let (mut a, mut b) = worlds([1, 2]);
    let path = a.daemon.path("proxy");
    let mut writer = Client::new("writer", common::client::Link::Socket(a.daemon.connect()));
    let mut first = true;
    let _proxy = Proxy::start(&a.daemon, &path, move |kind, _| {
        if kind == op::RELEASE && std::mem::take(&mut first) {
            writer.write("/local/domain/2/data/late", "yes").unwrap();
        }
        Action::Pass
    });
    let (run, lines) = move_both(&text(&path), &socket(&b));
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!((&lines[0]["tries"], &lines[1]["tries"]), (&1.into(), &2.into()), "{run:?}");
    assert_eq!(b.admin.read("/local/domain/2/data/late").as_deref(), Ok(&b"yes"[..]));
    for domid in [1, 2] {
        is_released(&mut a, domid);
    }
    is_served(&mut b, 1);
    b.connect_guest(2);
    // The guest has not been notified yet of the write during its quiesce.
    assert_eq!(b.guest(2).next_event(), "data/late|t");
    is_served(&mut b, 2);
}

/// The domain is written before every RELEASE, so its move fails after the last try.
#[test]
fn constantly_changed_domain_fails_after_the_allowed_tries() {
    let (mut a, mut b) = worlds([1, 2]);
    let path = a.daemon.path("proxy");
    let mut writer = Client::new("writer", common::client::Link::Socket(a.daemon.connect()));
    let mut count = 0;
    let _proxy = Proxy::start(&a.daemon, &path, move |kind, _| {
        if kind == op::RELEASE {
            count += 1;
            writer.write("/local/domain/2/data/busy", &count.to_string()).unwrap();
        }
        Action::Pass
    });
    let [from, to] = [text(&path), socket(&b)];
    let run = xsctl(&[
        "move",
        "--socket",
        &from,
        "--to",
        &to,
        "--domains",
        "1,2",
        "--batch",
        "2",
        "--tries",
        "3",
        "--json",
    ]);
    let (lines, _) = run.json();
    assert_eq!((run.code, &lines[0]["done"]), (6, &true.into()), "{run:?}");
    let line = &lines[1];
    assert_eq!((&line["tries"], &line["source"]), (&3.into(), &"served".into()), "{line}");
    assert!(line["error"].as_str().unwrap().contains("changed at the source each of 3 times"));
    is_served(&mut b, 1);
    is_absent(&mut b, 2);
    // The guest now gets the events of all these changes.
    a.admin.write("/local/domain/2/data/last", "").unwrap();
    while a.guest(2).next_event() != "data/last|t" {}
    is_served(&mut a, 2);
}

/// Starts a tool and waits until the proxy holds its request of this type; a message on the sender passes it on.
pub fn held_at(
    world: &World,
    kind: u32,
    arguments: &mut dyn FnMut(&str) -> Vec<String>,
) -> (Proxy, Child, mpsc::Sender<()>) {
    let path = world.daemon.path("proxy");
    let ((notify, reached), (release, held)) = (mpsc::channel(), mpsc::channel::<()>());
    let proxy = Proxy::start(&world.daemon, &path, move |asked, _| {
        if asked == kind {
            let _ = notify.send(());
            let _ = held.recv();
        }
        Action::Pass
    });
    let arguments = arguments(&text(&path));
    let mut command = command(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    reached.recv_timeout(common::HANG).unwrap();
    (proxy, child, release)
}

/// Sends a signal, and waits until it is delivered to the process (proc(5), status).
pub fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    let is_pending = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
        line.trim().bytes().any(|digit| digit != b'0')
    };
    while is_pending() {
        std::thread::yield_now();
    }
}

#[test]
fn sigint_ends_a_move_after_the_current_batches() {
    const DOMAINS: u16 = 20;
    let (mut a, mut b) = worlds(1..=DOMAINS);
    let (proxy, child, release) = held_at(&b, op::UNQUIESCE, &mut |to| {
        let from = socket(&a);
        let all = ["move", "--domains", "1-20", "--socket", &from, "--to", to];
        let how = ["--batch", "2", "--jobs", "1", "--json"];
        all.iter().chain(&how).map(ToString::to_string).collect()
    });
    interrupt(&child);
    drop(release);
    let run = Run::of(child.wait_with_output().unwrap());
    drop(proxy);
    let (lines, summary) = run.json();
    let moved = u16::try_from(lines.len()).unwrap();
    // The tool may react to a delivered signal with a delay.
    assert!(run.code == 6 && moved < DOMAINS && moved.is_multiple_of(2), "{run:?}");
    assert_eq!(
        [&summary["done"], &summary["failed"], &summary["left"]],
        [moved, 0, DOMAINS - moved]
    );
    let has_gone = |domid: u16| lines.iter().any(|line| line["domid"] == domid);
    for domid in 1..=DOMAINS {
        if has_gone(domid) {
            is_released(&mut a, domid);
            is_served(&mut b, domid);
        } else {
            is_served(&mut a, domid);
            is_absent(&mut b, domid);
        }
    }
}

/// Ctrl-Z and `fg`: some waits end with EINTR then (signal(7)), which loses nothing.
#[test]
fn stopped_tool_continues_after_sigcont() {
    let (mut a, _b) = worlds([1]);
    well(&["quiesce", "--socket", &socket(&a), "--domains", "1"]);
    let (proxy, child, release) = held_at(&a, op::UNQUIESCE, &mut |to| {
        ["unquiesce", "--domains", "1", "--socket", to].map(str::to_owned).to_vec()
    });
    let pid = rustix::process::Pid::from_child(&child);
    for (signal, is_stopped) in [(Signal::STOP, true), (Signal::CONT, false)] {
        rustix::process::kill_process(pid, signal).unwrap();
        while (state_of(&child) == 'T') != is_stopped {
            std::thread::yield_now();
        }
    }
    // Waits until the tool waits again or has ended: otherwise the reply could arrive before the wait that it should
    // end.
    while !matches!(state_of(&child), 'S' | 'Z') {
        std::thread::yield_now();
    }
    drop(release);
    let run = Run::of(child.wait_with_output().unwrap());
    drop(proxy);
    assert_eq!(run.code, 0, "{run:?}");
    is_served(&mut a, 1);
}

/// Returns the state of a process's first thread (proc_pid_stat(5)).
fn state_of(child: &Child) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

/// The source released the domains, and then the other host is lost: the source restores the domains unchanged from the
/// state that it kept.
#[test]
fn released_domain_can_be_introduced_at_the_source() {
    let (mut a, b) = worlds([1, 2, 3]);
    let from = socket(&a);
    for domid in [1, 2] {
        let port = a.ports[&domid];
        let store = format!("/local/domain/{domid}/store");
        a.admin.write(&format!("{store}/port"), &port.to_string()).unwrap();
        a.admin.write(&format!("{store}/ring-ref"), "1").unwrap();
    }
    let open = a.guest(1).start().unwrap();
    let (_proxy, to) = at_first(&b, op::UNQUIESCE, Action::Gone);
    let which = ["--domains", "1-3", "--batch", "3", "--json"];
    let run = xsctl(&[&["move", "--socket", &from, "--to", &to][..], &which].concat());
    let (lines, _) = run.json();
    for (line, domid) in lines.iter().zip(1..) {
        let error = line["error"].as_str().unwrap();
        let take_up = ["introduce", "unquiesce"]
            .map(|name| format!("xsctl {name} --socket {from} --domains {domid}"));
        assert!(error.contains(&take_up.join("; ")), "{error}");
        is_released(&mut a, domid);
    }
    drop(b);

    // A range includes only domains whose port is known; the output says how to serve them.
    let run = well(&["introduce", "--socket", &from, "--domains", "1-9"]);
    assert!(run.out.starts_with("introduced 2 of 2 domains"), "{run:?}");
    assert!(run.err.ends_with(&format!("xsctl unquiesce --socket {from} --domains 1-2\n")));
    for domid in [1, 2] {
        is_quiesced(&mut a, domid);
    }
    is_released(&mut a, 3);
    let run = xsctl(&["introduce", "--socket", &from, "--domains", "1,3"]);
    assert_eq!((run.code, run.err.lines().count()), (6, 2), "{run:?}");
    assert!(run.err.contains("domain 1: it is already introduced"), "{run:?}");
    assert!(run.err.contains("domain 3: /local/domain/3/store/port does not exist"), "{run:?}");
    let port = a.ports[&3].to_string();
    well(&["introduce", "--socket", &from, "--domains", "3", "--port", &port]);
    let run = xsctl(&["introduce", "--socket", &from, "--domains", "1-9"]);
    assert_eq!((run.code, run.out.as_str()), (6, ""), "{run:?}");
    a.admin.write("/local/domain/9/store/port", "many").unwrap();
    let run = xsctl(&["introduce", "--socket", &from, "--domains", "9"]);
    assert!(run.err.starts_with("xsctl: domain 9: /local/domain/9/store/port is not a number"));

    // The destination cannot be asked: only a person knows that it is lost.
    let run = xsctl(&["unquiesce", "--socket", &from, "--domains", "1-3"]);
    assert_eq!((run.code, run.err.matches("cannot be asked").count()), (6, 3), "{run:?}");
    well(&["unquiesce", "--force", "--socket", &from, "--domains", "1-3"]);
    for domid in [1, 2, 3] {
        is_served(&mut a, domid);
    }
    assert_eq!(
        a.guest(1).commit(open).err().as_deref(),
        Some("EAGAIN"),
        "the transaction is known and conflicts"
    );
    a.check_store();
}

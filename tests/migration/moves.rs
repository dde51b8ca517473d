//! Domains that are exported by one daemon and imported by another, over the migration socket.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;

/// Runs a test with two daemons, of 1 and 4 shards, and the other way round.
pub fn each_pair(test: impl Fn(&mut World, &mut World)) {
    for shards in [1, 4] {
        let [mut from, mut to] = [shards, 5 - shards].map(|n| World::new(Control::Socket, n));
        test(&mut from, &mut to);
        from.check_store();
        to.check_store();
    }
}

pub fn release(world: &mut World, domid: u16, mark: &str) -> common::Reply {
    world.admin.request(op::RELEASE, 0, format!("{domid}\0{mark}\0"))
}

/// Creates a domain as a toolstack does, with a backend, and with a guest's nodes, watches and transactions.
pub fn inhabit(world: &mut World, domid: u16) {
    world.guest(domid);
    let backend = format!("/local/domain/0/backend/vif/{domid}/0");
    for (path, value) in [
        (format!("/local/domain/{domid}/vm"), format!("/vm/uuid-{domid}")),
        (format!("/vm/uuid-{domid}/name"), format!("guest{domid}")),
        (format!("/libxl/{domid}/device"), String::new()),
        (format!("{backend}/state"), "1".to_owned()),
    ] {
        world.admin.write(&path, &value).unwrap();
    }
    // The node `vm` is written as by libxl: the daemon does not trust one that the guest can write.
    let vm = format!("/local/domain/{domid}/vm");
    for path in [&backend, &format!("{backend}/state"), &vm] {
        world.admin.set_perms(path, &format!("n0\0r{domid}")).unwrap();
    }
    let guest = world.guest(domid);
    guest.write("data/a", "\x01\n\"").unwrap();
    guest.watch("data", "odd \x02").unwrap();
    guest.watch(&format!("{backend}/state"), "b").unwrap();
    guest.watch("@releaseDomain", "r").unwrap();
    guest.request(op::WATCH, 0, "data\0deep\x000\0").unwrap();
    for _ in 0..4 {
        guest.next_event();
    }
}

/// Returns everything in a domain's subtrees, as `path value perms`.
pub fn nodes(world: &mut World, domid: u16) -> Vec<String> {
    let backend = format!("/local/domain/0/backend/vif/{domid}");
    let mut todo = vec![
        format!("/local/domain/{domid}"),
        format!("/libxl/{domid}"),
        format!("/vm/uuid-{domid}"),
        backend,
    ];
    let mut found = Vec::new();
    while let Some(path) = todo.pop() {
        let Ok(value) = world.admin.read(&path) else { continue };
        let perms = world.admin.request(op::GET_PERMS, 0, format!("{path}\0")).unwrap();
        found.push(format!("{path} {} {}", show(&value), show(&perms)));
        todo.extend(
            world.admin.directory(&path).unwrap().iter().map(|name| format!("{path}/{name}")),
        );
    }
    found.sort();
    found
}

#[test]
fn moved_domain_continues_unchanged() {
    each_pair(|from, to| {
        inhabit(from, 5);
        let open = from.guest(5).start().unwrap();
        let (stream, said) = Bulk::connect(&from.daemon).export("5|");
        let before = nodes(from, 5);
        let count = before.len();
        assert_eq!(said, format!("5|OK|{}|{count}|", bulk::mark(&said)));

        to.create(5);
        assert_eq!(Bulk::connect(&to.daemon).check(&stream), format!("5|OK|1|{count}|"));
        assert!(nodes(to, 5).is_empty(), "a dry run created nodes");
        assert_eq!(Bulk::connect(&to.daemon).import(&stream), format!("5|OK|1|{count}|"));
        assert_eq!(nodes(to, 5), before);
        assert_eq!(unquiesce(to, "5"), Err("EAGAIN".to_owned()), "it is not introduced");
        assert_eq!(release(from, 5, bulk::mark(&said)).as_deref(), Ok(OK));
        to.introduce(5);
        let watches = list(to, 5);
        let state = "/local/domain/0/backend/vif/5/0/state|b";
        assert_eq!(watches, ["data|odd \\x02", state, "@releaseDomain|r", "data|deep"]);

        to.guest(5).send(op::READ, 0, "data/a\0");
        to.guest(5).ring().notify();
        passes(to, 5);
        assert!(!to.guest(5).has_reply(), "served before UNQUIESCE");
        unquiesce(to, "5").unwrap();
        let guest = to.guest(5);
        assert_eq!(guest.reply().as_deref(), Ok(&b"\x01\n\""[..]));
        // A watch fires if its path was not moved with the domain.
        assert_eq!(guest.take_events(), ["@releaseDomain|r"]);
        guest.write("data/a", "new").unwrap();
        assert_eq!(guest.next_event(), "data/a|odd \x02");
        let reply = guest.request(op::READ, open, "data/a\0");
        assert_eq!(reply.as_deref(), Ok(&b"new"[..]));
        assert_eq!(guest.commit(open), Err("EAGAIN".to_owned()));
        to.admin.write("/local/domain/0/backend/vif/5/0/state", "2").unwrap();
        assert_eq!(to.guest(5).next_event(), state);
        assert_eq!(to.accounted(5, "watches"), 4);
        assert_eq!(to.nodes_of(5), from.nodes_of(5));
    });
}

/// The commit point: from there on an INTRODUCE restores everything, if the other host is lost.
#[test]
fn domain_released_with_a_mark_can_be_introduced_again() {
    each_pair(|from, _| {
        inhabit(from, 5);
        let said = Bulk::connect(&from.daemon).export("5|").1;
        release(from, 5, bulk::mark(&said)).unwrap();
        let introduced = from.admin.request(op::IS_DOMAIN_INTRODUCED, 0, "5\0");
        assert_eq!(introduced.as_deref(), Ok(&b"F\0"[..]));
        let before = list_of_stream(&Bulk::connect(&from.daemon).export("5|").1);
        assert_eq!(before, ["5|ENOENT|it is not introduced, or was unquiesced|"]);
        // The node was written while the domain was released, so the watch fires.
        from.admin.write("/local/domain/0/backend/vif/5/0/state", "6").unwrap();
        let port = from.ports[&5];
        from.admin.request(op::INTRODUCE, 0, format!("5\x001\0{port}\0")).unwrap();
        assert_eq!(list(from, 5).len(), 4);
        forced(from, "5").unwrap();
        let guest = from.guest(5);
        assert_eq!(guest.read("data/a").as_deref(), Ok(&b"\x01\n\""[..]));
        let mut events = guest.take_events();
        events.sort();
        let state = "/local/domain/0/backend/vif/5/0/state|b";
        assert_eq!(events, [state, "@releaseDomain|r"]);
    });
}

fn list_of_stream(said: &str) -> Vec<String> {
    said.lines().map(str::to_owned).collect()
}

/// Exports domain 5, applies `change`, and releases the domain: the mark is valid if `stands`.
pub fn changed_after_export(world: &mut World, stands: bool, what: &str, change: fn(&mut World)) {
    let said = Bulk::connect(&world.daemon).export("5|").1;
    change(world);
    let released = release(world, 5, bulk::mark(&said));
    let expected = if stands { Ok(OK.to_vec()) } else { Err("EAGAIN".to_owned()) };
    assert_eq!(released, expected, "{what}");
    if !stands {
        // The domain is still at the source, and can be exported again.
        let again = Bulk::connect(&world.daemon).export("5|").1;
        assert_eq!(release(world, 5, bulk::mark(&again)).as_deref(), Ok(OK), "{what}");
    }
}

#[test]
fn mark_is_valid_until_exported_data_changes() {
    type Change = (&'static str, bool, fn(&mut World));
    const BACKEND: &str = "/local/domain/0/backend/vif/5/0/state";
    let changes: [Change; 14] = [
        ("nothing", true, |_| {}),
        ("another domain's node", true, |world| drop(world.guest(6).write("x", "v").unwrap())),
        ("a read", true, |world| drop(world.admin.read(BACKEND).unwrap())),
        ("creation and death of another domain", true, |world| {
            world.guest(9);
            world.until_released(9);
        }),
        ("a node below its home path", false, |world| {
            world.admin.write("/local/domain/5/x", "v").unwrap();
        }),
        ("a node of its backend", false, |world| drop(world.admin.write(BACKEND, "2").unwrap())),
        ("a new backend", false, |world| {
            world.admin.write("/local/domain/0/backend/vbd/5/0", "").unwrap();
        }),
        ("a removed backend", false, |world| {
            world.admin.rm("/local/domain/0/backend/vif/5").unwrap();
        }),
        ("its /vm", false, |world| drop(world.admin.write("/vm/uuid-5/name", "x").unwrap())),
        ("permissions", false, |world| {
            world.admin.set_perms("/libxl/5/device", "n0").unwrap();
        }),
        ("a watch", false, |world| {
            world.admin.request(op::ADD_DOMAIN_WATCHES, 0, "5\0x\0t\0").unwrap();
        }),
        ("a transaction", false, |world| {
            world.admin.request(op::START_DOMAIN_TRANSACTION, 0, "5\x0099\0").unwrap();
        }),
        ("an event from elsewhere", false, |world| {
            world.admin.write("/shared/x", "v").unwrap();
        }),
        ("another export", false, |world| drop(Bulk::connect(&world.daemon).export("5|"))),
    ];
    for (what, stands, change) in changes {
        each_world(|world| {
            inhabit(world, 5);
            world.admin.mkdir("/shared").unwrap();
            world.admin.set_perms("/shared", "r0").unwrap();
            world.guest(5).watch("/shared", "s").unwrap();
            world.guest(5).next_event();
            changed_after_export(world, stands, what, change);
            world.check_store();
        });
    }
}

#[test]
fn mark_belongs_to_its_domain_and_ends_with_unquiesce() {
    each_world(|world| {
        inhabit(world, 5);
        world.guest(6);
        let mut bulk = Bulk::connect(&world.daemon);
        let said = bulk.export("5-6|").1;
        let lines: Vec<&str> = said.lines().collect();
        let again = Err("EAGAIN".to_owned());
        assert_eq!(release(world, 5, bulk::mark(lines[1])), again);
        assert_eq!(release(world, 6, "0"), again);
        unquiesce(world, "5").unwrap();
        assert_eq!(release(world, 5, bulk::mark(lines[0])), again);
        quiesce(world, "5").unwrap();
        assert_eq!(release(world, 5, bulk::mark(lines[0])), again);
        assert_eq!(release(world, 5, "x"), Err("EINVAL".to_owned()));
        assert_eq!(release(world, 5, ""), Err("EINVAL".to_owned()));
        // Without a mark the request is Xen's RELEASE.
        assert_eq!(world.admin.request(op::RELEASE, 0, "5\0").as_deref(), Ok(OK));
        let port = world.ports[&5];
        world.admin.request(op::INTRODUCE, 0, format!("5\x001\0{port}\0")).unwrap();
        assert_eq!(world.guest(5).read("data/a").as_deref(), Ok(&b"\x01\n\""[..]));
        assert!(list(world, 5).is_empty());
    });
}

/// The bytes in flight are half a request that was read, and replies for which the ring has no room; the first of these
/// is partly in the ring.
#[test]
fn bytes_in_flight_are_moved() {
    each_pair(|from, to| {
        let value = "v".repeat(700);
        from.guest(5).write("data", &value).unwrap();
        let guest = from.guest(5);
        // The replies have 716 bytes each, and the ring 1,024.
        for _ in 0..3 {
            guest.send(op::READ, 0, "data\0");
        }
        let last = guest.compose(op::READ, 0, b"data\0");
        guest.ring().put(&last[..7]);
        guest.ring().notify();
        passes(from, 5);
        let (stream, said) = Bulk::connect(&from.daemon).export("5|");
        let mut received = from.guest(5).ring().take(usize::MAX);
        assert!(received.len() < 2 * 716, "the second reply is partial");
        release(from, 5, bulk::mark(&said)).unwrap();
        to.create(5);
        Bulk::connect(&to.daemon).import(&stream);
        to.introduce(5);
        unquiesce(to, "5").unwrap();
        let ring = to.guest(5).ring();
        ring.put(&last[7..]);
        ring.notify();
        while received.len() < 4 * 716 {
            ring.wait(HANG);
            received.extend(ring.try_recv());
        }
        assert_eq!(received.len(), 4 * 716);
        for reply in received.chunks(716) {
            assert_eq!(&reply[16..], value.as_bytes());
        }
    });
}

#[test]
fn import_can_be_discarded() {
    each_pair(|from, to| {
        inhabit(from, 5);
        let (stream, _) = Bulk::connect(&from.daemon).export("5|");
        let mut bulk = Bulk::connect(&to.daemon);
        let not = "5|EINVAL|it was not imported, or has been served since|";
        to.create(5);
        assert_eq!(bulk.ask(bulk::DISCARD, "5|", &[]), not);
        for introduced in [false, true] {
            assert!(bulk.import(&stream).starts_with("5|OK|"));
            assert!(bulk.import(&stream).starts_with("5|EEXIST|"));
            if introduced {
                to.introduce(5);
                // A backend may write before the toolstack continues.
                to.admin.write("/local/domain/0/backend/vif/5/0/more", "v").unwrap();
            }
            assert_eq!(bulk.ask(bulk::DISCARD, "5|", &[]), "5|OK|");
            assert!(nodes(to, 5).is_empty());
            to.check_store();
            assert_eq!(bulk.ask(bulk::DISCARD, "5|", &[]), not);
        }
        bulk.import(&stream);
        let port = to.ports[&5];
        to.admin.request(op::INTRODUCE, 0, format!("5\x001\0{port}\0")).unwrap();
        unquiesce(to, "5").unwrap();
        assert_eq!(bulk.ask(bulk::DISCARD, "5|", &[]), not);
    });
}

#[test]
fn import_introduces_its_domains_if_asked() {
    each_pair(|from, to| {
        inhabit(from, 5);
        let (stream, _) = Bulk::connect(&from.daemon).export("5|");
        let mut bulk = Bulk::connect(&to.daemon);
        to.admin.watch("@introduceDomain", "i").unwrap();
        to.admin.next_event();
        to.create(5);
        let mut import = |payload| {
            let said = bulk.ask(bulk::IMPORT, payload, &[bulk::file_of(&stream).as_fd()]);
            said.rsplit('|').nth(1).unwrap().to_owned()
        };
        assert_eq!(import("introduce|digest|"), "OK");
        assert_eq!(to.admin.next_event(), "@introduceDomain|i");
        assert_eq!(state(to), "arrived-introduced");
        assert_eq!(Bulk::connect(&to.daemon).ask(bulk::DISCARD, "5|", &[]), "5|OK|");
        assert_eq!(import("introduce|"), "OK");
        unquiesce(to, "5").unwrap();
        to.connect_guest(5);
        assert_eq!(to.guest(5).read("data/a").as_deref(), Ok(&b"\x01\n\""[..]));
        for payload in ["introduce", "check|introduce|", "digest|introduce|"] {
            assert_eq!(import(payload), "EINVAL");
        }
    });
}

/// The page names a port that is not the domain's, so the domain stays as an import without INTRODUCE leaves it.
#[test]
fn import_whose_introduction_fails_is_arrived() {
    each_pair(|from, to| {
        from.guest(5);
        let (stream, _) = Bulk::connect(&from.daemon).export("5|");
        to.create(5);
        to.guests[&5].page.store(at::EVTCHN_PORT, 999);
        let file = bulk::file_of(&stream);
        let said = Bulk::connect(&to.daemon).ask(bulk::IMPORT, "introduce|", &[file.as_fd()]);
        assert!(said.starts_with("5|OK|1|") && said.ends_with("|EINVAL|"), "{said}");
        assert_eq!(state(to), "arrived");
        to.guests[&5].page.store(at::EVTCHN_PORT, 0);
        to.introduce(5);
        unquiesce(to, "5").unwrap();
    });
}

fn state(world: &World) -> String {
    let said = Bulk::connect(&world.daemon).ask(bulk::STATES, "5|", &[]);
    said.split('|').nth(2).unwrap().to_owned()
}

/// A transaction may have a reservation during each of the domain's many removals.
#[test]
fn discard_during_reservations_leaves_nothing() {
    const NODES: usize = 900;
    const ROUNDS: usize = 20;
    each_pair(|from, to| {
        inhabit(from, 5);
        for node in 0..NODES {
            from.admin.write(&format!("/local/domain/5/backend/n{node}"), "").unwrap();
        }
        let (stream, _) = Bulk::connect(&from.daemon).export("5|");
        to.create(5);
        // Another domain's backend below the domain's partition root makes the removal of each of the domain's nodes a
        // separate operation.
        to.admin.write("/local/domain/5/backend/vif/6/0", "v").unwrap();
        let mut bulk = Bulk::connect(&to.daemon);
        let ends = AtomicBool::new(false);
        let clients = [(); 3].map(|()| Client::new("hot", Link::Socket(to.daemon.connect())));
        std::thread::scope(|scope| {
            for mut client in clients {
                let ends = &ends;
                scope.spawn(move || {
                    while !ends.load(Ordering::Relaxed) {
                        let tx = client.start().unwrap();
                        let _ = client.request(op::READ, tx, "/hot\0");
                        let _ = client.request(op::WRITE, tx, format!("/hot\0{tx}"));
                        let _ = client.commit(tx);
                    }
                });
            }
            let round = |_| {
                let imported = bulk.import(&stream);
                let discarded = bulk.ask(bulk::DISCARD, "5|", &[]);
                let left = to.admin.directory("/local/domain/5/backend").unwrap();
                (imported, discarded, left)
            };
            let rounds: Vec<_> = (0..ROUNDS).map(round).collect();
            ends.store(true, Ordering::Relaxed);
            for (imported, discarded, left) in rounds {
                assert!(imported.starts_with("5|OK|"), "{imported}");
                assert_eq!((&*discarded, &left[..]), ("5|OK|", &["vif".to_owned()][..]));
            }
        });
        to.check_store();
    });
}

/// A driver domain's partition contains the backends of others.
#[test]
fn discard_of_a_driver_domain_keeps_backends_of_others() {
    each_pair(|from, to| {
        inhabit(from, 5);
        from.admin.write("/local/domain/5/backend/vif/5/0", "own").unwrap();
        let (stream, _) = Bulk::connect(&from.daemon).export("5|");
        to.create(5);
        let other = "/local/domain/5/backend/vif/6/0";
        let mut bulk = Bulk::connect(&to.daemon);
        for round in 0..2 {
            assert!(bulk.import(&stream).starts_with("5|OK|"), "{round}");
            to.admin.write(other, "v").unwrap();
            assert_eq!(bulk.ask(bulk::DISCARD, "5|", &[]), "5|OK|");
            assert_eq!(to.admin.read(other).as_deref(), Ok(&b"v"[..]));
            assert_eq!(to.admin.directory("/local/domain/5/backend/vif").unwrap(), ["6"]);
            assert_eq!(to.admin.directory("/local/domain/5").unwrap(), ["backend"]);
        }
    });
}

#[test]
fn failed_import_is_named_and_the_others_succeed() {
    each_pair(|from, to| {
        for domid in [5, 6, 7, 8] {
            inhabit(from, domid);
        }
        let (stream, _) = Bulk::connect(&from.daemon).export("5-8|");
        to.create(5);
        to.guest(6);
        to.create(8);
        to.admin.write("/libxl/8/x", "v").unwrap();
        let said = Bulk::connect(&to.daemon).check(&stream);
        assert_eq!(Bulk::connect(&to.daemon).import(&stream), said);
        let lines: Vec<&str> = said.lines().collect();
        let [five, six, seven, eight] = lines[..] else { panic!("{said}") };
        assert!(five.starts_with("5|OK|1|"), "{five}");
        assert_eq!(six, "6|EEXIST|domid 6 is in use: it is introduced and served|");
        assert_eq!(seven, "7|ENOENT|domain 7 does not exist|");
        assert_eq!(eight, "8|EEXIST|domid 8 is in use: node /libxl/8/x already exists|");
        assert_eq!(to.admin.directory("/libxl/8").unwrap(), ["x"]);
        let vm = to.admin.read("/vm/uuid-8");
        assert_eq!(vm, Err("ENOENT".to_owned()), "a failed import leaves no node");
    });
}

#[test]
fn malformed_stream_changes_nothing() {
    each_pair(|from, to| {
        inhabit(from, 5);
        let (stream, _) = Bulk::connect(&from.daemon).export("5|");
        to.create(5);
        let mut bulk = Bulk::connect(&to.daemon);
        let before = to.admin.directory("/").unwrap();
        assert_eq!(
            bulk.import(b"no stream"),
            "-|EINVAL|record 0 at byte 0: it begins with \"no strea\" and is not a \"xenstore\" \
             stream|"
        );
        for cut in [20, 100, stream.len() - 8] {
            let said = bulk.import(&stream[..cut]);
            assert!(said.starts_with("-|EINVAL|record "), "{said}");
        }
        assert_eq!(to.admin.directory("/").unwrap(), before);
        assert!(bulk.import(&stream).starts_with("5|OK|"));
    });
}

/// Threads have names, so that they can be identified in `ps -T`, in a debugger and in the line of a panic.
#[test]
fn pool_threads_have_names() {
    each_world(|world| {
        world.check_store();
        let started = Instant::now();
        // A thread has the name of the process until it runs for the first time.
        loop {
            let names = thread_names(world.daemon.pid());
            assert!(names.contains(&"pool0\n".to_owned()), "{names:?}");
            if names.iter().filter(|name| name.starts_with("xenstored")).count() == 1 {
                break;
            }
            assert!(started.elapsed() < HANG, "{names:?}");
        }
    });
}

fn thread_names(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // A thread may end meanwhile.
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    };
    tasks.filter_map(name).collect()
}

//! A daemon is killed between any two steps of a move: the domain is in the state that the table in docs/MIGRATION.md
//! gives, and runs after the commands that the table names; it never runs in two places.

use super::*;

/// The requests of a move, one by one, as `xsctl move` sends them.
struct Move {
    from: World,
    to: World,
    stream: Vec<u8>,
    mark: String,
}

type Step = fn(&mut Move);

/// The steps, in the order of the table's rows.
const STEPS: [Step; 5] = [
    |it| {
        let (stream, said) = Bulk::connect(&it.from.daemon).export("5|");
        (it.stream, it.mark) = (stream, bulk::mark(&said).to_owned());
    },
    |it| {
        it.to.create(5);
        assert!(Bulk::connect(&it.to.daemon).import(&it.stream).starts_with("5|OK|"));
    },
    |it| it.to.introduce(5),
    |it| {
        it.from.admin.request(op::RELEASE, 0, format!("5\0{}\0", it.mark)).unwrap();
    },
    |it| drop(unquiesce(&mut it.to, "5").unwrap()),
];

fn each_step(test: impl Fn(&mut Move, usize)) {
    for done in 0..=STEPS.len() {
        let [from, to] = [(); 2].map(|()| World::new(Control::Socket, 2));
        let mut it = Move { from, to, stream: Vec::new(), mark: String::new() };
        it.from.guest(5).write("data", "v").unwrap();
        it.from.guest(5).watch("data", "t").unwrap();
        it.from.guest(5).next_event();
        STEPS[..done].iter().for_each(|step| step(&mut it));
        test(&mut it, done);
    }
}

/// Returns whether the daemon serves the domain: the guest gets a reply.
fn is_served(world: &mut World) -> bool {
    if world.admin.request(op::IS_DOMAIN_INTRODUCED, 0, "5\0").as_deref() != Ok(b"T\0") {
        return false;
    }
    world.guest(5).send(op::READ, 0, "data\0");
    world.guest(5).ring().notify();
    passes(world, 5);
    world.guest(5).has_reply()
}

/// Checks that the domain has everything that it had.
fn goes_on(world: &mut World) {
    assert_eq!(list(world, 5), ["data|t"]);
    let guest = world.guest(5);
    guest.write("data", "w").unwrap();
    assert_eq!(guest.next_event(), "data|t");
    assert_eq!(guest.read("data").as_deref(), Ok(&b"w"[..]));
}

#[test]
fn killed_source_at_each_step_leaves_a_recoverable_state() {
    each_step(|it, done| {
        it.from.daemon.kill();
        match done {
            // The source's store is lost, as in any crash, and no other host had a copy of the domain.
            0 | 1 => assert_eq!(it.to.admin.read("/local/domain/5"), Err("ENOENT".to_owned())),
            2 | 3 => {
                if done == 2 {
                    it.to.introduce(5);
                }
                assert!(!is_served(&mut it.to), "served before UNQUIESCE");
                unquiesce(&mut it.to, "5").unwrap();
                it.to.guest(5).reply().unwrap();
                goes_on(&mut it.to);
            }
            4 => {
                unquiesce(&mut it.to, "5").unwrap();
                goes_on(&mut it.to);
            }
            _ => goes_on(&mut it.to),
        }
    });
}

#[test]
fn killed_destination_at_each_step_leaves_a_recoverable_state() {
    each_step(|it, done| {
        if done == STEPS.len() {
            // The domain was moved; at the source it stays until the toolstack destroys it.
            assert!(!is_served(&mut it.from));
        }
        it.to.daemon.kill();
        match done {
            0 => goes_on(&mut it.from),
            1..=3 => {
                assert!(!is_served(&mut it.from), "served before UNQUIESCE");
                unquiesce(&mut it.from, "5").unwrap();
                it.from.guest(5).reply().unwrap();
                goes_on(&mut it.from);
            }
            // The domain is released, and no other host has it any more.
            _ => {
                let port = it.from.ports[&5];
                it.from.admin.request(op::INTRODUCE, 0, format!("5\x001\0{port}\0")).unwrap();
                assert!(!is_served(&mut it.from), "not before UNQUIESCE");
                forced(&mut it.from, "5").unwrap();
                it.from.guest(5).reply().unwrap();
                goes_on(&mut it.from);
            }
        }
    });
}

/// The client of an export disconnects before the reply: the domain is not lost, and one command resumes it.
#[test]
fn client_gone_before_the_reply_to_an_export_loses_no_domain() {
    each_world(|world| {
        world.guest(5).write("data", "v").unwrap();
        world.guest(5).watch("data", "t").unwrap();
        world.guest(5).next_event();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut bulk = Bulk::connect(&world.daemon);
        bulk.send(bulk::EXPORT, "5|", &[std::os::fd::AsFd::as_fd(&writer)]);
        drop((bulk, writer));
        // The stream is written to its end: the daemon closes the pipe after the last write.
        let mut stream = Vec::new();
        std::io::Read::read_to_end(&mut std::fs::File::from(reader), &mut stream).unwrap();
        assert!(!is_served(world));
        unquiesce(world, "5").unwrap();
        world.guest(5).reply().unwrap();
        goes_on(world);
    });
}

/// Each silent client holds one of the eight job slots.
#[test]
fn silent_clients_make_room_for_a_waiting_one() {
    let mut world = World::new(Control::Socket, 2);
    world.guest(5);
    let mut silent: Vec<_> = (0..8).map(|_| Bulk::connect(&world.daemon)).collect();
    for client in &mut silent {
        assert_eq!(client.ask(bulk::DISCARD, "98-99|", &[]), "", "the client has a job slot");
    }
    let mut waiting = Bulk::connect(&world.daemon);
    let (_, said) = waiting.export("5|");
    assert!(said.starts_with("5|OK|"), "{said}");
    assert_eq!(world.log().matches("closed to serve another").count(), 1);
    // Once no client waits, the others keep their slots, however long they are silent.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(world.log().matches("closed to serve another").count(), 1);
}

#[test]
fn descriptor_exhaustion_is_logged_seldom() {
    let daemon = Daemon::start_limited(64);
    let mut world = World::around(daemon, Control::Socket);
    let _clients: Vec<_> = (0..64).map(|_| world.daemon.connect()).collect();
    // The descriptors are not counted in /proc: a thread that waits in accept() may have reserved one that does not
    // exist yet.
    world.daemon.await_text("log", "cannot accept clients");
    let _waiting: Vec<_> = (0..8).map(|_| Bulk::connect(&world.daemon)).collect();
    world.daemon.await_text("log", "socket=\"migration\"");
    std::thread::sleep(Duration::from_millis(1500));
    let log = world.log();
    let of_migration = |line: &&str| {
        line.contains("cannot accept clients") && line.contains("socket=\"migration\"")
    };
    assert_eq!(log.lines().filter(of_migration).count(), 1, "{log}");
}

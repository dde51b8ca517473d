//! Tests of the host and its clients over a real socket.

mod adopted;
mod handed_over;
mod restarts;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io, iter, thread};

use fastrand::Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, send};
use tempfile::TempDir;

use super::socket::{receive_with, send_with};
use super::*;
use crate::host::page::{REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, RSP_RING};
use crate::host::{Channels, Host, Port};
use crate::types::Domid;

/// Longer than any operation here takes: a wait of this length means a lost wake-up.
const LOST: Duration = Duration::from_secs(20);

struct World {
    dir: TempDir,
    host: SimHost,
    client: SimClient,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let host = start(&dir.path().join("host")).unwrap();
        let client = SimClient::connect(dir.path().join("host")).unwrap();
        World { dir, host, client }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("host")
    }

    fn raw(&self) -> UnixStream {
        UnixStream::connect(self.path()).unwrap()
    }

    /// Creates a guest whose channel is bound in a handle of its own.
    fn bound(&mut self) -> (SimGuest, Box<dyn Channels>, Port) {
        let guest = self.client.create(None).unwrap();
        let mut channels = self.host.open_channels().unwrap();
        let port = channels.bind_interdomain(guest.domid, guest.port).unwrap();
        (guest, channels, port)
    }
}

/// Runs a host in a thread and connects to it as its daemon.
fn start(path: &Path) -> io::Result<SimHost> {
    let (server, _stop) = SimServer::new(path, Lifetime::UntilStopped)?;
    thread::spawn(|| server.run());
    SimHost::connect(path)
}

fn changed(host: &dyn Host, known: &[Domid]) -> Vec<Domid> {
    let mut changed = Vec::new();
    host.changed(&mut known.iter().copied(), &mut changed).unwrap();
    changed
}

fn pending(channels: &mut dyn Channels) -> Vec<Port> {
    let mut ports = [0; 8];
    let count = channels.pending(&mut ports).all().unwrap();
    ports[..count].to_vec()
}

/// Waits until the handle's descriptor is readable, as mio does.
fn wait_for(channels: &dyn Channels) {
    // SAFETY: the descriptor is open for as long as the handle, which is borrowed.
    let fd = unsafe { BorrowedFd::borrow_raw(channels.raw_fd()) };
    let limit = Timespec::try_from(LOST).unwrap();
    let ready = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&limit)).unwrap();
    assert_eq!(ready, 1, "a wake-up was lost");
}

fn ask(stream: &mut UnixStream, line: &str) -> (String, Vec<OwnedFd>) {
    stream.write_all(line.as_bytes()).unwrap();
    let (mut bytes, mut fds) = ([0; 4096], Vec::new());
    let got = receive_with(stream.as_fd(), &mut bytes, &mut fds).unwrap();
    (str::from_utf8(&bytes[..got]).unwrap().to_owned(), fds)
}

fn is_closed(stream: &mut UnixStream) -> bool {
    stream.set_read_timeout(Some(LOST)).unwrap();
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn created_domain_has_a_page_and_a_channel() {
    let mut world = World::new();
    let (guest, mut channels, port) = world.bound();
    let page = world.host.map_ring(guest.domid, None).unwrap();
    assert!((0..1024).all(|word| page.load(word * 4) == 0));
    assert_eq!(guest.try_send(b"hello").unwrap(), 5);
    let mut bytes = [0; 5];
    page.copy_out(0, &mut bytes);
    assert_eq!((&bytes, page.load(REQ_PROD)), (b"hello", 5));

    assert_eq!(pending(&mut *channels), [port]);
    assert!(pending(&mut *channels).is_empty(), "masked");
    channels.unmask(port).unwrap();
    assert!(pending(&mut *channels).is_empty(), "a single notification is delivered once");

    assert!(!guest.wait(Some(Duration::ZERO)).unwrap());
    channels.notify(port).unwrap();
    channels.notify(port).unwrap();
    assert!(guest.wait(Some(LOST)).unwrap());
    assert!(!guest.wait(Some(Duration::ZERO)).unwrap(), "notifications coalesce");

    drop(page);
    let page = world.host.map_ring(guest.domid, None).unwrap();
    assert_eq!(page.load(REQ_PROD), 5, "mapping again yields the same page");
    assert_eq!(world.host.map_ring(Domid(99), None).err().unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(world.host.map_ring(Domid::SELF, None).err().unwrap().kind(), ErrorKind::NotFound);
}

#[test]
fn both_rings_wrap() {
    let mut world = World::new();
    let guest = world.client.create(None).unwrap();
    let page = world.host.map_ring(guest.domid, None).unwrap();
    for word in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD] {
        page.store(word, u32::MAX - 2); // The bytes begin at offset 1021 of the ring, and the index itself wraps.
    }
    let bytes: Vec<u8> = (0..=255).cycle().take(2000).collect();
    assert_eq!(guest.push(&bytes), 1024, "accepts what fits");
    assert_eq!(guest.push(&bytes), 0, "full");
    let mut ring = [0; 1024];
    page.copy_out(0, &mut ring);
    assert_eq!((&ring[1021..], &ring[..1021]), (&bytes[..3], &bytes[3..1024]));

    page.copy_in(RSP_RING + 1021, b"abc");
    page.copy_in(RSP_RING, b"def");
    page.store(RSP_PROD, 3);
    let mut out = [0; 4];
    assert_eq!((guest.pull(&mut out), &out), (4, b"abcd"));
    assert_eq!((guest.pull(&mut out), &out[..2]), (2, &b"ef"[..]));
    assert_eq!((guest.pull(&mut out), page.load(RSP_CONS)), (0, 3));
}

#[test]
fn a_reused_domid_inherits_nothing() {
    let mut world = World::new();
    let (old, mut channels, stale) = world.bound();
    let before = world.host.domain(old.domid).unwrap().unwrap();
    old.notify().unwrap();
    world.client.destroy(old.domid).unwrap();
    assert_eq!(world.host.domain(old.domid).unwrap(), None);
    let new = world.client.create(Some(old.domid)).unwrap();
    let after = world.host.domain(new.domid).unwrap().unwrap();
    assert_ne!(before.unique_id, after.unique_id);
    assert_eq!(changed(&world.host, &[old.domid]), [old.domid]);

    channels.notify(stale).unwrap();
    assert!(!new.wait(Some(Duration::ZERO)).unwrap());
    old.notify().unwrap();
    old.page.store(REQ_PROD, 7);
    assert_eq!(world.host.map_ring(new.domid, None).unwrap().load(REQ_PROD), 0);

    let port = channels.bind_interdomain(new.domid, new.port).unwrap();
    assert_ne!(port, stale);
    assert_eq!(pending(&mut *channels), [stale], "the old channel lasts until it is unbound");
    channels.unbind(stale).unwrap();
    assert!(old.wait(Some(LOST)).unwrap(), "the last notification");
    assert_eq!(old.wait(Some(LOST)).unwrap_err().kind(), ErrorKind::BrokenPipe);
    new.notify().unwrap();
    assert_eq!(pending(&mut *channels), [port]);
    let again = channels.bind_interdomain(new.domid, new.port);
    assert_eq!(
        again.unwrap_err().kind(),
        ErrorKind::ResourceBusy,
        "unbinding the stale port left the new binding"
    );
}

#[test]
fn channel_has_one_binding_and_can_be_rebound() {
    let mut world = World::new();
    let (guest, mut first, port) = world.bound();
    let mut second = world.host.open_channels().unwrap();
    let kind = |result: io::Result<Port>| result.unwrap_err().kind();
    assert_eq!(kind(second.bind_interdomain(guest.domid, guest.port)), ErrorKind::ResourceBusy);
    assert_eq!(kind(first.bind_interdomain(guest.domid, guest.port)), ErrorKind::ResourceBusy);
    assert_eq!(kind(second.bind_interdomain(guest.domid, port)), ErrorKind::InvalidInput);
    assert_eq!(kind(second.bind_interdomain(Domid(99), guest.port)), ErrorKind::NotFound);
    assert_eq!(
        second.notify(port).unwrap_err().kind(),
        ErrorKind::NotFound,
        "port of another handle"
    );
    assert_eq!(second.unmask(port).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(second.unbind(port).unwrap_err().kind(), ErrorKind::NotFound);

    first.unbind(port).unwrap();
    guest.notify().unwrap();
    assert!(pending(&mut *first).is_empty());
    let port = second.bind_interdomain(guest.domid, guest.port).unwrap();
    assert_eq!(pending(&mut *second), [port], "a notification while unbound is kept");
    drop(second);
    let port = first.bind_interdomain(guest.domid, guest.port).unwrap();
    guest.notify().unwrap();
    assert_eq!(pending(&mut *first), [port]);
}

#[test]
fn no_wake_up_is_lost() {
    const ROUNDS: u32 = 20_000;
    let mut world = World::new();
    let (guest, mut channels, port) = world.bound();
    let page = world.host.map_ring(guest.domid, None).unwrap();
    let kernel = thread::spawn(move || {
        let mut dice = Rng::with_seed(1);
        for round in 1..=ROUNDS {
            guest.page.store(REQ_PROD, round);
            guest.notify().unwrap();
            // Polling instead of waiting lets the next notification arrive before the unmask.
            let look = dice.bool();
            while guest.page.load(RSP_PROD) != round {
                assert!(look || guest.wait(Some(LOST)).unwrap(), "a wake-up was lost");
                thread::yield_now();
            }
        }
    });
    let mut dice = Rng::with_seed(2);
    let mut answered = 0;
    while answered != ROUNDS {
        wait_for(&*channels);
        while let [reported] = pending(&mut *channels)[..] {
            assert_eq!(reported, port);
            let early = dice.u8(..3) == 0;
            if early {
                channels.unmask(port).unwrap();
            }
            dawdle(&mut dice);
            let asked = page.load(REQ_PROD);
            if asked != answered {
                answered = asked;
                page.store(RSP_PROD, asked);
                channels.notify(port).unwrap();
            }
            dawdle(&mut dice);
            if !early {
                channels.unmask(port).unwrap();
            }
        }
    }
    kernel.join().unwrap();
}

fn dawdle(dice: &mut Rng) {
    match dice.u32(..8) {
        0 => thread::yield_now(),
        n => (0..n * n * 20).for_each(|_| std::hint::spin_loop()),
    }
}

#[test]
fn flooded_port_does_not_starve_the_others() {
    let mut world = World::new();
    let (hostile, mut channels, loud) = world.bound();
    let guest = world.client.create(None).unwrap();
    let quiet = channels.bind_interdomain(guest.domid, guest.port).unwrap();
    let fill = || while send(hostile.channel(), &[7; 1000], SendFlags::NOSIGNAL).is_ok() {};
    fill();
    assert_eq!(pending(&mut *channels), [loud]);
    for _ in 0..100 {
        fill();
        assert!(pending(&mut *channels).is_empty(), "masked");
    }
    channels.unmask(loud).unwrap();
    for _ in 0..100 {
        fill();
        guest.notify().unwrap();
        let mut one = [0]; // With room for one port only, the ports alternate.
        let both: Vec<Port> = (0..2)
            .map(|_| {
                assert_eq!(channels.pending(&mut one).all().unwrap(), 1);
                channels.unmask(one[0]).unwrap();
                one[0]
            })
            .collect();
        assert!(both.contains(&quiet), "{both:?}");
        while pending(&mut *channels).contains(&quiet) {
            channels.unmask(quiet).unwrap();
        }
        channels.unmask(loud).unwrap();
    }
}

#[test]
fn guest_disconnect_is_reported_once() {
    let mut world = World::new();
    let ends: [fn(SimGuest) -> Option<SimGuest>; 3] = [
        |guest| {
            drop(guest);
            None
        },
        |guest| {
            rustix::net::shutdown(guest.channel(), Shutdown::Write).unwrap();
            Some(guest)
        },
        |guest| {
            rustix::net::shutdown(guest.channel(), Shutdown::Both).unwrap();
            Some(guest)
        },
    ];
    for end in ends {
        let (guest, mut channels, port) = world.bound();
        channels.notify(port).unwrap(); // The input is never read, so the peer's close is an error, too.
        let _rest = end(guest);
        wait_for(&*channels); // The host's thread may still hold its copy of the end.
        assert_eq!(pending(&mut *channels), [port]);
        for _ in 0..3 {
            channels.unmask(port).unwrap();
            assert!(pending(&mut *channels).is_empty());
            channels.notify(port).unwrap();
        }
        channels.unbind(port).unwrap();
    }
}

#[test]
fn packets_of_any_size_are_notifications() {
    let mut world = World::new();
    let (guest, mut channels, port) = world.bound();
    for packet in [&[][..], &[0; 1][..], &[1; 2000][..]] {
        send(guest.channel(), packet, SendFlags::NOSIGNAL).unwrap();
        assert_eq!(pending(&mut *channels), [port]);
        channels.unmask(port).unwrap();
        assert!(pending(&mut *channels).is_empty());
    }
    let oob = send(guest.channel(), &[1], SendFlags::OOB | SendFlags::NOSIGNAL);
    assert_eq!(oob, Err(Errno::OPNOTSUPP));
}

#[test]
fn descriptors_sent_by_a_guest_are_refused() {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|word| word.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(6), Some(16)) {
        eprintln!("not tested: Linux {release} cannot refuse them");
        return;
    }
    let mut world = World::new();
    let (guest, _channels, _) = world.bound();
    let stream = world.raw();
    let sent = send_with(guest.channel(), b"x", &[stream.as_fd()]);
    assert_eq!(sent.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(send_with(guest.channel(), b"x", &[]).unwrap(), 1);
}

#[test]
fn domain_changes_have_one_subscriber() {
    let mut world = World::new();
    let (a, b) = (world.client.create(None).unwrap(), world.client.create(None).unwrap());
    let mut channels = world.host.open_channels().unwrap();
    let port = channels.bind_changes().unwrap();
    let mut other = world.host.open_channels().unwrap();
    assert_eq!(other.bind_changes().unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(channels.bind_changes().unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(channels.notify(port).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(pending(&mut *channels).is_empty());

    let changed = || changed(&world.host, &[a.domid, b.domid]);
    assert_eq!(changed(), [a.domid, b.domid], "at first all count as changed");
    let state = |guest: &SimGuest| world.host.domain(guest.domid).unwrap();
    world.client.shutdown(a.domid, Reason::Suspend).unwrap();
    assert_eq!(pending(&mut *channels), [port]);
    assert_eq!(changed(), [a.domid]);
    assert!(state(&a).unwrap().shutdown && !state(&b).unwrap().shutdown);
    world.client.destroy(b.domid).unwrap();
    assert!(pending(&mut *channels).is_empty(), "masked");
    channels.unmask(port).unwrap();
    assert_eq!(pending(&mut *channels), [port]);
    assert_eq!((changed(), state(&b)), (vec![b.domid], None));
    assert_eq!(changed(), [b.domid], "a dead domain is reported as long as it is known");
    channels.unmask(port).unwrap();
    world.client.resume(a.domid).unwrap();
    assert!(pending(&mut *channels).is_empty());
    assert!(!state(&a).unwrap().shutdown);

    channels.unbind(port).unwrap();
    world.client.shutdown(a.domid, Reason::Crash).unwrap();
    let port = other.bind_changes().unwrap();
    assert_eq!(pending(&mut *other), [port], "an unheard notification goes to the next listener");
    assert!(changed().contains(&a.domid), "shut down again");
}

#[test]
fn a_domain_ends_with_its_connection_unless_kept() {
    let mut world = World::new();
    let mut channels = world.host.open_channels().unwrap();
    channels.bind_changes().unwrap();
    let mut other = SimClient::connect(world.path()).unwrap();
    let brief = other.create(None).unwrap();
    let kept = other.create_kept(Some(Domid(40))).unwrap();
    let mine = world.client.create(None).unwrap();
    let listed: Vec<u16> = other.list().unwrap().iter().map(|d| d.domid.0).collect();
    assert_eq!(listed, [0, 1, 2, 40]);
    drop(other);
    wait_for(&*channels);
    assert_eq!(world.host.domain(brief.domid).unwrap(), None);
    world.client.shutdown(kept.domid, Reason::Reboot).unwrap();
    let running = |domid, shutdown| Listed { domid, shutdown };
    let expected = [
        running(Domid(0), None),
        running(mine.domid, None),
        running(kept.domid, Some(Reason::Reboot)),
    ];
    assert_eq!(world.client.list().unwrap(), expected);
    assert_eq!(brief.wait(Some(LOST)).unwrap_err().kind(), ErrorKind::BrokenPipe);
    world.client.destroy(kept.domid).unwrap();
}

#[test]
fn long_list_spans_several_replies() {
    let mut world = World::new();
    for _ in 0..600 {
        world.client.create(None).unwrap();
    }
    let listed = world.client.list().unwrap();
    assert!(listed.iter().map(|d| d.domid.0).eq(0..=600));
}

#[test]
fn the_control_domain_has_one_kernel_at_a_time() {
    let world = World::new();
    let mut channels = world.host.open_channels().unwrap();
    let remote = world.host.control_port().unwrap().unwrap();
    let port = channels.bind_interdomain(Domid::CONTROL, remote).unwrap();
    let mut first = SimClient::connect(world.path()).unwrap();
    let kernel = first.attach_control().unwrap();
    assert_eq!((kernel.domid, kernel.port), (Domid::CONTROL, remote));
    let mut second = SimClient::connect(world.path()).unwrap();
    assert_eq!(second.attach_control().err().unwrap().kind(), ErrorKind::ResourceBusy);
    let refused = [
        second.destroy(Domid::CONTROL).unwrap_err().kind(),
        second.shutdown(Domid::CONTROL, Reason::Crash).unwrap_err().kind(),
        second.resume(Domid::CONTROL).unwrap_err().kind(),
    ];
    assert_eq!(refused, [ErrorKind::PermissionDenied; 3]);
    let taken = second.create(Some(Domid::CONTROL)).err().unwrap().kind();
    assert_eq!(taken, ErrorKind::AlreadyExists);
    drop((first, kernel));
    let begun = Instant::now();
    let kernel = loop {
        // The host may not have seen the close of the first connection yet.
        assert!(begun.elapsed() < LOST, "timed out waiting for the kernel to detach");
        match second.attach_control() {
            Ok(kernel) => break kernel,
            Err(error) => assert_eq!(error.kind(), ErrorKind::ResourceBusy),
        }
    };
    assert!(pending(&mut *channels).is_empty(), "replacing the kernel is no hang-up");
    kernel.notify().unwrap();
    assert_eq!(pending(&mut *channels), [port]);
}

#[test]
fn a_page_cannot_be_truncated() {
    let world = World::new();
    let mut stream = world.raw();
    let (line, fds) = ask(&mut stream, "create 5\n");
    assert_eq!((line.as_str(), fds.len()), ("ok 5 1\n", 2));
    for length in [0, 100, 8192] {
        assert_eq!(rustix::fs::ftruncate(&fds[0], length), Err(Errno::PERM));
    }
    assert_eq!(world.host.map_ring(Domid(5), None).unwrap().load(0), 0);
}

#[test]
fn session_in_the_manual_is_reproduced() {
    let text = include_str!("../../../docs/SIM.md");
    let session = text.split("```session\n").nth(1).unwrap().split("```").next().unwrap();
    let lines: Vec<&str> = session.lines().collect();
    assert!(lines.len() >= 20, "docs/SIM.md has the session");
    let world = World::new();
    let mut stream = world.raw();
    for exchange in lines.chunks(2) {
        let request = exchange[0].strip_prefix("> ").unwrap();
        let expected = exchange[1].strip_prefix("< ").unwrap();
        let (reply, fds) = ask(&mut stream, &format!("{request}\n"));
        assert_eq!(reply, format!("{expected}\n"), "{request}");
        let made = request.starts_with("create") && expected.starts_with("ok");
        assert_eq!(fds.len(), if made { 2 } else { 0 }, "{request}");
    }
}

#[test]
fn refusals_have_errno_names() {
    let world = World::new();
    let mut stream = world.raw();
    for (line, name) in [
        ("fly", "EINVAL"),
        ("\0\x1b[2J", "EINVAL"),
        ("destroy 9", "ENOENT"),
        ("shutdown 9", "ENOENT"),
        ("resume 9", "ENOENT"),
        ("attach 9", "EPERM"),
        ("create 0", "EEXIST"),
    ] {
        let (reply, fds) = ask(&mut stream, &format!("{line}\n"));
        assert!(reply.starts_with(&format!("error {name} ")), "{line}: {reply}");
        assert!(fds.is_empty());
    }
    assert!(ask(&mut stream, "help\n").0.starts_with("ok create "));
}

#[test]
fn misbehaving_clients_do_not_affect_others() {
    let mut world = World::new();
    let mut killed = world.raw();
    killed.write_all(b"create 8\ncreate").unwrap();
    drop(killed);
    let mut endless = world.raw();
    let _ = endless.write_all(&[b'x'; 100_000]); // The connection is closed before it has sent all of its input.
    assert!(is_closed(&mut endless));
    let mut long = world.raw();
    assert_eq!(
        ask(&mut long, &format!("{}\n", "x".repeat(65))).0,
        "error E2BIG the line is too long\n"
    );
    assert!(is_closed(&mut long));
    let mut deaf = world.raw();
    deaf.set_write_timeout(Some(LOST)).unwrap();
    let error = iter::repeat_with(|| deaf.write_all(b"help\n")).find_map(Result::err).unwrap();
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");

    let mut busy = world.raw();
    busy.write_all("help\n".repeat(100).as_bytes()).unwrap(); // The maximum in the manual.
    let replies = BufReader::new(&mut busy).lines().take(100);
    assert!(replies.map(Result::unwrap).all(|line| line.starts_with("ok ")));

    let mut slow = world.raw();
    for part in ["cre", "ate 8", "\n"] {
        slow.write_all(part.as_bytes()).unwrap();
        world.client.list().unwrap(); // The host has read the part when it replies to this request.
    }
    let (line, fds) = ask(&mut slow, "");
    assert_eq!((line.as_str(), fds.len()), ("ok 8 1\n", 2), "domid 8 was returned");
    assert_eq!(world.client.create(None).unwrap().domid, Domid(1));
}

#[test]
fn socket_is_private_and_never_replaces_other_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host");
    let new = |path: &Path| SimServer::new(path, Lifetime::UntilStopped).map(|_| ());
    let kind = |path: &Path| new(path).unwrap_err().kind();
    let server = SimServer::new(&path, Lifetime::UntilStopped).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(kind(&path), ErrorKind::AddrInUse);
    drop(server);
    assert!(!path.exists());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a killed host leaves its socket behind");
    new(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    assert_eq!(kind(&path), ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert_eq!(kind(&dir.path().join("missing/host")), ErrorKind::NotFound);
    assert!(new(&dir.path().join("x".repeat(108))).is_err());
}

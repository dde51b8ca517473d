//! Tests of domains that move between hosts, and of invalid descriptors sent in their place.

use std::io::PipeReader;

use rustix::fs::{
    MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, fcntl_getfl, ftruncate, memfd_create,
    open,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, socketpair};

use super::*;

/// Two hosts, and a guest known to both.
struct Move {
    a: World,
    b: World,
    guest: SimGuest,
}

impl Move {
    fn new() -> Move {
        let (mut a, mut b) = (World::new(), World::new());
        let guest = a.client.create(Some(Domid(7))).unwrap();
        let page = a.client.page(Domid(7)).unwrap();
        let channel = a.client.channel(Domid(7)).unwrap();
        assert_eq!(b.client.adopt(Domid(7), page.as_fd(), channel.as_fd()).unwrap(), guest.port);
        Move { a, b, guest }
    }
}

/// Sends a line with descriptors and returns the reply's line.
fn ask_with(stream: &UnixStream, line: &str, fds: &[BorrowedFd<'_>]) -> String {
    send_with(stream.as_fd(), line.as_bytes(), fds).unwrap();
    let (mut bytes, mut fds) = ([0; 4096], Vec::new());
    let got = receive_with(stream.as_fd(), &mut bytes, &mut fds).unwrap();
    assert!(fds.is_empty());
    str::from_utf8(&bytes[..got]).unwrap().to_owned()
}

fn is_over(reader: &mut PipeReader) -> bool {
    let mut fds = [PollFd::new(reader, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::try_from(LOST).unwrap())).unwrap();
    fds[0].revents().contains(PollFlags::HUP)
}

#[test]
fn adopted_domain_keeps_its_page_and_channel() {
    let Move { mut a, mut b, guest } = Move::new();
    assert_eq!(b.client.list().unwrap().last().unwrap().domid, Domid(7));
    guest.page.store(REQ_PROD, 5);
    assert_eq!(b.host.map_ring(Domid(7), None).unwrap().load(REQ_PROD), 5);

    let (mut old, mut new) = (a.host.open_channels().unwrap(), b.host.open_channels().unwrap());
    let old_port = old.bind_interdomain(Domid(7), guest.port).unwrap();
    guest.notify().unwrap();
    assert_eq!(pending(&mut *old), [old_port]);
    old.unbind(old_port).unwrap();
    guest.notify().unwrap();
    let port = new.bind_interdomain(Domid(7), guest.port).unwrap();
    assert_eq!(pending(&mut *new), [port], "a notification while unbound is kept");
    new.notify(port).unwrap();
    assert!(guest.wait(Some(LOST)).unwrap());

    a.client.destroy(Domid(7)).unwrap();
    drop(old);
    assert!(!guest.wait(Some(Duration::ZERO)).unwrap(), "the other host keeps the channel open");
    new.unmask(port).unwrap();
    guest.notify().unwrap();
    assert_eq!(pending(&mut *new), [port]);
    b.client.destroy(Domid(7)).unwrap();
    new.unbind(port).unwrap();
    assert_eq!(guest.wait(Some(LOST)).unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn an_adopted_domain_ends_with_its_connection_unless_kept() {
    let mut a = World::new();
    let b = World::new();
    let _guest = a.client.create(Some(Domid(7))).unwrap();
    let page = a.client.page(Domid(7)).unwrap();
    let channel = a.client.channel(Domid(7)).unwrap();
    let ends = [page.as_fd(), channel.as_fd()];
    let (brief, kept) = (b.raw(), b.raw());
    assert_eq!(ask_with(&brief, "adopt 7\n", &ends), "ok 7 1\n");
    assert_eq!(ask_with(&kept, "adopt 8 keep\n", &ends), "ok 8 1\n");
    let taken = ask_with(&kept, "adopt 7\n", &ends);
    assert_eq!(taken, "error EEXIST the domain exists already\n");
    assert!(ask_with(&kept, "adopt 0\n", &ends).starts_with("error EPERM "));
    drop((brief, kept));
    let begun = Instant::now();
    while b.host.domain(Domid(7)).unwrap().is_some() {
        assert!(begun.elapsed() < LOST);
        thread::yield_now();
    }
    assert!(b.host.domain(Domid(8)).unwrap().is_some());
}

/// Repeats the daemons' part of a move: one stops watching the page, the other starts.
#[test]
fn no_wake_up_is_lost_in_a_move_between_hosts() {
    const ROUNDS: u32 = 5000;
    let Move { a, b, guest } = Move::new();
    let page = guest.page.clone();
    let remote = guest.port;
    let kernel = thread::spawn(move || {
        for round in 1..=ROUNDS {
            guest.page.store(REQ_PROD, round);
            guest.notify().unwrap();
            while guest.page.load(RSP_PROD) != round {
                assert!(guest.wait(Some(LOST)).unwrap(), "a wake-up was lost");
            }
        }
    });
    let mut handles = [a.host.open_channels().unwrap(), b.host.open_channels().unwrap()];
    let mut dice = Rng::with_seed(3);
    let (mut answered, mut served) = (0, 0);
    let mut port = handles[0].bind_interdomain(Domid(7), remote).unwrap();
    while answered != ROUNDS {
        let channels = &mut handles[served];
        let asked = page.load(REQ_PROD);
        if asked != answered {
            answered = asked;
            page.store(RSP_PROD, asked);
            channels.notify(port).unwrap();
        }
        if dice.u8(..3) == 0 {
            // Both daemons have the channel bound for a while: whichever is notified, the next one checks the page.
            served = 1 - served;
            let new = handles[served].bind_interdomain(Domid(7), remote).unwrap();
            dawdle(&mut dice);
            pending(&mut *handles[1 - served]);
            handles[1 - served].unbind(port).unwrap();
            port = new;
            continue;
        }
        channels.unmask(port).unwrap();
        if page.load(REQ_PROD) == answered && answered != ROUNDS {
            wait_for(&**channels);
        }
        pending(&mut **channels);
    }
    kernel.join().unwrap();
}

/// Creates a memory file of this length with these seals.
fn file(len: u64, seals: SealFlags) -> OwnedFd {
    let file = memfd_create("page", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, len).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    file
}

fn pair(of: SocketType) -> [OwnedFd; 2] {
    socketpair(AddressFamily::UNIX, of, SocketFlags::CLOEXEC, None).unwrap().into()
}

#[test]
fn page_that_could_fault_in_the_daemon_is_refused() {
    let world = World::new();
    let [channel, _other] = pair(SocketType::SEQPACKET);
    let good = file(4096, SealFlags::SHRINK);
    let by_name = format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&good));
    let dir = tempfile::tempdir().unwrap();
    let on_disk = fs::File::create_new(dir.path().join("page")).unwrap();
    on_disk.set_len(4096).unwrap();
    let bad: [(&str, OwnedFd); 8] = [
        ("not sealed", file(4096, SealFlags::GROW)),
        ("empty", file(0, SealFlags::SHRINK)),
        ("short", file(4095, SealFlags::SHRINK)),
        ("long", file(8192, SealFlags::SHRINK)),
        ("not to be written", file(4096, SealFlags::SHRINK | SealFlags::WRITE)),
        ("read-only", open(by_name, OFlags::RDONLY, Mode::empty()).unwrap()),
        ("a file", on_disk.into()),
        ("a pipe", std::io::pipe().unwrap().0.into()),
    ];
    let stream = world.raw();
    for (what, page) in &bad {
        let reply = ask_with(&stream, "adopt 7\n", &[page.as_fd(), channel.as_fd()]);
        assert!(reply.starts_with("error EINVAL the page "), "{what}: {reply}");
    }
    assert_eq!(ask_with(&stream, "adopt 7\n", &[good.as_fd(), channel.as_fd()]), "ok 7 1\n");
}

#[test]
fn unsuitable_descriptor_as_channel_is_refused() {
    let world = World::new();
    let page = file(4096, SealFlags::SHRINK);
    let socket = |of| socket_with(AddressFamily::UNIX, of, SocketFlags::CLOEXEC, None).unwrap();
    let listens = socket(SocketType::SEQPACKET);
    let address = rustix::net::SocketAddrUnix::new(world.dir.path().join("listens")).unwrap();
    rustix::net::bind(&listens, &address).unwrap();
    rustix::net::listen(&listens, 1).unwrap();
    let waits = socket(SocketType::SEQPACKET);
    rustix::net::connect(&waits, &address).unwrap(); // Never accepted.
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    let [stream, _stream] = pair(SocketType::STREAM);
    let [datagram, _datagram] = pair(SocketType::DGRAM);
    let bad: [(&str, OwnedFd); 7] = [
        ("a stream", stream),
        ("datagrams", datagram),
        ("of another kind", tcp.into()),
        ("not connected", socket(SocketType::SEQPACKET)),
        ("listening", listens),
        ("a memory file", file(4096, SealFlags::SHRINK)),
        ("a pipe", std::io::pipe().unwrap().1.into()),
    ];
    let client = world.raw();
    for (what, channel) in &bad {
        let reply = ask_with(&client, "adopt 7\n", &[page.as_fd(), channel.as_fd()]);
        assert!(reply.starts_with("error EINVAL the channel "), "{what}: {reply}");
    }
    assert!(world.host.domain(Domid(7)).unwrap().is_none());
}

/// The client that created a channel may change any of its options, before and after the adoption.
#[test]
fn blocking_channel_does_not_block_the_host() {
    let mut world = World::new();
    let [ours, theirs] = pair(SocketType::SEQPACKET);
    assert!(!fcntl_getfl(&ours).unwrap().contains(OFlags::NONBLOCK));
    let page = file(4096, SealFlags::SHRINK);
    world.client.adopt(Domid(7), page.as_fd(), ours.as_fd()).unwrap();
    let mut channels = world.host.open_channels().unwrap();
    let port = channels.bind_interdomain(Domid(7), 1).unwrap();
    assert!(pending(&mut *channels).is_empty());
    send(&theirs, b"x", SendFlags::empty()).unwrap();
    assert_eq!(pending(&mut *channels), [port], "a blocking channel is read without blocking");
    for _ in 0..10_000 {
        channels.notify(port).unwrap(); // Never read.
    }
}

#[test]
fn unrequested_descriptors_are_closed() {
    let world = World::new();
    let stream = world.raw();
    for line in ["help\n", "create 9\n", "channel 9\n", "adopt 9\n", "adopt\n", "\n"] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        send_with(stream.as_fd(), line.as_bytes(), &[writer.as_fd()]).unwrap();
        drop(writer);
        assert!(is_over(&mut reader), "{line}");
        receive_with(stream.as_fd(), &mut [0; 4096], &mut Vec::new()).unwrap();
    }
}

#[test]
fn descriptors_belong_to_their_line_however_it_is_split() {
    let world = World::new();
    let page = file(4096, SealFlags::SHRINK);
    let [channel, _other] = pair(SocketType::SEQPACKET);
    let ends = [page.as_fd(), channel.as_fd()];
    let stream = world.raw();
    send_with(stream.as_fd(), b"list\n", &[]).unwrap();
    send_with(stream.as_fd(), b"ado", &ends).unwrap();
    let lines: Vec<String> = {
        send_with(stream.as_fd(), b"pt 7\nlist\n", &[]).unwrap();
        let replies = BufReader::new(&stream).lines().take(3);
        replies.map(Result::unwrap).collect()
    };
    assert_eq!(lines, ["ok 0:running", "ok 7 1", "ok 0:running 7:running"]);
    for fds in [&ends[..0], &ends[..1]] {
        let reply = ask_with(&stream, "adopt 8\n", fds);
        assert!(reply.starts_with("error EINVAL a page and a channel "), "{reply}");
    }
    send_with(stream.as_fd(), b"ado", &ends).unwrap();
    send_with(stream.as_fd(), b"pt ", &ends).unwrap();
    let reply = ask_with(&stream, "8\n", &[]);
    assert!(reply.starts_with("error EINVAL a page and a channel "), "too many: {reply}");
}

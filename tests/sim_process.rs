//! Guests in processes of their own: this test program, started again.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use xenstored::host::page::{REQ_PROD, RSP_PROD, RSP_RING};
use xenstored::host::sim::{Lifetime, SimClient, SimHost, SimServer};
use xenstored::host::{Channels, Host};
use xenstored::types::Domid;

const SOCKET: &str = "SIM_PROCESS_SOCKET";

/// The guest's program. Run as a test, without a host's socket in the environment, the program does nothing.
#[test]
fn child_process_runs_a_guest() {
    let Ok(path) = std::env::var(SOCKET) else { return };
    let mut host = SimClient::connect(path).unwrap();
    let domain = host.create(Some(Domid(7))).unwrap();
    assert_eq!(domain.try_send(b"ping").unwrap(), 4);
    let mut reply = [0; 8];
    while domain.pull(&mut reply) == 0 {
        domain.wait(None).unwrap();
    }
    println!("guest got {}", str::from_utf8(&reply[..4]).unwrap());
    loop {
        domain.wait(None).unwrap(); // The guest waits until it is killed.
    }
}

fn wait_for(channels: &dyn Channels) {
    let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(1));
    let fd = channels.raw_fd();
    poll.registry().register(&mut SourceFd(&fd), Token(0), Interest::READABLE).unwrap();
    poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
    assert!(!events.is_empty(), "no event arrived");
}

/// Kills the guest on drop, however the test ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_guest_ends_its_domain() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host");
    let (server, _stop) = SimServer::new(&path, Lifetime::UntilStopped).unwrap();
    std::thread::spawn(|| server.run());
    let host = SimHost::connect(&path).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process_runs_a_guest", "--nocapture"])
        .env(SOCKET, &path)
        .stdout(Stdio::piped())
        .spawn();
    let mut child = Killed(child.unwrap());
    let mut channels = host.open_channels().unwrap();
    let changes = channels.bind_changes().unwrap();
    while host.domain(Domid(7)).unwrap().is_none() {
        assert!(child.0.try_wait().unwrap().is_none(), "the guest exited");
        std::thread::yield_now();
    }
    let page = host.map_ring(Domid(7), None).unwrap();
    let port = channels.bind_interdomain(Domid(7), 1).unwrap();
    wait_for(&*channels);
    let mut ports = [0; 4];
    assert_eq!((channels.pending(&mut ports).all().unwrap(), ports[0]), (1, port));
    assert_eq!(page.load(REQ_PROD), 4);
    page.copy_in(RSP_RING, b"pong");
    page.store(RSP_PROD, 4);
    channels.notify(port).unwrap();
    let output = BufReader::new(child.0.stdout.take().unwrap());
    assert!(output.lines().any(|line| line.unwrap().ends_with("guest got pong")));

    child.0.kill().unwrap();
    while !ports.contains(&changes) {
        channels.unmask(port).unwrap();
        wait_for(&*channels);
        channels.pending(&mut ports).all().unwrap();
    }
    let mut changed = Vec::new();
    host.changed(&mut std::iter::once(Domid(7)), &mut changed).unwrap();
    assert_eq!(changed, [Domid(7)]);
    assert_eq!(host.domain(Domid(7)).unwrap(), None);
}

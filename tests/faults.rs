//! Errors of the host's interface: notifications lost in a failed call are recovered at the next tick.

mod common;

use std::io;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::client::Link;
use common::ring::Ring;
use common::{Client, HANG, op};
use tempfile::TempDir;
use xenstored::domain::{Limits, Registry};
use xenstored::host::sim::{Lifetime, SimClient, SimHost, SimServer};
use xenstored::host::{Channels, DomainState, Gfn, Host, Pending, Port, RingPage};
use xenstored::server::{Server, Times};
use xenstored::types::Domid;

/// Without a ring scan, only the recovery from a host's error looks at the rings.
const TIMES: Times = Times {
    clock: Instant::now,
    watch_event_timeout: Duration::from_secs(20),
    ring_scan_interval: Duration::ZERO,
};

/// Number of upcoming calls that fail, each after it has consumed the pending notifications.
#[derive(Default)]
struct Faults {
    changed: AtomicU32,
    domain: AtomicU32,
    pending: AtomicU32,
    unmask: AtomicU32,
}

/// Returns whether this call fails, and counts it.
fn fails(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

fn fault() -> io::Error {
    io::Error::other("injected")
}

/// The simulated host with injected faults.
struct Faulty {
    host: SimHost,
    faults: Arc<Faults>,
}

impl Host for Faulty {
    fn open_channels(&self) -> io::Result<Box<dyn Channels>> {
        let (channels, faults) = (self.host.open_channels()?, Arc::clone(&self.faults));
        Ok(Box::new(FaultyChannels { channels, faults }))
    }

    fn map_ring(&self, domid: Domid, gfn: Option<Gfn>) -> io::Result<RingPage> {
        self.host.map_ring(domid, gfn)
    }

    fn domain(&self, domid: Domid) -> io::Result<Option<DomainState>> {
        if fails(&self.faults.domain) { Err(fault()) } else { self.host.domain(domid) }
    }

    fn changed(
        &self,
        known: &mut dyn Iterator<Item = Domid>,
        changed: &mut Vec<Domid>,
    ) -> io::Result<()> {
        if fails(&self.faults.changed) {
            self.host.changed(known, &mut Vec::new())?;
            return Err(fault());
        }
        self.host.changed(known, changed)
    }

    fn control_port(&self) -> io::Result<Option<Port>> {
        self.host.control_port()
    }
}

struct FaultyChannels {
    channels: Box<dyn Channels>,
    faults: Arc<Faults>,
}

impl Channels for FaultyChannels {
    fn raw_fd(&self) -> RawFd {
        self.channels.raw_fd()
    }

    fn bind_interdomain(&mut self, domid: Domid, remote: Port) -> io::Result<Port> {
        self.channels.bind_interdomain(domid, remote)
    }

    fn bind_changes(&mut self) -> io::Result<Port> {
        self.channels.bind_changes()
    }

    fn unbind(&mut self, port: Port) -> io::Result<()> {
        self.channels.unbind(port)
    }

    fn pending(&mut self, ports: &mut [Port]) -> Pending {
        let taken = self.channels.pending(ports);
        if taken.count > 0 && fails(&self.faults.pending) {
            return Pending { count: taken.count - 1, error: Some(fault()) };
        }
        taken
    }

    fn unmask(&mut self, port: Port) -> io::Result<()> {
        if fails(&self.faults.unmask) { Err(fault()) } else { self.channels.unmask(port) }
    }

    fn notify(&mut self, port: Port) -> io::Result<()> {
        self.channels.notify(port)
    }
}

/// A server on such a host, a client of the control domain, and domain 5 with its ring.
struct World {
    server: Server,
    faults: Arc<Faults>,
    host: SimClient,
    admin: Client,
    guest: Client,
    _dir: TempDir,
}

impl World {
    fn new(shards: u16) -> World {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sim");
        let faults = Arc::<Faults>::default();
        let (simulated, _stop) = SimServer::new(&path, Lifetime::UntilStopped).unwrap();
        std::thread::spawn(|| simulated.run());
        let host = Faulty { host: SimHost::connect(&path).unwrap(), faults: Arc::clone(&faults) };
        let registry = Registry::new(Limits::defaults(), None);
        let mut server = Server::start(shards, registry, Arc::new(host), TIMES).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(HANG)).unwrap();
        server.serve(theirs).unwrap();
        let mut admin = Client::new("admin", Link::Socket(ours));
        let mut host = SimClient::connect(&path).unwrap();
        let guest = host.create(Some(Domid(5))).unwrap();
        admin.request(op::INTRODUCE, 0, format!("5\x001\0{}\0", guest.port)).unwrap();
        admin.watch("@releaseDomain", "t").unwrap();
        assert_eq!(admin.next_event(), "@releaseDomain|t");
        let mut guest = Client::new("dom5", Link::Ring(Ring { guest }));
        guest.read("none").unwrap_err();
        World { server, faults, host, admin, guest, _dir: dir }
    }

    fn is_known(&mut self) -> bool {
        let reply = self.admin.request(op::IS_DOMAIN_INTRODUCED, 0, "5\0").unwrap();
        reply == b"T\0"
    }

    /// Destroys the domain and checks that its death is seen.
    fn dies(mut self) {
        self.host.destroy(Domid(5)).unwrap();
        assert_eq!(self.admin.next_event(), "@releaseDomain|t");
        assert!(!self.is_known());
        self.end();
    }

    /// Checks that every injected fault has happened, and stops the server.
    fn end(self) {
        let Faults { changed, domain, pending, unmask } = &*self.faults;
        let left = [changed, domain, pending, unmask].map(|left| left.load(Ordering::Relaxed));
        assert_eq!(left, [0; 4]);
        self.server.stop();
    }
}

/// Checks that a domain's death is seen although `failing` calls fail.
fn death_is_seen(calls: fn(&Faults) -> &AtomicU32, failing: u32) {
    for shards in [1, 4] {
        let mut world = World::new(shards);
        assert!(world.is_known());
        calls(&world.faults).store(failing, Ordering::Relaxed);
        world.dies();
    }
}

#[test]
fn death_is_seen_after_changed_domains_could_not_be_read() {
    death_is_seen(|faults| &faults.changed, 1);
}

#[test]
fn death_is_seen_after_the_state_could_not_be_read() {
    death_is_seen(|faults| &faults.domain, 3);
}

#[test]
fn death_is_seen_after_its_notification_was_lost() {
    death_is_seen(|faults| &faults.pending, 1);
}

#[test]
fn ring_is_served_after_its_notification_was_lost() {
    for shards in [1, 4] {
        let mut world = World::new(shards);
        for _ in 0..3 {
            world.faults.pending.store(1, Ordering::Relaxed);
            assert_eq!(world.guest.read("none"), Err("EACCES".to_owned()));
        }
        world.dies();
    }
}

#[test]
fn ring_is_served_after_its_port_could_not_be_unmasked() {
    for shards in [1, 4] {
        let mut world = World::new(shards);
        for _ in 0..3 {
            world.faults.unmask.store(1, Ordering::Relaxed);
            for _ in 0..2 {
                assert_eq!(world.guest.read("none"), Err("EACCES".to_owned()));
            }
        }
        world.dies();
    }
}

//! Descriptors of the daemon's process with 10,000 domains. The test is alone in its file, because it counts the
//! descriptors of the whole process.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use xenstored::host::Host;
use xenstored::host::sim::{SimClient, SimHost};
use xenstored::types::Domid;

const DOMAINS: u16 = 10_000;

/// Descriptors that the host has besides its domains': epolls, wakers, sockets, the control domain.
const OTHERS: usize = 32;

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_domain_costs_one_descriptor() {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let before = descriptors();
    let host = SimHost::start(dir.path().join("host")).unwrap();
    let mut client = SimClient::connect(dir.path().join("host")).unwrap();
    let mut channels = host.open_channels().unwrap();
    let mut pages = Vec::new();
    for number in 1..=DOMAINS {
        let guest = client.create(None).unwrap();
        assert_eq!(guest.domid, Domid(number));
        pages.push(host.map_ring(guest.domid, None).unwrap());
        channels.bind_interdomain(guest.domid, guest.port).unwrap();
        // The guest's own descriptors are closed here; the domain stays.
    }
    assert_eq!(client.list().unwrap().len(), usize::from(DOMAINS) + 1);
    let held = descriptors() - before;
    assert!(held >= usize::from(DOMAINS), "only {held} descriptors for the domains");
    assert!(held <= usize::from(DOMAINS) + OTHERS, "{held} descriptors for the domains");

    for number in 1..=DOMAINS {
        client.destroy(Domid(number)).unwrap();
    }
    assert!(descriptors() - before <= OTHERS, "bindings keep channels of destroyed domains");
}

//! Descriptors of 10,000 domains, in the daemon's process and in the host's. The test is alone in its file, because it
//! counts the descriptors of the whole process.

#[path = "common/host.rs"]
mod host;

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use xenstored::host::Host;
use xenstored::host::sim::{SimClient, SimHost};
use xenstored::types::Domid;

use host::HostProcess;

/// Descriptors that a process has besides its domains': epolls, wakers, sockets, the control domain.
const OTHERS: usize = 32;

fn descriptors(process: &str) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

#[test]
fn a_domain_costs_one_descriptor_in_the_daemon_and_two_in_the_host() {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let process = HostProcess::start(&dir.path().join("host"), &[]);
    let hosts = process.pid().to_string();
    let limits = fs::read_to_string(format!("/proc/{hosts}/limits")).unwrap();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let files: u16 = files.split_whitespace().next().unwrap().parse().unwrap_or(u16::MAX);
    let domains = 10_000.min((files - 2048) / 2); // Only root raises the limit.
    let before = descriptors("self");
    let host = SimHost::connect(&dir.path().join("host")).unwrap();
    let mut client = SimClient::connect(dir.path().join("host")).unwrap();
    let mut channels = host.open_channels().unwrap();
    let mut pages = Vec::new();
    for number in 1..=domains {
        let guest = client.create(None).unwrap();
        assert_eq!(guest.domid, Domid(number));
        pages.push(host.map_ring(guest.domid, None).unwrap());
        channels.bind_interdomain(guest.domid, guest.port).unwrap();
        // The guest's own descriptors are closed here; the domain stays.
    }
    let domains = usize::from(domains);
    assert_eq!(client.list().unwrap().len(), domains + 1);
    let of_domains =
        |held: usize, each: usize| (each * domains..=each * domains + OTHERS).contains(&held);
    let held = descriptors("self") - before;
    assert!(of_domains(held, 1), "{held} descriptors in the daemon");
    let held = descriptors(&hosts);
    assert!(of_domains(held, 2), "{held} descriptors in the host");

    for number in 1..=domains {
        client.destroy(Domid(u16::try_from(number).unwrap())).unwrap();
    }
    assert!(descriptors(&hosts) <= OTHERS, "the host keeps descriptors of destroyed domains");
    drop(channels);
    assert!(descriptors("self") - before <= OTHERS, "bindings are left");
}

//! Domains leave descriptors to the rest of a process: of the host, and of the daemon. The test of the daemon lowers the
//! limit of its whole process, so both are alone in their file.

#[path = "common/host.rs"]
mod host;

use std::fs::File;
use std::io::ErrorKind;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use xenstored::host::Host;
use xenstored::host::sim::{SimClient, SimHost};
use xenstored::types::Domid;

use host::HostProcess;

const LIMIT: u64 = 200;

#[test]
fn domains_do_not_take_the_last_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host");
    let process = HostProcess::start(&path, &[]);
    let pid = Pid::from_raw(i32::try_from(process.pid()).unwrap());
    let limited = |files| Rlimit { current: Some(files), maximum: Some(10 * LIMIT) };
    prlimit(pid, Resource::Nofile, limited(LIMIT)).unwrap();
    let mut client = SimClient::connect(&path).unwrap();
    let mut made = 0;
    let error = loop {
        match client.create(None) {
            Ok(_) => made += 1, // The guest's own descriptors are closed here; the domain stays.
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    assert!(made > 50, "{made}");
    client.destroy(Domid(1)).unwrap();
    client.create(Some(Domid(1))).unwrap();

    prlimit(pid, Resource::Nofile, limited(10 * LIMIT)).unwrap();
    while made <= u16::try_from(LIMIT).unwrap() {
        client.create(None).unwrap();
        made += 1;
    }
    bindings_do_not_take_the_last_descriptors(&SimHost::connect(&path).unwrap());
}

fn bindings_do_not_take_the_last_descriptors(host: &SimHost) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(LIMIT), maximum }).unwrap();
    let mut channels = host.open_channels().unwrap();
    let mut bind = |domid| channels.bind_interdomain(Domid(domid), 1);
    let mut bound = 0;
    let error = loop {
        match bind(bound + 1) {
            Ok(_) => bound += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    assert!(bound > 100, "{bound}");
    let files: Vec<_> = (0..40).map(|_| File::open("/dev/null").unwrap()).collect();
    assert!(bind(bound + 1).is_err());
    drop(files);
}

//! The host leaves descriptors to the rest of the daemon. The test is alone in its file, because it lowers the limit of
//! the whole process.

use std::fs::File;
use std::io::ErrorKind;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use xenstored::host::sim::{SimClient, SimHost};
use xenstored::types::Domid;

const LIMIT: u64 = 200;

#[test]
fn domains_do_not_take_the_last_descriptors() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(LIMIT), maximum }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let _host = SimHost::start(dir.path().join("host")).unwrap();
    let mut client = SimClient::connect(dir.path().join("host")).unwrap();
    let mut made = 0;
    let error = loop {
        match client.create(None) {
            Ok(_) => made += 1, // The guest's own descriptors are closed here; the domain stays.
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    assert!(made > 100, "{made}");
    let files: Vec<_> = (0..40).map(|_| File::open("/dev/null").unwrap()).collect();
    assert!(client.create(None).is_err());
    drop(files);
    client.destroy(Domid(1)).unwrap();
    client.create(Some(Domid(1))).unwrap();
}

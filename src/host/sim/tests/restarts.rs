//! Tests of a host that outlives its daemon.

use super::*;

#[test]
fn next_daemon_finds_the_guests_of_the_last() {
    let World { dir, host, mut client } = World::new();
    let path = dir.path().join("host");
    let guest = client.create(Some(Domid(7))).unwrap();
    let state = host.domain(guest.domid).unwrap();
    let mut channels = host.open_channels().unwrap();
    channels.bind_interdomain(guest.domid, guest.port).unwrap();
    assert_eq!(host.guests(), 0);
    let refused = SimHost::connect(&path).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::ResourceBusy, "{refused}");
    assert!(client.status().unwrap().is_served);
    drop((host, channels)); // As if the daemon was killed: it takes no leave.
    assert!(!client.status().unwrap().is_served);

    guest.page.store(REQ_PROD, 5);
    guest.notify().unwrap();
    let host = SimHost::connect(&path).unwrap();
    assert_eq!((host.guests(), client.status().unwrap().guests), (1, 1));
    assert_eq!(host.domain(guest.domid).unwrap(), state, "the same incarnation");
    assert_eq!(host.map_ring(guest.domid, None).unwrap().load(REQ_PROD), 5);
    let mut channels = host.open_channels().unwrap();
    let port = channels.bind_interdomain(guest.domid, guest.port).unwrap();
    assert_eq!(pending(&mut *channels), [port], "a notification without a daemon is kept");
    channels.notify(port).unwrap();
    assert!(guest.wait(Some(LOST)).unwrap());
}

#[test]
fn deaths_without_a_daemon_are_pending_for_the_next() {
    let World { dir, host, mut client } = World::new();
    let _guest = client.create(Some(Domid(7))).unwrap();
    drop(host);
    client.destroy(Domid(7)).unwrap();
    let host = SimHost::connect(&dir.path().join("host")).unwrap();
    let mut channels = host.open_channels().unwrap();
    let port = channels.bind_changes().unwrap();
    assert_eq!(pending(&mut *channels), [port]);
    assert_eq!(changed(&host, &[Domid(7)]), [Domid(7)]);
}

#[test]
fn host_ends_with_its_daemon_only_if_a_daemon_started_it() {
    for (lifetime, ends) in [(Lifetime::UntilStopped, false), (Lifetime::UntilUnused(LOST), true)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host");
        let (server, _stop) = SimServer::new(&path, lifetime).unwrap();
        let thread = thread::spawn(|| server.run());
        let host = SimHost::connect(&path).unwrap();
        assert!(!host.has_ended());
        host.leave().unwrap();
        assert!(host.has_ended(), "the connection ends in any case");
        assert_eq!(path.exists(), !ends);
        if !ends {
            let mut client = SimClient::connect(&path).unwrap();
            assert_eq!(client.status().unwrap().until_unused, ends);
            client.stop().unwrap();
            assert!(!path.exists());
        }
        thread.join().unwrap();
    }
}

#[test]
fn unused_host_ends_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host");
    let lifetime = Lifetime::UntilUnused(Duration::from_secs(1));
    let (server, _stop) = SimServer::new(&path, lifetime).unwrap();
    let mut client = SimClient::connect(&path).unwrap();
    let thread = thread::spawn(|| server.run());
    drop(client.create_kept(Some(Domid(7))).unwrap());
    drop(client);
    thread.join().unwrap();
    assert!(!path.exists());
}

#[test]
fn host_whose_socket_was_removed_or_replaced_ends() {
    for replaced in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host");
        let (server, _stop) = SimServer::new(&path, Lifetime::UntilStopped).unwrap();
        let thread = thread::spawn(|| server.run());
        let mut client = SimClient::connect(&path).unwrap();
        client.list().unwrap();
        fs::remove_file(&path).unwrap();
        let _other = replaced.then(|| SimServer::new(&path, Lifetime::UntilStopped).unwrap());
        client.list().unwrap(); // A connected client keeps the host.
        drop(client);
        thread.join().unwrap();
        assert_eq!(path.exists(), replaced, "another host's socket is left alone");
    }
}

#[test]
fn only_the_daemon_may_leave_or_borrow_the_control_domain() {
    let mut world = World::new();
    let mut stream = world.raw();
    for line in ["leave", "page 0", "channel 0", "serve"] {
        let (reply, fds) = ask(&mut stream, &format!("{line}\n"));
        let name = if line == "serve" { "EBUSY" } else { "EPERM" };
        assert!(reply.starts_with(&format!("error {name} ")), "{line}: {reply}");
        assert!(fds.is_empty());
    }
    assert!(world.host.map_ring(Domid::CONTROL, None).is_ok());
    world.client.stop().unwrap();
    // The connections end one after the other.
    world.host.end()();
    assert!(world.host.has_ended());
}

#[test]
fn connection_is_unusable_after_a_reply_that_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut client = SimClient::connect(&path).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(&[b'x'; 5000]).unwrap();
    assert_eq!(client.list().unwrap_err().kind(), ErrorKind::InvalidData);
    assert!(client.list().is_err());
    assert!(SimHost::connect(&dir.path().join("none")).is_err());
}

use std::os::fd::AsFd;

use mio::net::UnixStream;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::*;
use crate::domain::Limits;
use crate::host::RingPage;
use crate::protocol::append_event;
use crate::server::mailbox::ReplyTo;
use crate::server::session::output::Output;
use crate::server::session::watches::Watch;
use crate::server::session::{KERNEL_COLLAPSE_BYTES, Kind, RING_COLLAPSE_BYTES};
use crate::transport::Ring;
use crate::types::{Domid, Path};

/// A client of the control domain that watches `/a`, and the events of a change.
struct Client {
    registry: Registry,
    connection: Connection,
    watcher: Watcher,
}

impl Client {
    fn new(kind: Kind, transport: Transport) -> Client {
        let registry = Registry::new(Limits::defaults(), None);
        let domain = registry.get(Domid::CONTROL).unwrap();
        let mut connection =
            Connection::new(ReplyTo { thread: 0, connection: 0, id: 1 }, domain, kind, transport);
        let path = Arc::new(Path::parse(b"/a").unwrap().to_buf());
        let watch = Watch { path, token: (*b"t").into(), prefix_len: 0, depth: None, seq: 1 };
        let (id, group) = connection.session.watches.insert(watch);
        let watcher = Watcher { thread: 0, connection: 0, group: group.group, seq: id.seq };
        Client { registry, connection, watcher }
    }

    /// Delivers the event of a change of `path`.
    fn change(&mut self, path: &[u8]) {
        let (registry, full) = (&self.registry, Cell::default());
        let sender = EventSender { now: Instant::now(), version: 1, registry, full };
        let (watcher, path) = (self.watcher, Some(path.into()));
        let event = Event { watcher, watches: 1, path, nearest: None };
        sender.send_or_defer(&mut self.connection, ChangeEvents::from_elem(event, 1), None);
    }

    /// Returns whether the last event in the output names `path`.
    fn ends_with_event(&mut self, path: &[u8]) -> bool {
        let mut event = Vec::new();
        append_event(&mut event, path, b"t");
        self.connection.session.output.buffer().ends_with(&event)
    }
}

#[test]
fn events_beyond_1024_are_queued_before_the_pending_reply() {
    let (socket, _theirs) = UnixStream::pair().unwrap();
    let mut client = Client::new(Kind::Socket, Transport::Socket(socket));
    client.connection.session.post_reply = Some(Vec::new());
    let path = |number: usize| format!("/a/{number}").into_bytes();
    (0..POST_REPLY_MAX).for_each(|number| client.change(&path(number)));
    assert!(client.connection.session.output.is_empty(), "events wait for the reply");
    client.change(&path(POST_REPLY_MAX));
    assert_eq!(client.connection.session.output.pending_events(), POST_REPLY_MAX + 1);
    assert!(client.ends_with_event(&path(POST_REPLY_MAX)));
    client.change(&path(0));
    assert_eq!(
        client.connection.session.output.pending_events(),
        POST_REPLY_MAX + 1,
        "an equal event is merged"
    );
}

#[test]
fn events_of_the_control_domains_kernel_collapse_above_64_mib() {
    let file = memfd_create("ring", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, 4096).unwrap();
    let ring = Ring::new(RingPage::map(file.as_fd(), 0).unwrap(), 1, 1, None);
    let mut client = Client::new(Kind::Kernel, Transport::Ring(ring));
    for unread in [RING_COLLAPSE_BYTES, KERNEL_COLLAPSE_BYTES - 1] {
        client.connection.session.output.buffer().resize(unread, 0);
        client.change(b"/a/1");
        assert!(client.ends_with_event(b"/a/1"), "{unread} bytes are unread");
        client.connection.session.output = Output::default();
    }
    client.connection.session.output.buffer().resize(KERNEL_COLLAPSE_BYTES + 1, 0);
    client.change(b"/a/1");
    assert!(client.ends_with_event(b"/a"));
}

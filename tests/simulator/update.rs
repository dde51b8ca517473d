//! A live update at any moment: another server goes on with the state of this one. Both have the same state, and no
//! client notices.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use xenstored::domain::{Limits, Registry};
use xenstored::live_update;
use xenstored::migration::stream::state::State;
use xenstored::migration::stream::{Connection, Node, Reader, Transport, Watch};
use xenstored::server::stepped::Stepped;
use xenstored::server::{Paused, SavedServer, Setup};
use xenstored::types::PathBuf;

use crate::simulation::{SNAPSHOT_AGE_MAX, Simulation, now, times};

/// A state without what differs in another process: descriptors, and the last numbers used.
#[derive(Debug, PartialEq)]
struct Comparable {
    nodes: BTreeMap<PathBuf, Node>,
    clients: Vec<(Connection, Vec<Watch>)>,
    saved: SavedServer,
}

fn comparable(stream: &[u8]) -> Comparable {
    let state = State::read(&mut Reader::new(stream).unwrap()).unwrap();
    let mut saved: SavedServer = live_update::read(stream).unwrap().live.server;
    saved.numbers.clear();
    let clients = state.clients.into_values().map(|mut client| {
        if let Transport::Socket(fd) = &mut client.connection.transport {
            *fd = 0;
        }
        (client.connection, client.watches)
    });
    Comparable { nodes: state.nodes, clients: clients.collect(), saved }
}

fn write(paused: &mut Paused) -> Vec<u8> {
    live_update::write(paused, None, None, Vec::new()).unwrap().0
}

impl Simulation {
    /// Lets another server go on with the state of this one.
    pub fn update(&mut self) -> Result<(), String> {
        for worker in 0..self.loaded.len() {
            if self.loaded[worker] {
                self.load(worker);
            }
        }
        let mut paused = self.server.pause();
        self.follow()?;
        let stream = write(&mut paused);
        let clone = |socket: std::os::fd::BorrowedFd<'_>| {
            let number = u32::try_from(socket.as_raw_fd()).unwrap();
            (number, UnixStream::from(socket.try_clone_to_owned().unwrap()))
        };
        let mut sockets: HashMap<u32, UnixStream> = paused.sockets().map(clone).collect();
        let names = paused.sessions().map(|session| session.reply_to);
        let names: Vec<String> = names.map(|it| format!("{}.{}", it.thread, it.id)).collect();
        let state = live_update::read(&*stream).map_err(|error| error.to_string())?;
        let registry = Registry::new(Limits::defaults(), None);
        let host = Arc::new(self.host.clone());
        let adopt = &mut |fd| Ok(sockets.remove(&fd).expect("each descriptor is taken once"));
        let mut parts = state
            .restore(Setup { registry, host, times: times() }, self.host.adopt_channels(), adopt)
            .map_err(|error| error.to_string())?;
        let mut restored = Paused::of(&mut parts);
        let mut renamed = restored
            .sessions()
            .map(|it| (it.domid().0, format!("{}.{}", it.reply_to.thread, it.reply_to.id)));
        let mut lost = Vec::new();
        let mut next = renamed.next();
        let mut connections = HashMap::new();
        for name in names {
            let number = self.connections[&name];
            // Sessions keep their order, without the rings of domains that have died.
            match next.take() {
                Some((domid, renamed_to)) if domid == self.clients[number].domid => {
                    connections.insert(renamed_to, number);
                    next = renamed.next();
                }
                other => {
                    lost.push(name);
                    next = other;
                }
            }
        }
        drop(renamed);
        if lost.is_empty() {
            let (before, after) = (comparable(&stream), comparable(&write(&mut restored)));
            if before != after {
                return Err(format!("the state before: {before:#?}\nafter: {after:#?}"));
            }
        }
        for name in lost {
            let number = self.reset(&name)?;
            let domid = self.clients[number].domid;
            self.rings.remove(&domid);
            self.quiesced.remove(&domid);
            self.unnoticed.insert(domid);
        }
        self.connections = connections;
        parts.workers = restored.into_workers();
        self.server = Stepped::of(parts);
        // Transactions go on with their logs, so what they saw may be replayed on what others have changed.
        for since in self.begun.values_mut() {
            *since = (*since).min(now() - SNAPSHOT_AGE_MAX);
        }
        for client in &mut self.clients {
            client.expected.renew(now());
        }
        crate::observer::take();
        Ok(())
    }
}

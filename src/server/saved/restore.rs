//! From data to a server that goes on.

use std::io;
use std::os::unix::net::UnixStream;

use mio::{Interest, Token};
use thiserror::Error;

use super::data::{SavedServer, SavedSession};
use super::domains::{Restored, restore_limits};
use super::sessions;
use crate::domain::Domain;
use crate::host::{Channels, Host, Port};
use crate::migration::stream::Transport as SentBy;
use crate::migration::stream::state::Client;
use crate::server::mailbox::ReplyTo;
use crate::server::session::Kind;
use crate::server::worker::Worker;
use crate::server::worker::connection::Connection;
use crate::server::worker::rings::ring_kind;
use crate::server::workers::{Basis, Parts, Setup};
use crate::store::{Caller, ReplyKey, Store};
use crate::sync::{Arc, Ordering};
use crate::transport::{Ring, Transport};
use crate::types::Domid;

/// Returns the socket of a client, whose descriptor has this number in the data.
pub type Adopt<'a> = dyn FnMut(u32) -> io::Result<UnixStream> + 'a;

/// Why a server cannot go on from data.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The data contradicts itself.
    #[error("the state is inconsistent: {0}")]
    Inconsistent(String),
    /// The system or the host refuses what the state needs.
    #[error("{what}: {error}")]
    Refused {
        /// What it refuses.
        what: String,
        /// Its error.
        error: io::Error,
    },
}

impl RestoreError {
    fn refused(what: impl Into<String>) -> impl FnOnce(io::Error) -> RestoreError {
        let what = what.into();
        move |error| RestoreError::Refused { what, error }
    }
}

/// A server that is being restored: its domains are known, its store has no node yet.
pub struct Restoring {
    basis: Basis,
}

impl Restoring {
    /// Creates a server that knows the domains of `saved`. The registry of `setup` knows the control
    /// domain only.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub fn new(setup: Setup, saved: &SavedServer) -> Result<Restoring, RestoreError> {
        let registry = &setup.registry;
        restore_limits(registry.defaults(), &saved.defaults);
        for domain in &saved.domains {
            let domid = Domid(domain.domid);
            if registry.admit(domid, domain.unique_id).is_none() {
                return Err(RestoreError::Inconsistent(format!("there is no domain {domid}")));
            }
        }
        let key = ReplyKey(saved.reply_key);
        let basis = Basis::new(saved.shards, setup, saved.marks_from, |parts| {
            let (layout, registry, outlet, reaper, matcher) = parts;
            Store::empty((layout, key), registry, outlet, reaper, matcher)
        });
        let basis = basis.map_err(RestoreError::refused("cannot create the workers"))?;
        Ok(Restoring { basis })
    }

    /// Returns the store, for its nodes.
    pub fn store(&self) -> &Store {
        &self.basis.shared.store
    }

    /// Returns the daemon itself as the caller of store operations.
    pub fn caller(&self) -> Caller {
        self.basis.shared.daemon_caller()
    }

    /// Restores domains and clients, once the store has its nodes. `channels` are the workers' handles, and `adopt`
    /// returns the clients' sockets.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub fn finish(
        self,
        saved: &SavedServer,
        clients: Vec<Client>,
        channels: Vec<Box<dyn Channels>>,
        adopt: &mut Adopt<'_>,
    ) -> Result<Parts, RestoreError> {
        let Basis { shared, polls, removed, unmatched } = self.basis;
        let mut workers = Vec::new();
        for (number, (poll, handle)) in (0..).zip(polls.into_iter().zip(channels)) {
            let worker = Worker::new(number, Arc::clone(&shared), poll, handle);
            let mut worker = worker.map_err(RestoreError::refused("cannot create a worker"))?;
            let last = saved.numbers.get(usize::from(number)).copied();
            worker.core.continue_numbers(last.unwrap_or(0));
            workers.push(worker);
        }
        if workers.len() != usize::from(shared.store.layout().shards()) {
            return Err(RestoreError::Inconsistent("a worker has no event channels".into()));
        }
        shared.deaths.store(saved.deaths, Ordering::Relaxed);
        restore_domains(&shared.store, saved, &mut workers);
        for client in clients {
            let id = client.connection.id;
            let session = saved.sessions.get(&id);
            let worker = session.and_then(|it| workers.get_mut(usize::from(it.worker)));
            let (Some(session), Some(worker)) = (session, worker) else {
                return Err(RestoreError::Inconsistent(format!("connection {id} has no worker")));
            };
            restore_client(worker, client, session, adopt)?;
        }
        conclude(&mut workers, saved.changes);
        Ok(Parts { shared, workers, removed, unmatched, next: usize::from(saved.next_worker) })
    }
}

/// Restores settings and states of the known domains.
fn restore_domains(store: &Store, saved: &SavedServer, workers: &mut [Worker]) {
    let trees = store.snapshot_all();
    let restored = Restored { store, trees: &trees };
    for known in &saved.domains {
        let domid = Domid(known.domid);
        let Some(domain) = store.registry().get(domid) else { continue };
        restored.settings(&domain, known);
        let owner = usize::from(store.layout().of_domain(domid).0);
        if let Some(worker) = workers.get_mut(owner) {
            let (state, note) = restored.state(known);
            worker.domains.restore(&domain, state, note);
        }
    }
}

fn restore_client(
    worker: &mut Worker,
    client: Client,
    saved: &SavedSession,
    adopt: &mut Adopt<'_>,
) -> Result<(), RestoreError> {
    let core = &mut worker.core;
    let slot = worker.clients.next_slot();
    let reply_to = ReplyTo { thread: core.number, connection: slot, id: core.next_number() };
    let (domain, kind, transport) = match client.connection.transport {
        SentBy::Socket(fd) => {
            let what = format!("cannot go on with the socket of descriptor {fd}");
            let failed = |error| RestoreError::refused(what)(error);
            let socket = adopt(fd).and_then(|socket| {
                socket.set_nonblocking(true)?;
                let mut socket = mio::net::UnixStream::from_std(socket);
                worker.poll.registry().register(&mut socket, Token(slot), Interest::READABLE)?;
                Ok(socket)
            });
            core.shared.clients.fetch_add(1, Ordering::Relaxed);
            let domain = Arc::clone(&core.shared.control_domain);
            (domain, Kind::Socket, Transport::Socket(socket.map_err(failed)?))
        }
        SentBy::Ring(domid, ..) => {
            let missing = || RestoreError::Inconsistent(format!("domain {domid} is not known"));
            let domain = core.registry().get(domid).ok_or_else(missing)?;
            let (port, ..) = saved.ring.ok_or_else(missing)?;
            let Some(ring) = restore_ring(&*core.shared.host, &domain, saved)? else {
                worker.channels.unbind_later(port);
                return Ok(());
            };
            worker.channels.add(port, slot);
            let kind = ring_kind(core, domid);
            (domain, kind, Transport::Ring(ring))
        }
    };
    let mut connection = Connection::new(reply_to, domain, kind, transport);
    connection.session.pid = connection.transport.pid().and_then(|pid| u32::try_from(pid).ok());
    connection.stream = sessions::stream(saved);
    sessions::restore(core, &mut connection.session, client, saved);
    let (is_ring, domid) = (connection.ring().is_some(), connection.session.domid());
    worker.clients.add(connection);
    if is_ring {
        worker.clients.add_ring(domid, slot);
        worker.scan.ring_added(core.now, worker.clients.ring_count());
    }
    Ok(())
}

/// Maps a domain's ring again; `None` if the incarnation is gone from the host.
fn restore_ring(
    host: &dyn Host,
    domain: &Domain,
    saved: &SavedSession,
) -> Result<Option<Ring>, RestoreError> {
    let Some((port, remote, gfn)) = saved.ring else { return Ok(None) };
    let domid = domain.domid;
    match host.map_ring(domid, gfn) {
        Ok(page) => {
            let mut ring = Ring::new(page, port, remote, gfn);
            // A port that was taken and not unmasked would stay silent, so each is unmasked once.
            ring.masked = true;
            Ok(Some(ring))
        }
        Err(error) => {
            let lives = |id| id == domain.unique_id;
            match host.domain(domid) {
                Ok(state) if !state.is_some_and(|it| lives(it.unique_id) && !it.dying) => Ok(None),
                _ => Err(RestoreError::refused(format!("cannot map the ring of domain {domid}"))(
                    error,
                )),
            }
        }
    }
}

/// Looks at everything once that may have changed while no process looked.
fn conclude(workers: &mut [Worker], changes: Option<Port>) {
    if let Some(first) = workers.first_mut() {
        first.channels.set_changes(changes);
    }
    for worker in workers {
        worker.clients.make_all_ready();
        worker.channels.recheck_all(&worker.core);
    }
}

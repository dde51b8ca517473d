//! The server, which starts and stops the workers.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::Receiver;
use mio::{Poll, Waker};

use super::author::Author;
use super::clock::Clock;
use super::gate::Gate;
use super::mailbox::{Mailbox, Mailboxes, Message};
use super::migration::owner_threads::OwnerThreads;
use super::shared::{Shared, spawn};
use super::shared_reservations::SharedReservations;
use super::worker::rings::serve_control_domain;
use super::worker::run::run;
use super::worker::{WAKER, Worker};
use crate::control;
use crate::domain::Registry;
use crate::host::Host;
use crate::store::{
    Done, Matcher, Reaper, Settlement, Store, Unmatched, count_nodes, matcher, reaper, run_matcher,
    run_reaper,
};
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::types::{Domid, Layout};
use crate::watch::Outlet;

/// The number of objects in the store.
pub struct Census {
    /// Known domains besides the control domain.
    pub domains: usize,
    /// Nodes, special ones included.
    pub nodes: usize,
    /// Connected clients of the socket.
    pub clients: u64,
}

/// The clock, and configurable durations; zero means never.
pub struct Times {
    /// The clock of all workers.
    pub clock: Clock,
    /// The timeout after which an event that its guest does not take is dropped.
    pub watch_event_timeout: Duration,
    /// The interval in which the ring scan checks each ring once, whether it is notified or not.
    pub ring_scan_interval: Duration,
}

/// The running workers.
pub struct Server {
    pub(super) shared: Arc<Shared>,
    pub(super) threads: Vec<JoinHandle<Option<Worker>>>,
    // Round robin: clients of the socket have no domain that would choose a worker.
    pub(super) next: usize,
}

impl Server {
    /// Starts `shards` workers on `host`. The control domain's ring is served from now on, if the host has one.
    ///
    /// # Errors
    /// The system refuses threads or polls, or the host refuses event channels: `AlreadyExists` if another daemon
    /// serves it.
    pub fn start(
        shards: u16,
        registry: Registry,
        host: Arc<dyn Host>,
        times: Times,
    ) -> io::Result<Server> {
        Parts::new(shards, registry, host, times, |_| {})?.start()
    }

    /// Hands a new client to the next worker, round robin.
    pub fn serve(&mut self, client: UnixStream) -> io::Result<()> {
        self.next = (self.next + 1) % self.threads.len();
        self.shared.accept(client, u16::try_from(self.next).unwrap_or(0))
    }

    /// Returns the owner threads, for threads that migrate domains.
    pub fn owner_threads(&self) -> OwnerThreads {
        OwnerThreads { shared: Arc::clone(&self.shared), by: Author::daemon() }
    }

    /// Returns the workers' interface for commands of CONTROL.
    pub fn served(&self) -> Arc<dyn control::Served> {
        Arc::<Shared>::clone(&self.shared)
    }

    /// Counts the objects in the store. Cost: a walk over all nodes of a snapshot.
    pub fn census(&self) -> Census {
        let registry = self.shared.store.registry();
        Census {
            domains: registry.known().len() - 1,
            nodes: count_nodes(&self.shared.store),
            clients: self.shared.clients.load(Ordering::Relaxed),
        }
    }

    /// Stops the workers: they take no more requests, send pending output as far as clients take it, and end. Blocks
    /// until all have ended.
    pub fn stop(self) {
        // All messages are sent before the first join, as a worker ends only once none takes requests any more.
        for thread in 0..self.shared.mailboxes.0.len() {
            self.shared.mailboxes.send(u16::try_from(thread).unwrap_or(0), Message::Stop);
        }
        for thread in self.threads {
            // A panic of the thread has ended the process already.
            let _ = thread.join();
        }
        let conflicts = self.shared.control.conflicts.count();
        let deaths = self.shared.deaths.load(Ordering::Relaxed);
        tracing::info!(conflicts, deaths, "transaction conflicts and domain deaths");
    }
}

/// A server whose threads do not run yet.
pub struct Parts {
    /// The state that the workers share.
    pub shared: Arc<Shared>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// The reaper's queue.
    pub removed: Receiver<(Settlement, Done)>,
    /// The matcher's queue.
    pub unmatched: Receiver<Unmatched>,
    /// The worker that got the last socket client.
    pub next: usize,
}

impl Parts {
    /// Creates the parts of [`Server::start`]; `adjust` sets limits of the store.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn new(
        shards: u16,
        registry: Registry,
        host: Arc<dyn Host>,
        times: Times,
        adjust: impl FnOnce(&mut Store),
    ) -> io::Result<Parts> {
        let setup = Setup { registry, host, times };
        let basis = Basis::new(shards, setup, random_number(), |parts| {
            let (layout, registry, outlet, reaper, matcher) = parts;
            let mut store = Store::new(layout, registry, outlet, reaper, matcher);
            adjust(&mut store);
            store
        })?;
        let Basis { shared, polls, removed, unmatched } = basis;
        // Before the first client: a toolstack that can connect finds them.
        shared.announce_extensions();
        let mut workers = Vec::new();
        for (number, poll) in (0..).zip(polls) {
            let channels = shared.host.open_channels()?;
            let mut worker = Worker::new(number, Arc::clone(&shared), poll, channels)?;
            // VIRQ_DOM_EXC can be bound once: this worker notifies the owner threads of changed domains.
            if number == 0 {
                serve_control_domain(&mut worker)?;
            }
            workers.push(worker);
        }
        Ok(Parts { shared, workers, removed, unmatched, next: 0 })
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// The system refuses them.
    pub fn start(self) -> io::Result<Server> {
        let Parts { shared, workers, removed, unmatched, next } = self;
        // Weak: the threads end when the store, which has the sending halves of their queues, is dropped.
        let weak = [(); 2].map(|()| Arc::downgrade(&shared.store));
        let [for_reaper, for_matcher] = weak;
        spawn("reaper", move || run_reaper(&for_reaper, &removed))?;
        spawn("matcher", move || run_matcher(&for_matcher, &unmatched))?;
        let threads = start_workers(workers)?;
        Ok(Server { shared, threads, next })
    }
}

/// What a server is created from.
pub struct Setup {
    /// The registry of domains.
    pub registry: Registry,
    /// The host.
    pub host: Arc<dyn Host>,
    /// The clock and the timeouts.
    pub times: Times,
}

/// The parts of a store.
pub type StoreParts = (Layout, Arc<Registry>, Arc<dyn Outlet>, Reaper, Matcher);

/// A server without workers.
pub struct Basis {
    pub shared: Arc<Shared>,
    /// The workers' polls, with which their wakers are registered.
    pub polls: Vec<Poll>,
    pub removed: Receiver<(Settlement, Done)>,
    pub unmatched: Receiver<Unmatched>,
}

impl Basis {
    /// Creates the state that all workers share, around the store that `store` creates. Marks count up from
    /// `marks_from`.
    ///
    /// # Errors
    /// The system refuses polls.
    pub fn new(
        shards: u16,
        setup: Setup,
        marks_from: u64,
        store: impl FnOnce(StoreParts) -> Store,
    ) -> io::Result<Basis> {
        let Setup { registry, host, times } = setup;
        let layout = Layout::new(shards);
        let registry = Arc::new(registry);
        let control_domain = registry.get(Domid::CONTROL).ok_or(io::ErrorKind::NotFound)?;
        let mut polls = Vec::new();
        let mut mailboxes = Vec::new();
        for _ in 0..layout.shards() {
            let poll = Poll::new()?;
            mailboxes.push(Mailbox::new(Waker::new(poll.registry(), WAKER)?));
            polls.push(poll);
        }
        let mailboxes = Mailboxes(mailboxes.into());
        let ((reaper, removed), (matcher, unmatched)) = (reaper(), matcher());
        // The store pushes events itself, as that must happen under its locks.
        let outlet = Arc::new(mailboxes.clone());
        let store = store((layout, registry, outlet, reaper, matcher));
        let shared = Arc::new(Shared {
            store: Arc::new(store),
            host,
            mailboxes,
            reservations: SharedReservations::default(),
            clock: times.clock,
            control_domain,
            watch_event_timeout: times.watch_event_timeout,
            ring_scan_interval: times.ring_scan_interval,
            moves: Gate::default(),
            control: control::State::default(),
            marks_from,
            deaths: AtomicU64::new(0),
            stopping: AtomicU64::new(0),
            parked: AtomicU64::new(0),
            clients: AtomicU64::new(0),
        });
        Ok(Basis { shared, polls, removed, unmatched })
    }
}

/// Starts the threads of workers.
///
/// # Errors
/// The system refuses them.
pub fn start_workers(workers: Vec<Worker>) -> io::Result<Vec<JoinHandle<Option<Worker>>>> {
    let spawned = workers.into_iter().map(|worker| {
        let name = format!("worker {}", worker.core.number);
        spawn(&name, move || run(worker))
    });
    spawned.collect()
}

/// Returns a random number. The system's generator seeds the keys of std's hash maps.
fn random_number() -> u64 {
    RandomState::new().hash_one(())
}

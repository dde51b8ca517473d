//! A server without threads, for tests/simulator: its caller runs the steps of each worker, of the reaper and of the
//! matcher in any order, at the times of its clock. A step does what the thread would do between two waits, and nothing
//! if the thread would wait.

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, TryRecvError};
use mio::Events;

pub use super::clock::Clock;
use super::pause::Paused;
use super::session::Session;
use super::session::core::Halt;
use super::shared::Shared;
use super::worker::Worker;
use super::worker::run::{EVENTS_PER_POLL, pass, poll, timeout};
use super::worker::watch_list::watch_list;
use super::workers::{Parts, Times};
use crate::domain::Registry;
use crate::host::Host;
use crate::store::{Delivering, Done, Settlement, Store, Unmatched, WatchList};
use crate::sync::Arc;

/// A server without threads.
pub struct Stepped {
    shared: Arc<Shared>,
    workers: Vec<SteppedWorker>,
    reaper: SteppedReaper,
    matcher: SteppedMatcher,
}

struct SteppedWorker {
    worker: Worker,
    events: Events,
    /// When the worker wakes up without an event.
    wakes: Option<Instant>,
}

struct SteppedReaper {
    queue: Receiver<(Settlement, Done)>,
    /// The tree being settled.
    settling: Option<(Settlement, Done)>,
}

struct SteppedMatcher {
    queue: Receiver<Unmatched>,
    delivering: Delivering,
    /// Disconnects when the matcher may go on.
    awaited: Option<Receiver<Infallible>>,
}

impl Stepped {
    /// Creates a server as [`Server::start`](super::Server::start) does; `adjust` sets limits of the store.
    ///
    /// # Errors
    /// As [`Server::start`](super::Server::start).
    pub fn new(
        shards: u16,
        registry: Registry,
        host: Arc<dyn Host>,
        times: Times,
        adjust: impl FnOnce(&mut Store),
    ) -> io::Result<Stepped> {
        let parts = Parts::new(shards, registry, host, times, adjust)?;
        Ok(Stepped::of(parts))
    }

    /// Creates a server from its parts.
    pub fn of(parts: Parts) -> Stepped {
        let stepped = |worker: Worker| {
            let wakes = Some(worker.core.now);
            SteppedWorker { worker, events: Events::with_capacity(EVENTS_PER_POLL), wakes }
        };
        Stepped {
            shared: parts.shared,
            workers: parts.workers.into_iter().map(stepped).collect(),
            reaper: SteppedReaper { queue: parts.removed, settling: None },
            matcher: SteppedMatcher {
                queue: parts.unmatched,
                delivering: Delivering::default(),
                awaited: None,
            },
        }
    }

    /// Pauses the server as [`Server::pause`](super::Server::pause) does. Its place is taken by another one.
    pub fn pause(&mut self) -> Paused {
        for it in &mut self.workers {
            it.worker.core.halt = Some(Halt::Pause);
        }
        let workers = self.workers.drain(..).map(|it| it.worker).collect();
        let mut paused = Paused::new(Arc::clone(&self.shared), workers, 0);
        loop {
            paused.run_passes();
            if !self.step_reaper() && !self.step_matcher() && paused.is_quiet(0) {
                return paused;
            }
        }
    }

    /// Hands a new client to a worker.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking.
    pub fn serve(&self, client: UnixStream, worker: u16) -> io::Result<()> {
        self.shared.accept(client, worker)
    }

    /// Runs a pass of a worker, unless it would sleep. Returns whether it ran.
    pub fn step_worker(&mut self, number: usize) -> bool {
        let SteppedWorker { worker, events, wakes } = &mut self.workers[number];
        // Never waits, since the simulator decides how much time passes.
        poll(worker, events, Some(Duration::ZERO));
        let now = (self.shared.clock)();
        // The thread's poll would return for an event or at its timeout.
        if events.is_empty() && wakes.is_none_or(|wakes| wakes > now) {
            return false;
        }
        pass(worker, events);
        *wakes = timeout(worker).map(|timeout| worker.core.now + timeout);
        true
    }

    /// Runs a slice of the reaper's work. Returns whether there was any.
    pub fn step_reaper(&mut self) -> bool {
        let SteppedReaper { queue, settling } = &mut self.reaper;
        let Some(removed) = settling.take().or_else(|| queue.try_recv().ok()) else { return false };
        *settling = self.shared.store.settle_slice(removed);
        true
    }

    /// Finds the events of a commit for which the matcher is due. Returns whether there was one.
    pub fn step_matcher(&mut self) -> bool {
        let SteppedMatcher { queue, delivering, awaited } = &mut self.matcher;
        // The thread would wait for a delivery.
        if awaited.as_ref().is_some_and(|it| it.try_recv() == Err(TryRecvError::Empty)) {
            return false;
        }
        let Ok(unmatched) = queue.try_recv() else { return false };
        *awaited = delivering.find_events(&self.shared.store, unmatched);
        true
    }

    /// Returns the time of a worker's last pass.
    pub fn time_of_pass(&self, worker: usize) -> Instant {
        self.workers[worker].worker.core.now
    }

    /// Adds to the number of events that a worker has yet to deliver, until [`Stepped::unload`].
    pub fn load(&self, worker: usize, events: u64) {
        self.shared.mailboxes.0[worker].found(0, events);
    }

    /// Takes back what [`Stepped::load`] added.
    pub fn unload(&self, worker: usize, events: u64) {
        self.shared.mailboxes.0[worker].delivered(events);
    }

    /// Returns whether the reaper has settled everything.
    pub fn is_settled(&self) -> bool {
        self.reaper.settling.is_none() && self.reaper.queue.is_empty()
    }

    /// Returns the state that the workers share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Returns the sessions of all workers.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        let connections = self.workers.iter().flat_map(|it| it.worker.clients.iter());
        connections.map(|(_, connection)| &connection.session)
    }

    /// Returns the number of transactions' snapshots that the workers keep in view.
    pub fn snapshots(&self) -> usize {
        self.workers.iter().map(|it| it.worker.core.snapshots.len()).sum()
    }

    /// Returns each worker's watches.
    pub fn watch_lists(&self) -> Vec<WatchList> {
        self.workers.iter().map(|it| watch_list(&it.worker.core, &it.worker.clients)).collect()
    }
}

//! A pause of the whole server between two requests, for a live update: no request is in progress, no message is on its
//! way, and all threads that change the store's clients have ended. So one thread holds all of their state, and either
//! saves it for another process or lets the server go on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use mio::Events;
use thiserror::Error;

use super::mailbox::Message;
use super::session::Session;
use super::shared::Shared;
use super::worker::Worker;
use super::worker::connection::Connection;
use super::worker::run::pass;
use super::workers::{Parts, Server, start_workers};
use crate::sync::{Arc, Ordering};
use crate::transport::Transport;

/// The interval in which the pause looks whether reaper and matcher are done. They work on large removals and on commits
/// that many watches match, which take milliseconds.
const LOOK: Duration = Duration::from_micros(100);

/// A server that takes no requests until [`Paused::resume`].
pub struct Paused {
    pub(super) shared: Arc<Shared>,
    pub(super) workers: Vec<Worker>,
    next: usize,
}

/// Why a server could not be paused; it goes on.
#[derive(Debug, Error)]
pub enum PauseError {
    /// Requests in progress did not end in time.
    #[error("{0} requests in progress have not ended; try again")]
    Busy(u64),
    /// A request of the migration socket did not end in time.
    #[error("domains are being moved; try again when that has ended")]
    Moving,
}

impl Server {
    /// Pauses the server once the requests in progress have their replies, except those of `waiting` connections that
    /// wait for the pause itself. Blocks.
    ///
    /// # Errors
    /// The requests have not ended `within` this time; the server goes on.
    pub fn pause(
        self,
        waiting: u64,
        within: Duration,
    ) -> Result<Paused, (io::Result<Server>, PauseError)> {
        let deadline = Instant::now() + within;
        if !self.shared.moves.close(within) {
            return Err((Ok(self), PauseError::Moving));
        }
        for thread in 0..self.threads.len() {
            let thread = u16::try_from(thread).unwrap_or(0);
            self.shared.mailboxes.send(thread, Message::Pause);
        }
        // A panic of a worker has ended the process already, so each returns its state.
        let ended = self.threads.into_iter().map(|thread| thread.join().ok().flatten());
        let workers: Vec<Worker> = ended.flatten().collect();
        let mut paused = Paused::new(self.shared, workers, self.next);
        // From here on this thread runs the workers' passes, so a message is either in a mailbox or handled.
        loop {
            paused.run_passes();
            if paused.is_quiet(waiting) {
                return Ok(paused);
            }
            if Instant::now() > deadline {
                let busy = paused.shared.parked.load(Ordering::Relaxed).saturating_sub(waiting);
                return Err((paused.resume(), PauseError::Busy(busy)));
            }
            thread::sleep(LOOK);
        }
    }
}

impl Paused {
    /// Creates a paused server from workers without threads.
    pub(super) fn new(shared: Arc<Shared>, workers: Vec<Worker>, next: usize) -> Paused {
        Paused { shared, workers, next }
    }

    /// Takes the workers of a server that has not started, for a comparison of its state.
    pub fn of(parts: &mut Parts) -> Paused {
        Paused::new(Arc::clone(&parts.shared), std::mem::take(&mut parts.workers), parts.next)
    }

    /// Returns the workers.
    pub fn into_workers(self) -> Vec<Worker> {
        self.workers
    }

    /// Returns the sessions, in the order in which they are saved.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.connections().map(|connection| &connection.session)
    }

    /// Returns the sockets of clients.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.connections().filter_map(|connection| match &connection.transport {
            Transport::Socket(socket) => Some(socket.as_fd()),
            Transport::Ring(_) => None,
        })
    }

    fn connections(&self) -> impl Iterator<Item = &Connection> {
        let workers = self.workers.iter();
        workers.flat_map(|worker| worker.clients.iter().map(|(_, connection)| connection))
    }

    /// Runs a pass of each worker.
    pub(super) fn run_passes(&mut self) {
        let no_events = Events::with_capacity(1);
        for worker in &mut self.workers {
            pass(worker, &no_events);
        }
    }

    /// Returns the worker that got the last socket client.
    pub(super) fn next_worker(&self) -> u16 {
        u16::try_from(self.next).unwrap_or(0)
    }

    /// Returns whether all messages are handled, and only `waiting` connections wait for a reply.
    pub(super) fn is_quiet(&self, waiting: u64) -> bool {
        let has_messages = |worker: &Worker| {
            !worker.core.mailbox().is_empty()
                || !worker.inbox.undelivered.is_empty()
                || !worker.inbox.postponed.is_empty()
                || !worker.core.former.is_empty()
        };
        self.shared.parked.load(Ordering::Relaxed) <= waiting
            && !self.shared.store.has_unsettled()
            && !self.workers.iter().any(has_messages)
    }

    /// Lets the server go on.
    ///
    /// # Errors
    /// The system refuses the workers' threads.
    pub fn resume(mut self) -> io::Result<Server> {
        for worker in &mut self.workers {
            worker.core.halt = None;
            // Another process may have taken notifications, and not acted on them.
            worker.channels.recheck_all(&worker.core);
            // Requests that came meanwhile: the poll has reported them to no pass that took them.
            worker.clients.make_all_ready();
        }
        let threads = start_workers(self.workers)?;
        self.shared.moves.open();
        Ok(Server { shared: self.shared, threads, next: self.next })
    }
}

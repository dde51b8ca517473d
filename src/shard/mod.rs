//! The threads that serve clients: one for each shard, with a poll, a mailbox and an event-channel
//! handle of its own. Store and threads are numbered alike but independent: any thread works on
//! any shard of the store, under its lock.
//!
//! ```text
//!   socket / ring -> transport -> protocol -> requests -> store ---+
//!                                                  |               | batches of events,
//!   socket / ring <- transport <- output <---------+               | pushed under the
//!                                   ^                              v locks of a commit
//!                                   +--------- deliver <-------- mailbox
//! ```
//!
//! A request never leaves its thread. What concerns one domain (INTRODUCE, its death) is told to
//! the domain's *home thread*; the one who asked is parked, and no thread ever waits for another.

mod announcements;
mod connection;
mod deferred;
mod delivery;
mod domains;
mod former;
mod guards;
mod mailbox;
mod messages;
mod migration;
mod output;
mod ready;
mod recheck;
mod requests;
mod rings;
mod scan;
mod serving;
mod signal;
mod snapshots;
mod stalls;
mod standing;
mod state;
mod thread;
mod trace;
mod turns;
mod watches;

use std::io;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mio::{Poll, Waker};

use crate::control;
use crate::domain::{Domain, Registry};
use crate::host::Host;
use crate::store::{Store, matcher, reaper, run_matcher, run_reaper};
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::words::{Domid, Layout};
#[doc(hidden)]
pub use guards::Guards;
#[doc(hidden)] // For tests/schedules.
pub use mailbox::Asker;
use mailbox::{Mailbox, Mailboxes, Message};
pub use migration::{Expected, ImportEnd, OwnerThreads};
#[doc(hidden)] // For tests/schedules.
pub use migration::{Gathered, Share, shares};
#[doc(hidden)]
pub use signal::Signal;
pub use standing::Standing;
use thread::{Thread, WAKER};
#[doc(hidden)]
pub use turns::{Answer, Turns};

/// What all threads share.
pub(crate) struct Shared {
    store: Arc<Store>,
    host: Arc<dyn Host>,
    mailboxes: Mailboxes,
    guards: Guards,
    /// Whose rights sockets have.
    control_domain: Arc<Domain>,
    /// How long an event may wait for its domain; zero: for ever.
    watch_event_timeout: Duration,
    /// How often each ring is looked at that is not notified; zero: never.
    ring_scan_interval: Duration,
    /// What CONTROL's commands keep.
    control: control::State,
    /// What the numbers of marks begin with: when it was started, in nanoseconds. No daemon gives out
    /// one in each of these, so a mark that was kept in a file means nothing to the next.
    marks_from: u64,
    /// Domains that died.
    deaths: AtomicU64,
    /// Threads that take no more requests.
    stopping: AtomicU64,
    /// Connections that wait for an answer of another thread.
    parked: AtomicU64,
    /// Clients on the socket.
    clients: AtomicU64,
}

/// What a store holds.
pub struct Census {
    /// Known domains besides the control domain.
    pub domains: usize,
    /// Nodes, special ones included.
    pub nodes: usize,
    /// Clients on the socket.
    pub clients: u64,
}

/// Times that an operator may set; zero: never.
pub struct Times {
    /// How long an event may wait for its domain to take it.
    pub watch_event_timeout: Duration,
    /// In which time each ring is looked at once, whether it is notified or not.
    pub ring_scan_interval: Duration,
}

/// The running threads.
pub struct Server {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    next: usize,
}

impl Server {
    /// Starts `shards` threads on `host`. The control domain's ring is served from now on, if the
    /// host has one.
    ///
    /// # Errors
    /// The system refuses threads or polls, or the host refuses event channels:
    /// `AlreadyExists` if another daemon serves it.
    pub fn start(
        shards: u16,
        registry: Registry,
        host: Arc<dyn Host>,
        times: Times,
    ) -> io::Result<Server> {
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
        let outlet = Arc::new(mailboxes.clone());
        let store = Arc::new(Store::new(layout, registry, outlet, reaper, matcher));
        let weak = [(); 2].map(|()| Arc::downgrade(&store));
        let [for_reaper, for_matcher] = weak;
        spawn("reaper", move || run_reaper(&for_reaper, &removed))?;
        spawn("matcher", move || run_matcher(&for_matcher, &unmatched))?;
        let shared = Arc::new(Shared {
            store,
            host,
            mailboxes,
            guards: Guards::default(),
            control_domain,
            watch_event_timeout: times.watch_event_timeout,
            ring_scan_interval: times.ring_scan_interval,
            control: control::State::default(),
            marks_from: nanoseconds_now(),
            deaths: AtomicU64::new(0),
            stopping: AtomicU64::new(0),
            parked: AtomicU64::new(0),
            clients: AtomicU64::new(0),
        });
        shared.announce_extensions();
        let mut threads = Vec::new();
        for (number, poll) in (0..).zip(polls) {
            let channels = shared.host.open_channels()?;
            let mut thread = Thread::new(number, Arc::clone(&shared), poll, channels)?;
            if number == 0 {
                thread.serve_control_domain()?;
            }
            threads.push(spawn(&format!("shard {number}"), move || thread.run())?);
        }
        Ok(Server { shared, threads, next: 0 })
    }

    /// Serves a client that connected, on the next thread in turn.
    pub fn serve(&mut self, client: UnixStream) -> io::Result<()> {
        client.set_nonblocking(true)?;
        self.next = (self.next + 1) % self.threads.len();
        let thread = u16::try_from(self.next).unwrap_or(0);
        self.shared.mailboxes.send(thread, Message::Accepted(client));
        Ok(())
    }

    /// The threads, for those who move domains.
    pub fn owner_threads(&self) -> OwnerThreads {
        OwnerThreads { shared: Arc::clone(&self.shared) }
    }

    /// The threads, for commands of CONTROL.
    pub fn served(&self) -> Arc<dyn control::Served> {
        Arc::<Shared>::clone(&self.shared)
    }

    /// Counts what the store holds. Cost: a walk over all nodes of a snapshot.
    pub fn census(&self) -> Census {
        let registry = self.shared.store.registry();
        Census {
            domains: registry.known().len() - 1,
            nodes: self.shared.store.count_nodes(),
            clients: self.shared.clients.load(Ordering::Relaxed),
        }
    }

    /// Takes no more requests, sends what is ready to be sent, ends all threads.
    pub fn stop(self) {
        for thread in 0..self.shared.mailboxes.0.len() {
            self.shared.mailboxes.send(u16::try_from(thread).unwrap_or(0), Message::Stop);
        }
        for thread in self.threads {
            // A panic of it ended the process already.
            let _ = thread.join();
        }
        let conflicts = self.shared.control.conflicts.count();
        let deaths = self.shared.deaths.load(Ordering::Relaxed);
        tracing::info!(conflicts, deaths, "transactions that conflicted, domains that died");
    }
}

/// Since 1970, which a u64 has room for until 2554.
fn nanoseconds_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(0)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

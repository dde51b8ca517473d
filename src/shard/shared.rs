//! What all workers share.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::guards::Guards;
use super::mailbox::{Mailboxes, Message};
use super::turns::Turns;
use crate::control;
use crate::domain::Domain;
use crate::host::Host;
use crate::store::{Caller, Store};
use crate::sync::{Arc, AtomicU64};
use crate::words::{Domid, ShardId, Subject};

/// What all threads share.
pub struct Shared {
    pub store: Arc<Store>,
    pub host: Arc<dyn Host>,
    pub mailboxes: Mailboxes,
    pub guards: Guards,
    /// Whose rights sockets have.
    pub control_domain: Arc<Domain>,
    /// How long an event may wait for its domain; zero: for ever.
    pub watch_event_timeout: Duration,
    /// How often each ring is looked at that is not notified; zero: never.
    pub ring_scan_interval: Duration,
    /// What CONTROL's commands keep.
    pub control: control::State,
    /// What the numbers of marks begin with: when it was started, in nanoseconds. No daemon gives out
    /// one in each of these, so a mark that was kept in a file means nothing to the next.
    pub marks_from: u64,
    /// Domains that died.
    pub deaths: AtomicU64,
    /// Threads that take no more requests.
    pub stopping: AtomicU64,
    /// Connections that wait for an answer of another thread.
    pub parked: AtomicU64,
    /// Clients on the socket.
    pub clients: AtomicU64,
}

impl Shared {
    /// The incarnation of a domain that the host says exists; it becomes known by this.
    pub fn known_domain(&self, domid: Domid) -> Option<Arc<Domain>> {
        let registry = self.store.registry();
        if let Some(domain) = registry.get(domid) {
            return Some(domain);
        }
        let living = || self.host.domain(domid).ok().flatten().filter(|state| !state.dying);
        let id = living()?.unique_id;
        let domain = registry.admit(domid, id)?;
        // If it died since the host was asked, that was told while nobody knew it.
        if living().is_none_or(|state| state.unique_id != id) {
            self.mailboxes.send(self.home_thread(domid), Message::DomainChanged(domid));
        }
        Some(domain)
    }

    /// The home thread of a domain.
    pub fn home_thread(&self, domid: Domid) -> u16 {
        let ShardId(shard) = self.store.layout().of_domain(domid);
        shard
    }

    /// Does `work` on the turns as they are at `now`, and tells the connections that may go on.
    pub fn turns<T>(&self, now: Instant, work: impl FnOnce(&mut Turns) -> T) -> T {
        let (result, woken) = self.guards.with(&self.store, now, work);
        for asker in woken {
            self.mailboxes.post(asker.thread, Message::Unguarded(asker));
        }
        result
    }

    /// The daemon itself, as the one who asks.
    pub fn daemon_caller(&self) -> Caller {
        let domain = Arc::clone(&self.control_domain);
        Caller { domain, subject: Subject::CONTROL, epoch: self.store.epoch(), unblocked: None }
    }
}

/// Starts a thread with a name.
///
/// # Errors
/// The system refuses it.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

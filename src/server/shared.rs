//! The state that all workers share.

use std::io;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::gate::Gate;
use super::mailbox::{Mailboxes, Message};
use super::reservations::Reservations;
use super::shared_reservations::SharedReservations;
use crate::control;
use crate::domain::Domain;
use crate::host::Host;
use crate::store::{Caller, Store};
use crate::sync::{Arc, AtomicU64};
use crate::types::{Domid, ShardId, Subject};

/// The state that all workers share.
pub struct Shared {
    pub store: Arc<Store>,
    pub host: Arc<dyn Host>,
    pub mailboxes: Mailboxes,
    pub reservations: SharedReservations,
    /// The clock of all workers.
    pub clock: Clock,
    /// The domain whose rights socket clients have.
    pub control_domain: Arc<Domain>,
    /// The timeout after which an event that its guest does not take is dropped; zero for none.
    pub watch_event_timeout: Duration,
    /// The interval of the scan of rings that do not notify; zero for none.
    pub ring_scan_interval: Duration,
    /// The requests of threads that may block, which a pause waits for.
    pub moves: Gate,
    /// The state of CONTROL's commands.
    pub control: control::State,
    /// A random number, from which the numbers of marks count up. So a mark kept in a file is invalid for the next
    /// daemon, whatever the clock says: that they meet has a chance of 2^-64.
    pub marks_from: u64,
    /// The number of domains that died since the start.
    pub deaths: AtomicU64,
    /// The number of workers that take no more requests.
    pub stopping: AtomicU64,
    /// The number of connections parked for replies.
    pub parked: AtomicU64,
    /// The number of socket clients.
    pub clients: AtomicU64,
}

impl Shared {
    /// Returns the incarnation of a domain that exists on the host, and registers it if it is not known.
    pub fn known_domain(&self, domid: Domid) -> Option<Arc<Domain>> {
        let registry = self.store.registry();
        // The usual case, without a system call: only the first mention of a domain asks the host.
        if let Some(domain) = registry.get(domid) {
            return Some(domain);
        }
        // An error of the host counts as no domain: the client may retry, and nothing is admitted unseen.
        let living = || self.host.domain(domid).ok().flatten().filter(|state| !state.dying);
        let id = living()?.unique_id;
        // Another thread may have admitted it meanwhile, and then that incarnation is returned.
        let domain = registry.admit(domid, id)?;
        // A death between the query and the registration was not handled, as the domain was unknown then: query again,
        // and let the owner thread handle it.
        if living().is_none_or(|state| state.unique_id != id) {
            self.mailboxes.send(self.owner_thread(domid), Message::DomainChanged(domid));
        }
        Some(domain)
    }

    /// Hands a new client of the socket to a worker.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking.
    pub fn accept(&self, client: UnixStream, worker: u16) -> io::Result<()> {
        // A worker must never block on a client.
        client.set_nonblocking(true)?;
        self.mailboxes.send(worker, Message::Accepted(client));
        Ok(())
    }

    /// Returns the number of a domain's owner thread. A pure function of the domid, so any thread finds the owner
    /// without a table.
    pub fn owner_thread(&self, domid: Domid) -> u16 {
        let ShardId(shard) = self.store.layout().of_domain(domid);
        shard
    }

    /// Runs `work` on the reservations, advanced to `now`, and notifies the connections that may proceed.
    pub fn with_reservations<T>(
        &self,
        now: Instant,
        work: impl FnOnce(&mut Reservations) -> T,
    ) -> T {
        let (result, woken) = self.reservations.with(&self.store, now, work);
        for reply_to in woken {
            // Callers are in a pass of their worker, which wakes the others at its end.
            self.mailboxes.post(reply_to.thread, Message::ReservationEnded(reply_to));
        }
        result
    }

    /// Returns the daemon itself as the caller of store operations.
    pub fn daemon_caller(&self) -> Caller {
        let domain = Arc::clone(&self.control_domain);
        Caller { domain, subject: Subject::CONTROL, epoch: self.store.epoch(), unblocked: None }
    }
}

/// Starts a thread with a name.
///
/// # Errors
/// The system refuses it.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

//! The interface by which a thread that may block uses the owner threads of many domains, all at the same time.

use crossbeam::channel::bounded;

use super::move_request::{Expected, Export, ImportEnd, Introduced, MoveReply, MoveRequest};
use super::scatter_gather::{Joined, parts};
use crate::domain::Domain;
use crate::migration::stream::state::Client;
use crate::server::author::Author;
use crate::server::gate::Entered;
use crate::server::mailbox::Message;
use crate::server::shared::Shared;
use crate::server::standing::Standing;
use crate::store::{Caller, DomainSnapshot, Executed, Store};
use crate::sync::Arc;
use crate::types::{Domid, Errno, INTRODUCE_DOMAIN, RELEASE_DOMAIN};

/// The owner threads, for threads that migrate domains on behalf of a client. The caller of a method blocks; the owner
/// threads never do.
#[derive(Clone)]
pub struct OwnerThreads {
    pub(in crate::server) shared: Arc<Shared>,
    pub(in crate::server) by: Arc<Author>,
}

impl OwnerThreads {
    /// Returns the owner threads for another client.
    pub fn on_behalf_of(&self, by: Author) -> OwnerThreads {
        OwnerThreads { shared: Arc::clone(&self.shared), by: Arc::new(by) }
    }

    /// Returns the client.
    pub fn by(&self) -> &Author {
        &self.by
    }

    /// Waits while the server is paused, and keeps it from being paused until the returned value is dropped.
    pub fn enter(&self) -> Entered<'_> {
        self.shared.moves.enter()
    }

    /// Returns the store.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Returns the daemon itself as the caller of store operations.
    pub fn caller(&self) -> Caller {
        self.shared.daemon_caller()
    }

    /// Returns the incarnation of a domain that exists on the host.
    pub fn known_domain(&self, domid: Domid) -> Option<Arc<Domain>> {
        self.shared.known_domain(domid)
    }

    /// Quiesces domains, and blocks until all are drained. Returns those that failed.
    pub fn quiesce(&self, domids: &[Domid]) -> Vec<(Domid, Errno)> {
        if domids.is_empty() {
            return Vec::new();
        }
        let (sender, receiver) = bounded(1);
        let reply = move |joined: Joined| {
            // Cannot fail: the receiver waits for it.
            let _ = sender.send(joined);
        };
        for part in parts(domids, reply) {
            self.shared.mailboxes.post(
                self.shared.owner_thread(part.domid()),
                Message::Quiesce(part, Arc::clone(&self.by)),
            );
        }
        // This thread has no pass, at whose end workers are woken.
        self.wake();
        let all = |errno| domids.iter().map(|&domid| (domid, errno)).collect();
        receiver.recv().unwrap_or(Err(Errno::EIO)).unwrap_or_else(all)
    }

    /// Undoes the quiescing of domains whose export failed. A domain with a mark stays quiesced, since another export
    /// has succeeded meanwhile.
    pub fn undo_quiesce(&self, domids: &[Domid]) {
        let request = |&domid: &Domid| (domid, move |reply| MoveRequest::UndoQuiesce(domid, reply));
        self.ask(domids.iter().map(request));
    }

    /// Returns the connections of quiesced domains as values, with their versions.
    pub fn save_connections(&self, domids: &[Domid]) -> Vec<Result<(Client, u64), Errno>> {
        let request =
            |&domid: &Domid| (domid, move |reply| MoveRequest::SaveConnection(domid, reply));
        self.ask(domids.iter().map(request))
    }

    /// Gives exports their marks, from the version of each domain's connection and its partitions. `to` is their
    /// destination, if the client named it.
    pub fn mark(
        &self,
        exports: Vec<(u64, DomainSnapshot)>,
        to: Option<&Arc<str>>,
    ) -> Vec<Result<u64, Errno>> {
        let request = |(version, seen): (u64, DomainSnapshot)| {
            let (domid, by, to) = (seen.domid, Arc::clone(&self.by), to.map(Arc::clone));
            let export = Export { version, seen, by, to };
            (domid, move |reply| MoveRequest::Mark(export, reply))
        };
        self.ask(exports.into_iter().map(request))
    }

    /// Keeps domids free for an import until [`OwnerThreads::arrive`], and returns the domains' incarnations.
    ///
    /// # Errors
    /// `EIO` for a thread that has ended.
    pub fn expect(&self, domids: &[Domid]) -> Vec<Result<Expected, Errno>> {
        let request = |&domid: &Domid| {
            let by = Arc::clone(&self.by);
            (domid, move |reply| MoveRequest::Expect(domid, by, reply))
        };
        self.ask(domids.iter().map(request))
    }

    /// Returns the states of domains.
    pub fn standings(&self, domids: &[Domid]) -> Vec<Result<Standing, Errno>> {
        let request = |&domid: &Domid| (domid, move |reply| MoveRequest::Standing(domid, reply));
        self.ask(domids.iter().map(request))
    }

    /// Keeps the connections of imported domains for INTRODUCE, or executes it now, and releases the domids of the
    /// others.
    pub fn arrive(
        &self,
        arrivals: Vec<ImportEnd>,
        introduces: bool,
    ) -> Vec<Result<Introduced, Errno>> {
        let domids: Vec<_> = arrivals.iter().map(|(domain, _)| domain.domid).collect();
        let request = |(domain, arrived): ImportEnd| {
            let (domid, by) = (domain.domid, Arc::clone(&self.by));
            let end = (domain, arrived);
            (domid, move |reply| MoveRequest::Arrive(end, by, introduces, reply))
        };
        let outcomes = self.ask(arrivals.into_iter().map(request));
        for (domid, outcome) in domids.into_iter().zip(&outcomes) {
            if matches!(outcome, Ok(Some(Ok(())))) {
                self.shared.store.publish_special(INTRODUCE_DOMAIN, domid);
            }
        }
        self.wake();
        outcomes
    }

    /// Returns the domains that were imported and have not been served since.
    pub fn arrived(&self, domids: &[Domid]) -> Vec<Domid> {
        let standings = domids.iter().zip(self.standings(domids));
        let arrived = standings.filter(|(_, standing)| {
            standing.as_ref().is_ok_and(|standing| standing.presence.has_arrived())
        });
        arrived.map(|(domid, _)| *domid).collect()
    }

    /// Discards domains that were imported and have not been served since, and returns their partitions.
    pub fn discard(&self, domids: &[Domid]) -> Vec<Result<DomainSnapshot, Errno>> {
        let request = |&domid: &Domid| (domid, move |reply| MoveRequest::Discard(domid, reply));
        let discarded = self.ask(domids.iter().map(request));
        let tell = |result: Result<(DomainSnapshot, bool), Errno>| {
            let (seen, was_introduced) = result?;
            // After all owner threads have replied, so that a client that gets the event finds the domains gone.
            if was_introduced {
                self.shared.store.publish_special(RELEASE_DOMAIN, seen.domid);
            }
            Ok(seen)
        };
        let discarded = discarded.into_iter().map(tell).collect();
        self.wake();
        discarded
    }

    /// Sends each domain's owner thread its request, and blocks until all have replied. The replies are in the order of
    /// the requests, `EIO` for a thread that has ended.
    fn ask<R, M>(
        &self,
        requests: impl ExactSizeIterator<Item = (Domid, M)>,
    ) -> Vec<Result<R, Errno>>
    where
        M: FnOnce(MoveReply<R>) -> MoveRequest,
    {
        let mut replies: Vec<_> = (0..requests.len()).map(|_| Err(Errno::EIO)).collect();
        // Room for every reply: an owner thread must never block on it.
        let (sender, receiver) = bounded(requests.len());
        // All requests are sent before the first reply is awaited, so that the owner threads work at the same time.
        for (at, (domid, message)) in requests.enumerate() {
            let reply = MoveReply { at, sender: sender.clone() };
            self.shared
                .mailboxes
                .post(self.shared.owner_thread(domid), Message::Move(message(reply)));
        }
        // Then the loop ends when each request has been replied to, or was dropped by a thread that ended.
        drop(sender);
        self.wake();
        for (at, reply) in receiver {
            // In the order of the requests, whichever thread replied first.
            replies[at] = reply;
        }
        replies
    }

    /// Settles removed nodes, and wakes the workers to which events were pushed.
    pub fn settle(&self, executed: Executed) {
        if let Some(rest) = self.shared.store.settle(executed.removed) {
            self.shared.store.reap(rest, Box::new(|| {}));
        }
        self.wake();
    }

    /// Announces the path and the operations of the migration socket in the store.
    pub fn announce_migration_socket(&self, path: &str) {
        self.shared.announce_migration_socket(path);
    }

    /// Wakes every worker with new messages.
    fn wake(&self) {
        // No worker has this number, so none is skipped.
        self.shared.mailboxes.wake_all(u16::MAX);
    }
}

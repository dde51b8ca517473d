//! The home threads of many domains, asked by a thread that may wait: each for its part, all of them at the same time.

use crossbeam::channel::bounded;

use super::move_request::{Expected, ImportEnd, MoveReply, MoveRequest};
use super::scatter_gather::{Gathered, shares};
use crate::domain::Domain;
use crate::migration::stream::state::Client;
use crate::shard::mailbox::Message;
use crate::shard::shared::Shared;
use crate::shard::standing::Standing;
use crate::store::{Caller, DomainSnapshot, Executed, Store};
use crate::sync::Arc;
use crate::words::{Domid, Errno, RELEASE_DOMAIN};

/// The threads, for those who move domains. Whoever calls waits; the threads do not.
#[derive(Clone)]
pub struct OwnerThreads {
    pub(in crate::shard) shared: Arc<Shared>,
}

impl OwnerThreads {
    /// The store.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// The daemon itself, as the one who asks.
    pub fn caller(&self) -> Caller {
        self.shared.daemon_caller()
    }

    /// The incarnation of a domain that the host says exists.
    pub fn known_domain(&self, domid: Domid) -> Option<Arc<Domain>> {
        self.shared.known_domain(domid)
    }

    /// Quiesces domains, and waits until the last of them is still. Answers those for which it could
    /// not be done.
    pub fn quiesce(&self, domids: &[Domid]) -> Vec<(Domid, Errno)> {
        if domids.is_empty() {
            return Vec::new();
        }
        let (sender, receiver) = bounded(1);
        let answer = move |gathered: Gathered| {
            // Who asked waits for it.
            let _ = sender.send(gathered);
        };
        for share in shares(domids, answer) {
            self.shared
                .mailboxes
                .post(self.shared.home_thread(share.domid()), Message::Quiesce(share));
        }
        self.wake();
        let all = |errno| domids.iter().map(|&domid| (domid, errno)).collect();
        receiver.recv().unwrap_or(Err(Errno::EIO)).unwrap_or_else(all)
    }

    /// Serves domains again that an export quiesced which failed. A domain with a mark stays quiesced: another
    /// export was replied to meanwhile.
    pub fn undo_quiesce(&self, domids: &[Domid]) {
        let request = |&domid: &Domid| (domid, move |reply| MoveRequest::UndoQuiesce(domid, reply));
        self.ask(domids.iter().map(request));
    }

    /// Returns what the connections of quiesced domains are.
    pub fn save_connections(&self, domids: &[Domid]) -> Vec<Result<(Client, u64), Errno>> {
        let request =
            |&domid: &Domid| (domid, move |reply| MoveRequest::SaveConnection(domid, reply));
        self.ask(domids.iter().map(request))
    }

    /// Gives exports their marks: of each domain the version of its connection, and its homes.
    pub fn mark(&self, exports: Vec<(u64, DomainSnapshot)>) -> Vec<Result<u64, Errno>> {
        let request = |(version, seen): (u64, DomainSnapshot)| {
            (seen.domid, move |reply| MoveRequest::Mark(version, seen, reply))
        };
        self.ask(exports.into_iter().map(request))
    }

    /// Keeps the numbers of domains free that are being imported, until [`OwnerThreads::arrive`]; returns their
    /// incarnations.
    ///
    /// # Errors
    /// `EIO` of a thread that ended.
    pub fn expect(&self, domids: &[Domid]) -> Vec<Result<Expected, Errno>> {
        let request = |&domid: &Domid| (domid, move |reply| MoveRequest::Expect(domid, reply));
        self.ask(domids.iter().map(request))
    }

    /// Returns the states of some domains.
    pub fn standings(&self, domids: &[Domid]) -> Vec<Result<Standing, Errno>> {
        let request = |&domid: &Domid| (domid, move |reply| MoveRequest::Standing(domid, reply));
        self.ask(domids.iter().map(request))
    }

    /// Leaves the connections of domains that arrived to INTRODUCE, and frees the numbers of the others.
    pub fn arrive(&self, arrivals: Vec<ImportEnd>) -> Vec<Result<(), Errno>> {
        let request = |(domain, arrived): ImportEnd| {
            (domain.domid, move |reply| MoveRequest::Arrive(domain, arrived, reply))
        };
        self.ask(arrivals.into_iter().map(request))
    }

    /// Those of some domains that arrived and were not served since.
    pub fn arrived(&self, domids: &[Domid]) -> Vec<Domid> {
        let standings = domids.iter().zip(self.standings(domids));
        let arrived = standings.filter(|(_, standing)| {
            standing.as_ref().is_ok_and(|standing| standing.presence.has_arrived())
        });
        arrived.map(|(domid, _)| *domid).collect()
    }

    /// Gives domains up that arrived and were not served since; answers the homes that they brought.
    pub fn discard(&self, domids: &[Domid]) -> Vec<Result<DomainSnapshot, Errno>> {
        let request = |&domid: &Domid| (domid, move |reply| MoveRequest::Discard(domid, reply));
        let discarded = self.ask(domids.iter().map(request));
        let tell = |result: Result<(DomainSnapshot, bool), Errno>| {
            let (seen, was_introduced) = result?;
            if was_introduced {
                self.shared.store.publish_special(RELEASE_DOMAIN, seen.domid);
            }
            Ok(seen)
        };
        let discarded = discarded.into_iter().map(tell).collect();
        self.wake();
        discarded
    }

    /// Sends each domain's home thread its request and waits for all replies, which are in the same order: `EIO` of
    /// a thread that ended.
    fn ask<R, M>(
        &self,
        requests: impl ExactSizeIterator<Item = (Domid, M)>,
    ) -> Vec<Result<R, Errno>>
    where
        M: FnOnce(MoveReply<R>) -> MoveRequest,
    {
        let mut replies: Vec<_> = (0..requests.len()).map(|_| Err(Errno::EIO)).collect();
        let (sender, receiver) = bounded(requests.len());
        for (at, (domid, message)) in requests.enumerate() {
            let reply = MoveReply { at, sender: sender.clone() };
            self.shared
                .mailboxes
                .post(self.shared.home_thread(domid), Message::Move(message(reply)));
        }
        drop(sender);
        self.wake();
        for (at, reply) in receiver {
            replies[at] = reply;
        }
        replies
    }

    /// Settles what was removed, and wakes who is told of it.
    pub fn settle(&self, executed: Executed) {
        if let Some(rest) = self.shared.store.settle(executed.removed) {
            self.shared.store.reap(rest, Box::new(|| {}));
        }
        self.wake();
    }

    /// Says in the store where the migration socket is, and what it serves.
    pub fn announce_migration_socket(&self, path: &str) {
        self.shared.announce_migration_socket(path);
    }

    /// Wakes every thread that something was pushed to.
    fn wake(&self) {
        self.shared.mailboxes.wake_all(u16::MAX);
    }
}

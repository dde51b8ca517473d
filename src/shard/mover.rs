//! Moving many domains at once, from a thread that may wait: each domain's home thread is asked for its
//! part, all of them at the same time.

use crossbeam::channel::bounded;

use super::Shared;
use super::gathering::{Gathered, shares};
use super::mailbox::Message;
use super::standing::Standing;
use super::thread::Thread;
use crate::domain::Domain;
use crate::migrate::state::Client;
use crate::store::{Caller, Executed, Seen, Store};
use crate::sync::Arc;
use crate::words::Presence;
use crate::words::{Domid, Errno, RELEASE_DOMAIN, ShardId};

/// What a quiesced domain's connection is, and its version.
pub type Carry = Result<(Client, u64), Errno>;

/// A domain whose number is kept free for an import, or the state that is in the way.
pub type Expected = Result<Arc<Domain>, Presence>;

/// A domain whose import is over, with what it brought if it arrived: its connection, its homes.
pub type Arrived = (Arc<Domain>, Option<(Client, Seen)>);

/// The threads, for those who move domains. Whoever calls waits; the threads do not.
#[derive(Clone)]
pub struct Mover {
    pub(super) shared: Arc<Shared>,
}

impl Mover {
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
            self.shared.mailboxes.post(self.home_thread(share.domid()), Message::Quiesce(share));
        }
        self.wake();
        let all = |errno| domids.iter().map(|&domid| (domid, errno)).collect();
        receiver.recv().unwrap_or(Err(Errno::EIO)).unwrap_or_else(all)
    }

    /// Lets domains be served again that an export has quiesced which failed. Who has a mark stays
    /// quiesced: another export was answered meanwhile.
    pub fn undo_quiesce(&self, domids: &[Domid]) {
        let works = domids
            .iter()
            .map(|&domid| (domid, move |thread: &mut Thread| thread.undo_quiesce(domid)));
        self.on_home_threads(works);
    }

    /// What the connections of quiesced domains are.
    pub fn carry(&self, domids: &[Domid]) -> Vec<Carry> {
        let works =
            domids.iter().map(|&domid| (domid, move |thread: &mut Thread| thread.carry(domid)));
        self.on_home_threads(works)
    }

    /// Gives exports their marks: of each domain the version of its connection, and its homes.
    pub fn mark(&self, exports: Vec<(u64, Seen)>) -> Vec<Result<u64, Errno>> {
        let works = exports.into_iter().map(|(version, seen)| {
            let domid = seen.domid;
            (domid, move |thread: &mut Thread| thread.mark(domid, version, seen))
        });
        self.on_home_threads(works)
    }

    /// Keeps the numbers of domains free that are being imported, until [`Mover::arrive`]; answers
    /// who they are.
    ///
    /// # Errors
    /// `EIO` of a thread that ended.
    pub fn expect(&self, domids: &[Domid]) -> Vec<Result<Expected, Errno>> {
        let works = domids
            .iter()
            .map(|&domid| (domid, move |thread: &mut Thread| Ok(thread.expect(domid))));
        self.on_home_threads(works)
    }

    /// The states of some domains.
    pub fn standings(&self, domids: &[Domid]) -> Vec<Result<Standing, Errno>> {
        let works = domids
            .iter()
            .map(|&domid| (domid, move |thread: &mut Thread| Ok(thread.standing(domid))));
        self.on_home_threads(works)
    }

    /// Leaves the connections of domains that arrived to INTRODUCE, and the numbers of others to
    /// whoever comes.
    pub fn arrive(&self, arrivals: Vec<Arrived>) -> Vec<Result<(), Errno>> {
        let works = arrivals.into_iter().map(|(domain, arrived)| {
            (domain.domid, move |thread: &mut Thread| thread.arrive(&domain, arrived))
        });
        self.on_home_threads(works)
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
    pub fn discard(&self, domids: &[Domid]) -> Vec<Result<Seen, Errno>> {
        let works =
            domids.iter().map(|&domid| (domid, move |thread: &mut Thread| thread.discard(domid)));
        let discarded = self.on_home_threads(works);
        let tell = |result: Result<(Seen, bool), Errno>| {
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

    /// Runs each of `works` on the home thread of its domain, and waits for all answers, which are in
    /// the same order: `EIO` of a thread that ended.
    fn on_home_threads<R, W>(
        &self,
        works: impl ExactSizeIterator<Item = (Domid, W)>,
    ) -> Vec<Result<R, Errno>>
    where
        R: Send + 'static,
        W: FnOnce(&mut Thread) -> Result<R, Errno> + Send + 'static,
    {
        let mut answers: Vec<_> = (0..works.len()).map(|_| Err(Errno::EIO)).collect();
        let (sender, receiver) = bounded(works.len());
        for (at, (domid, work)) in works.enumerate() {
            let sender = sender.clone();
            let run = move |thread: &mut Thread| {
                // There is room for each answer.
                let _ = sender.send((at, work(thread)));
            };
            self.shared.mailboxes.post(self.home_thread(domid), Message::Run(Box::new(run)));
        }
        drop(sender);
        self.wake();
        for (at, answer) in receiver {
            answers[at] = answer;
        }
        answers
    }

    fn home_thread(&self, domid: Domid) -> u16 {
        let ShardId(shard) = self.shared.store.layout().of_domain(domid);
        shard
    }

    /// Settles what was removed, and wakes who is told of it.
    pub fn settle(&self, executed: Executed) {
        if let Some(rest) = self.shared.store.settle(executed.removed) {
            self.shared.store.reap(rest, Box::new(|| {}));
        }
        self.wake();
    }

    /// Writes down an operation, or something else about moving domains, where the others are.
    pub fn announce(&self, name: &str, value: &str) {
        self.shared.announce(name, value);
    }

    /// Wakes every thread that something was pushed to.
    fn wake(&self) {
        self.shared.mailboxes.wake_all(u16::MAX);
    }
}

//! The *matcher* thread: finds the events of changes that exceed a commit's budget of looks ([`super::publish`]). The
//! matcher works on snapshots taken under the commit's locks, so its events are those that would have been found under
//! them; each thread's mailbox keeps the commit's place with an empty batch.

use std::cell::OnceCell;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use foldhash::fast::RandomState;

use super::Store;
use super::access_set::AccessSet;
use super::commit_view::{Budget, CommitView, Source};
use super::context::{Caller, Change};
use super::forest::Locked;
use super::node::NodeArc;
use super::publish::Rest;
use crate::domain::{Held, Ticket};
use crate::sync::Arc;
use crate::types::{Partition, PathBuf, ShardId};
use crate::watch::{Batch, Event, Trie};

/// Maximum number of commits whose events have been found but not delivered. The events of a commit can take a few
/// megabytes, so beyond this number the matcher waits, and with it the guests whose commits are queued.
const DELIVERING_MAX: usize = 2;

/// The charge to the guest for a waiting change and the nodes that it removed, without its path, in bytes.
const CHANGE_BYTES: usize = 256;

/// The watches and nodes on which a commit's events depend.
pub struct Snapshot {
    /// The tries of the commit's shards.
    watches: Vec<(ShardId, Trie)>,
    /// The partitions after the transaction; empty if nothing was removed, as they are not needed then.
    roots: HashMap<PathBuf, NodeArc, RandomState>,
}

impl Snapshot {
    /// Returns the watches of one of the commit's shards.
    pub fn watches(&self, shard: ShardId) -> Option<&Trie> {
        self.watches.iter().find(|(of, _)| *of == shard).map(|(_, trie)| trie)
    }

    /// Returns the root of a partition that the commit accessed.
    pub fn root(&self, partition: &Partition<'_>) -> Option<&NodeArc> {
        self.roots.get(partition.root.bytes())
    }
}

/// A commit whose events are not all found yet.
pub struct Unmatched {
    changes: Vec<Change>,
    rest: Rest,
    replaced: Option<AccessSet>,
    snapshot: Snapshot,
    global: Arc<Trie>,
    collapses: bool,
    /// The channels to each thread's empty batch.
    threads: Vec<Sender<Vec<Event>>>,
    /// Disconnected once the last thread has delivered its events.
    delivered: Receiver<Infallible>,
    // The guest's charge for the memory of all this.
    _held: Option<Held>,
}

/// A commit whose locks are still held.
pub struct Commit<'a> {
    /// The changes that the commit made.
    pub changes: Vec<Change>,
    /// The partitions that the commit replaced, if it is that of a transaction.
    pub replaced: Option<AccessSet>,
    /// The caller.
    pub caller: &'a Caller,
    /// The ticket of a guest's request.
    pub ticket: Option<&'a Arc<Ticket>>,
}

/// The matcher's queue. The queue itself is unbounded; but each entry counts in the mailboxes, and above a limit there
/// no requests are read.
pub type Matcher = Sender<Unmatched>;

/// Creates the queue that [`run_matcher`] serves.
pub fn matcher() -> (Matcher, Receiver<Unmatched>) {
    unbounded()
}

/// Finds the events of queued commits until the store is dropped.
pub fn run_matcher(store: &std::sync::Weak<Store>, queue: &Receiver<Unmatched>) {
    let mut delivering = Delivering::default();
    while let Ok(unmatched) = queue.recv() {
        let Some(store) = store.upgrade() else { return };
        let first = delivering.add(store.find_events(unmatched));
        drop(store);
        if let Some(delivered) = first {
            // No value is ever sent on this channel: the wait ends when all senders are dropped.
            let _: Result<Infallible, _> = delivered.recv();
        }
    }
}

/// Commits whose events were found but may not be delivered yet, oldest first. A channel disconnects at delivery.
#[derive(Default)]
struct Delivering(VecDeque<Receiver<Infallible>>);

impl Delivering {
    /// Adds a commit; returns the oldest one if its delivery must be awaited.
    fn add(&mut self, delivered: Receiver<Infallible>) -> Option<Receiver<Infallible>> {
        self.0.push_back(delivered);
        if self.0.len() > DELIVERING_MAX { self.0.pop_front() } else { None }
    }
}

impl Store {
    /// Queues the rest of a commit for the matcher and pushes an empty batch to every thread, which keeps its place
    /// in the order of commits. Called with the locks held. Cost: a few pointers for each thread, locked shard and,
    /// after a removal, partition of the transaction.
    pub(super) fn match_later(
        &self,
        locked: &Locked<'_>,
        Commit { changes, replaced, caller, ticket }: Commit<'_>,
        rest: Rest,
    ) {
        let watches = locked.shards().map(|(number, shard)| (number, shard.watches.clone()));
        let removes = changes.iter().any(Change::removes);
        let partitions = replaced.iter().filter(|_| removes).flat_map(AccessSet::partitions);
        let root = |partition: Partition<'_>| {
            Some((partition.root.to_buf(), locked.root_of(&partition)?.clone()))
        };
        let snapshot =
            Snapshot { watches: watches.collect(), roots: partitions.filter_map(root).collect() };
        let (all_delivered, delivered) = bounded(0);
        let mut threads = Vec::new();
        // Every thread gets an empty batch as a placeholder, since it is not known yet which threads will get events.
        for thread in 0..self.layout.shards() {
            let (sender, events) = bounded(1);
            threads.push(sender);
            self.outlet.push(thread, Batch::pending(events, all_delivered.clone(), ticket));
        }
        let bytes: usize =
            changes.iter().map(|change| change.path.as_path().bytes().len() + CHANGE_BYTES).sum();
        let held = caller.unblocked.is_some().then(|| Held::new(&caller.domain, bytes as u64));
        let unmatched = Unmatched {
            changes,
            rest,
            replaced,
            snapshot,
            global: self.global.load(),
            collapses: !caller.subject.privileged,
            threads,
            delivered,
            _held: held,
        };
        // The matcher lives as long as the store; it is gone only when the threads have ended.
        let _ = self.matcher.send(unmatched);
    }

    /// Finds the events of a commit and sends them to the threads; returns the channel that disconnects when they are
    /// delivered. Cost: linear in the matches; a watch whose domain may see none of the changes costs a look at each
    /// change.
    pub fn find_events(&self, unmatched: Unmatched) -> Receiver<Infallible> {
        let Unmatched { changes, rest, replaced, snapshot, global, collapses, .. } = &unmatched;
        let view = CommitView {
            store: self,
            source: Source::Snapshot(snapshot),
            replaced: replaced.as_ref(),
            changes,
            removes: changes.iter().any(Change::removes),
            collapses: *collapses,
            paths: OnceCell::new(),
            global: Some(global),
            budget: Budget::new(u64::MAX),
            names: Budget::new(rest.names),
        };
        let (found, _) = view.events(rest.first);
        let mut by_thread: Vec<Vec<Event>> = unmatched.threads.iter().map(|_| Vec::new()).collect();
        for event in found {
            if let Some(events) = by_thread.get_mut(usize::from(event.watcher.thread)) {
                events.push(event);
            }
        }
        for ((thread, sender), events) in (0..).zip(&unmatched.threads).zip(by_thread) {
            // A thread that has ended does not receive.
            let _ = sender.send(events);
            self.outlet.wake(thread);
        }
        unmatched.delivered.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matcher_waits_for_the_first_of_two_undelivered_commits() {
        let commits: Vec<_> = (0..4).map(|_| bounded::<Infallible>(0)).collect();
        let mut delivering = Delivering::default();
        let mut add = |commit: usize| delivering.add(commits[commit].1.clone());
        assert!(add(0).is_none() && add(1).is_none());
        assert!(add(2).is_some_and(|first| first.same_channel(&commits[0].1)));
        assert!(add(3).is_some_and(|first| first.same_channel(&commits[1].1)));
    }
}

//! The events of commits that take more looks than a commit may take under its locks ([`super::publish`]). They are
//! found on snapshots taken under the locks, so they are those that would have been found under them; each thread's
//! mailbox keeps the commit's place with an empty batch. The committing thread finds them itself, unless that takes
//! more than [`THREAD_LOOKS_MAX`] looks: then the *matcher* thread does.

use std::cell::OnceCell;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use foldhash::fast::RandomState;

use super::access_set::AccessSet;
use super::commit_view::{CommitView, Found, NAMED_BYTES_MAX, Source};
use super::context::{Caller, Change, Removed};
use super::forest::Locked;
use super::looks::Budget;
use super::node::NodeArc;
use super::publish::Publisher;
use super::{Executed, Store};
use crate::domain::{Held, Ticket};
use crate::sync::Arc;
use crate::types::{Partition, PathBuf, ShardId};
use crate::watch::{Batch, Event, Trie};

/// Maximum number of looks that a thread takes for a commit of its own after the locks are released: a few tenths of a
/// millisecond. Only commits that match thousands of watches exceed it.
pub const THREAD_LOOKS_MAX: u64 = 16_384;

/// Maximum number of commits whose events have been found but not delivered. Each can take a few megabytes, so beyond
/// this number the matcher waits, and with it the guests whose commits are queued.
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

/// A commit whose events are not found yet.
#[must_use]
pub struct Unmatched {
    changes: Vec<Change>,
    found: Found,
    replaced: Option<Box<AccessSet>>,
    snapshot: Snapshot,
    global: Arc<Trie>,
    collapses: bool,
    /// The channels to each thread's empty batch.
    threads: Vec<Sender<Vec<Event>>>,
    /// Disconnected once the last thread has delivered its events.
    delivered: Receiver<Infallible>,
    // The guest's charge for the memory of all this while it waits for the matcher.
    held: Option<Held>,
}

/// A commit whose locks are still held.
pub struct Commit<'a> {
    /// The changes that the commit made.
    pub changes: Vec<Change>,
    /// The events found so far.
    pub found: Found,
    /// The partitions that it replaced, if it is a transaction.
    pub replaced: Option<Box<AccessSet>>,
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
        // A weak reference: the store owns the sender of this queue, so a strong one held while waiting would keep both
        // alive forever.
        let Some(store) = store.upgrade() else { return };
        let first = delivering.find_events(&store, unmatched);
        // The wait below must not keep the store alive.
        drop(store);
        if let Some(delivered) = first {
            // No value is ever sent on this channel: the wait ends when all senders are dropped.
            let _: Result<Infallible, _> = delivered.recv();
        }
    }
}

/// Commits whose events were found but may not be delivered yet, oldest first. A channel disconnects at delivery.
#[derive(Default)]
pub struct Delivering(VecDeque<Receiver<Infallible>>);

impl Delivering {
    /// Finds the events of a commit. Returns the channel of an earlier commit that has to disconnect before the next
    /// call, if any.
    pub fn find_events(
        &mut self,
        store: &Store,
        unmatched: Unmatched,
    ) -> Option<Receiver<Infallible>> {
        self.add(store.publisher.find_events(unmatched))
    }

    /// Adds a commit; returns the oldest one if its delivery must be awaited.
    fn add(&mut self, delivered: Receiver<Infallible>) -> Option<Receiver<Infallible>> {
        self.0.push_back(delivered);
        if self.0.len() > DELIVERING_MAX { self.0.pop_front() } else { None }
    }
}

impl Unmatched {
    /// Returns the subtrees that the commit removed.
    fn removed(&self) -> Vec<Removed> {
        self.changes.iter().flat_map(|change| &change.removed).cloned().collect()
    }

    /// Charges the caller, if it is a guest, until the matcher has found the events.
    fn charge(&mut self, caller: &Caller) {
        let bytes = |change: &Change| change.path.as_path().bytes().len() + CHANGE_BYTES;
        let bytes: usize = self.changes.iter().map(bytes).sum();
        let is_guest = caller.unblocked.is_some();
        self.held = is_guest.then(|| Held::new(&caller.domain, bytes as u64));
    }
}

impl Publisher {
    /// Pushes an empty batch to every thread, which keeps the commit's place in the order of commits. Called with the
    /// locks held. Cost: a few pointers for each thread, locked shard and, after a removal, partition of the
    /// transaction.
    pub fn hold_place(
        &self,
        locked: &Locked<'_>,
        Commit { changes, found, replaced, caller, ticket }: Commit<'_>,
    ) -> Unmatched {
        let watches = locked.shards().map(|(number, shard)| (number, shard.watches.clone()));
        let removes = changes.iter().any(Change::removes);
        let partitions = replaced.iter().filter(|_| removes).flat_map(|set| set.partitions());
        let root = |partition: Partition<'_>| {
            Some((partition.root.to_buf(), locked.root_of(&partition)?.clone()))
        };
        let snapshot =
            Snapshot { watches: watches.collect(), roots: partitions.filter_map(root).collect() };
        let (all_delivered, delivered) = bounded(0);
        let mut threads = Vec::new();
        // Every thread gets an empty batch as a placeholder, since it is not known yet which threads will get events.
        for thread in 0..self.layout.shards() {
            // Room for the only message, so that `deliver` never blocks.
            let (sender, events) = bounded(1);
            threads.push(sender);
            self.outlet.push(thread, Batch::pending(events, all_delivered.clone(), ticket));
        }
        // Loaded under the locks: a watch set after this commit must not see it.
        let (global, collapses) = (self.global.load(), !caller.subject.privileged);
        let held = None;
        Unmatched {
            changes,
            found,
            replaced,
            snapshot,
            global,
            collapses,
            threads,
            delivered,
            held,
        }
    }

    /// Finds the events that were not found under the locks, which the caller has released, or leaves them to the
    /// matcher. Cost: at most [`THREAD_LOOKS_MAX`] looks.
    pub fn conclude(&self, executed: &mut Executed, caller: &Caller) {
        let Some(mut unmatched) = executed.unmatched.take() else { return };
        // Clones: the caller settles the removed nodes now, while the events still depend on them.
        executed.removed = unmatched.removed();
        if self.find(&mut unmatched, self.thread_looks_max) {
            self.deliver(*unmatched);
        } else {
            unmatched.charge(caller);
            // The matcher lives as long as the store; it is gone only when the threads have ended.
            let _ = self.matcher.send(*unmatched);
        }
    }

    /// Finds the events of a commit and sends them to the threads; returns the channel that disconnects when they are
    /// delivered. Cost: the matches; a watch whose domain may know of no change costs a look at each.
    pub fn find_events(&self, mut unmatched: Unmatched) -> Receiver<Infallible> {
        self.find(&mut unmatched, u64::MAX);
        self.deliver(unmatched)
    }

    /// Finds more events of a commit; returns whether these are all, which is so if they take less than `looks`.
    fn find(&self, unmatched: &mut Unmatched, looks: u64) -> bool {
        let Unmatched { changes, found, replaced, snapshot, global, collapses, .. } = unmatched;
        let view = CommitView {
            layout: self.layout,
            registry: &self.registry,
            source: Source::Snapshot(snapshot),
            replaced: replaced.as_deref(),
            changes,
            removes: changes.iter().any(Change::removes),
            collapses: *collapses,
            paths: OnceCell::new(),
            global: Some(global),
            budget: Budget::new(looks),
            // Whole again, as is the search of a commit whose changes collapse (`CommitView::find`).
            names: Budget::new(NAMED_BYTES_MAX),
        };
        view.find(found)
    }

    /// Sends the events of a commit to the threads, into their empty batches; returns as [`Publisher::find_events`].
    fn deliver(&self, unmatched: Unmatched) -> Receiver<Infallible> {
        let mut by_thread: Vec<Vec<Event>> = unmatched.threads.iter().map(|_| Vec::new()).collect();
        for event in unmatched.found.events {
            if let Some(events) = by_thread.get_mut(usize::from(event.watcher.thread)) {
                events.push(event);
            }
        }
        for ((thread, sender), events) in (0..).zip(&unmatched.threads).zip(by_thread) {
            // A thread that has ended does not receive.
            let _ = sender.send(events);
            // Also for a thread without events: its mailbox waits behind the empty batch.
            self.outlet.wake(thread);
        }
        unmatched.delivered
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

//! Changes whose watches are looked for once the commit's locks are released, on a thread of its own, the
//! *matcher*: guests set as many watches on the way to a node as make the search long. What is searched is a
//! snapshot, so the events are those that would have been found under the locks.

use std::cell::OnceCell;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use foldhash::fast::RandomState;

use super::Store;
use super::commit_view::{Budget, CommitView, Source};
use super::context::{Caller, Change};
use super::forest::Locked;
use super::node::NodeArc;
use super::publish::Rest;
use super::touched::TouchedHomes;
use crate::domain::{Held, Ticket};
use crate::sync::Arc;
use crate::watch::{Batch, Event, Trie};
use crate::words::{Home, PathBuf, ShardId};

/// So many commits' events that the matcher found may wait for their delivery. The matcher waits then, and with
/// it the guests that caused the others: what waits takes a few megabytes at most for each.
const DELIVERING_MAX: usize = 2;

/// What a change takes here beside its path, with what it removed.
const CHANGE_BYTES: usize = 256;

/// The watches and nodes that a commit's events depend on.
pub struct Snapshot {
    /// The tries of the shards that were locked.
    watches: Vec<(ShardId, Trie)>,
    /// The homes that a transaction touched, as it left them; empty if that makes no difference.
    roots: HashMap<PathBuf, NodeArc, RandomState>,
}

impl Snapshot {
    /// The watches of a shard of the commit.
    pub fn watches(&self, shard: ShardId) -> Option<&Trie> {
        self.watches.iter().find(|(of, _)| *of == shard).map(|(_, trie)| trie)
    }

    /// The root of a home that the commit touched.
    pub fn root(&self, home: &Home<'_>) -> Option<&NodeArc> {
        self.roots.get(home.root.bytes())
    }
}

/// A commit the events of which are not all found yet.
pub struct Unmatched {
    changes: Vec<Change>,
    rest: Rest,
    replaced: Option<TouchedHomes>,
    snapshot: Snapshot,
    upper: Arc<Trie>,
    collapses: bool,
    /// Where the events of each thread go.
    threads: Vec<Sender<Vec<Event>>>,
    /// Disconnected once the last thread has delivered them.
    delivered: Receiver<Infallible>,
    // What a guest is charged with for all this.
    _held: Option<Held>,
}

/// A commit with its locks held.
pub struct Commit<'a> {
    /// What it changed.
    pub changes: Vec<Change>,
    /// The homes that it replaced, if it is a transaction's.
    pub replaced: Option<TouchedHomes>,
    /// On whose behalf.
    pub caller: &'a Caller,
    /// What a guest's request holds for its events.
    pub ticket: Option<&'a Arc<Ticket>>,
}

/// Where commits go that are matched later. What waits here is bounded by the weight that each has in the
/// mailboxes, where its place is kept: beyond a limit no request is taken.
pub type Matcher = Sender<Unmatched>;

/// A matcher's queue; [`run_matcher`] empties it.
pub fn matcher() -> (Matcher, Receiver<Unmatched>) {
    unbounded()
}

/// Finds the events of the commits that come until the store is gone.
pub fn run_matcher(store: &std::sync::Weak<Store>, queue: &Receiver<Unmatched>) {
    let mut delivering = Delivering::default();
    while let Ok(unmatched) = queue.recv() {
        let Some(store) = store.upgrade() else { return };
        let first = delivering.add(store.find_events(unmatched));
        drop(store);
        if let Some(delivered) = first {
            // The end of the senders is what it waits for.
            let _: Result<Infallible, _> = delivered.recv();
        }
    }
}

/// Commits whose events were found and may not be delivered yet, oldest first: each is disconnected once they are.
#[derive(Default)]
struct Delivering(VecDeque<Receiver<Infallible>>);

impl Delivering {
    /// Adds one; returns the oldest if its delivery has to be waited for.
    fn add(&mut self, delivered: Receiver<Infallible>) -> Option<Receiver<Infallible>> {
        self.0.push_back(delivered);
        if self.0.len() > DELIVERING_MAX { self.0.pop_front() } else { None }
    }
}

impl Store {
    /// Leaves the events of the rest of a commit to the matcher, and keeps their place among the events of
    /// every thread. Called with the locks held. Cost: the homes that a transaction touched.
    pub(super) fn match_later(
        &self,
        locked: &Locked<'_>,
        Commit { changes, replaced, caller, ticket }: Commit<'_>,
        rest: Rest,
    ) {
        let watches = locked.shards().map(|(number, shard)| (number, shard.watches.clone()));
        let removes = changes.iter().any(Change::removes);
        let homes = replaced.iter().filter(|_| removes).flat_map(TouchedHomes::homes);
        let root = |home: Home<'_>| Some((home.root.to_buf(), locked.root_of(&home)?.clone()));
        let snapshot =
            Snapshot { watches: watches.collect(), roots: homes.filter_map(root).collect() };
        let (all_delivered, delivered) = bounded(0);
        let mut threads = Vec::new();
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
            upper: self.upper.load(),
            collapses: !caller.subject.privileged,
            threads,
            delivered,
            _held: held,
        };
        // The matcher lives as long as the store, or the threads have ended.
        let _ = self.matcher.send(unmatched);
    }

    /// Finds the events of a commit and hands them to the threads; returns what is disconnected once they are
    /// delivered. Cost: the matches, and of a watch that may know of no change all changes.
    pub fn find_events(&self, unmatched: Unmatched) -> Receiver<Infallible> {
        let Unmatched { changes, rest, replaced, snapshot, upper, collapses, .. } = &unmatched;
        let view = CommitView {
            store: self,
            source: Source::Snapshot(snapshot),
            replaced: replaced.as_ref(),
            changes,
            removes: changes.iter().any(Change::removes),
            collapses: *collapses,
            paths: OnceCell::new(),
            upper: Some(upper),
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
            // A thread that has ended delivers nothing.
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
    fn matcher_when_events_of_two_commits_are_not_delivered_waits_for_the_first() {
        let commits: Vec<_> = (0..4).map(|_| bounded::<Infallible>(0)).collect();
        let mut delivering = Delivering::default();
        let mut add = |commit: usize| delivering.add(commits[commit].1.clone());
        assert!(add(0).is_none() && add(1).is_none());
        assert!(add(2).is_some_and(|first| first.same_channel(&commits[0].1)));
        assert!(add(3).is_some_and(|first| first.same_channel(&commits[1].1)));
    }
}

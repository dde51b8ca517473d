//! A commit as its watchers see it: which changes they may know of.

use std::cell::{Cell, LazyCell, OnceCell};
use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

use super::context::Change;
use super::forest::Locked;
use super::node::NodeArc;
use super::recipients::{ChangePerms, Recipients};
use super::removed_watches::RemovedWatches;
use super::touched::TouchedHomes;
use super::tree::find;
use super::unmatched::Snapshot;
use super::{Shard, Store};
use crate::watch::{Entries, Entry, Event, Matched, Matches, Nearest, Trie, matches_of};
use crate::words::{Home, Path, ShardId};

/// So many changes of one guest's commit are reported one by one to a watch; of more it learns by one event
/// with its own path. A guest's commit has up to 1,024 changes, and all of them match a watch above: without
/// this bound other guests' watches decide for how long its locks are held. A device has fewer nodes than this.
pub const REPORTED_MAX: u32 = 16;
/// Once a guest's commit has caused so many events, no more of its changes are reported one by one: guests watch
/// each level of a path, so that each change matches many watches.
const REPORTED_EVENTS_MAX: usize = 4096;
/// So many bytes of names of one guest's commit beyond that go to watches of the control domain. No backend has so
/// many nodes, and all guests together fill what its kernel may leave unread.
pub const NAMED_BYTES_MAX: u64 = 64 << 10;

/// Shards under locks, for however long these are held.
pub trait LockedShards {
    /// A shard, if it is locked.
    fn get(&self, shard: ShardId) -> Option<&Shard>;
}

impl LockedShards for Locked<'_> {
    fn get(&self, shard: ShardId) -> Option<&Shard> {
        self.shard(shard)
    }
}

/// Where the watches and nodes of a commit are found.
pub enum Source<'a> {
    /// In the shards, with the commit's locks held.
    Locked(&'a (dyn LockedShards + 'a)),
    /// In what these were when the locks were released.
    Snapshot(&'a Snapshot),
}

impl<'a> Source<'a> {
    /// The watches of a shard of the commit.
    pub fn watches(&self, shard: ShardId) -> Option<&'a Trie> {
        match self {
            Source::Locked(shards) => shards.get(shard).map(|shard| &shard.watches),
            Source::Snapshot(snapshot) => snapshot.watches(shard),
        }
    }

    fn root(&self, home: &Home<'_>) -> Option<&'a NodeArc> {
        match self {
            Source::Locked(shards) => shards.get(home.shard)?.tree.root(home),
            Source::Snapshot(snapshot) => snapshot.root(home),
        }
    }
}

/// A step on the way to a node stands for so many bytes of its path.
pub const STEP_BYTES: usize = 8;

/// How much may be looked at: levels of paths, watches, and removed nodes.
pub struct Budget(Cell<u64>);

impl Budget {
    /// So many looks.
    pub fn new(looks: u64) -> Budget {
        Budget(Cell::new(looks))
    }

    /// Takes `looks` from it; returns whether so many were left.
    pub fn take(&self, looks: usize) -> bool {
        let left = self.0.get().checked_sub(looks as u64);
        self.0.set(left.unwrap_or(0));
        left.is_some()
    }

    /// What is left.
    pub fn left(&self) -> u64 {
        self.0.get()
    }

    /// Whether nothing is left.
    pub fn is_spent(&self) -> bool {
        self.0.get() == 0
    }
}

/// A commit whose events are looked for.
pub struct CommitView<'a> {
    pub store: &'a Store,
    pub source: Source<'a>,
    pub replaced: Option<&'a TouchedHomes>,
    pub changes: &'a [Change],
    /// Some of them removed something.
    pub removes: bool,
    /// Many changes that match one watch of a guest are one event.
    pub collapses: bool,
    /// The paths of `changes`, for [`CommitView::has_changed`].
    pub paths: OnceCell<HashSet<&'a [u8], RandomState>>,
    /// If some of its watches may match.
    pub upper: Option<&'a Trie>,
    /// Once it is spent, what was found of the change in hand is not all.
    pub budget: Budget,
    /// Bytes that names may take of changes beyond [`REPORTED_MAX`] for a watch of the control domain.
    pub names: Budget,
}

/// Where the watches of the change before were found: in the tries of the shards, and in the upper one.
#[derive(Default)]
pub struct WatchCursors<'a> {
    own: Matches<'a, 'a>,
    upper: Matches<'a, 'a>,
    /// By watched path, if its watches may collapse.
    reported: Option<HashMap<*const Entries, Reported<'a>, RandomState>>,
}

/// What the watches on one path have been notified of.
#[derive(Default)]
struct Reported<'a> {
    changes: u32,
    /// After [`REPORTED_MAX`] changes: the entries that later changes may concern.
    open: Option<Vec<OpenEntry<'a>>>,
}

/// An entry that has not collapsed, or of which watches with a smaller depth are not notified.
struct OpenEntry<'a> {
    entry: &'a Entry,
    /// What its event says, once it has collapsed.
    nearest: Option<Nearest>,
}

impl OpenEntry<'_> {
    /// Notifies it of a change that it reaches; returns whether it stays open.
    fn collapse(
        &mut self,
        levels: impl Fn() -> usize,
        recipients: &mut Recipients<'_>,
        perms: ChangePerms<'_>,
        names: &Budget,
    ) -> bool {
        let Some(nearest) = &self.nearest else {
            let nearest = self.entry.depth.map(|_| Nearest::new(levels()));
            if !recipients.collapse(self.entry, perms, names, nearest.clone()) {
                return true;
            }
            self.nearest = nearest.filter(|nearest| nearest.levels() > 0);
            return self.nearest.is_some();
        };
        if recipients.may_know(self.entry, perms) {
            nearest.add(levels());
        }
        nearest.levels() > 0
    }
}

impl<'a> Reported<'a> {
    /// Notifies the watches that a change matches. Cost: the entries, but of those that collapsed and have no depth.
    fn report(
        &mut self,
        matched: &Matched<'a, '_>,
        recipients: &mut Recipients<'_>,
        perms: ChangePerms<'_>,
        view: &CommitView<'_>,
    ) {
        self.changes += 1;
        if self.changes <= REPORTED_MAX && recipients.found() < REPORTED_EVENTS_MAX {
            return report_each(matched, recipients, perms, &view.budget);
        }
        let entries = || matched.entries.iter().map(|entry| OpenEntry { entry, nearest: None });
        let open = self.open.get_or_insert_with(|| entries().collect());
        if view.budget.take(open.len()) {
            open.retain_mut(|open| {
                !matched.reaches(open.entry)
                    || open.collapse(|| matched.levels(), recipients, perms, &view.names)
            });
        }
    }
}

/// Notifies all watches on a path that a change matches.
fn report_each(
    matched: &Matched<'_, '_>,
    recipients: &mut Recipients<'_>,
    perms: ChangePerms<'_>,
    budget: &Budget,
) {
    let entries = matched.entries.iter().take_while(|_| budget.take(1));
    for entry in entries.filter(|entry| matched.reaches(entry)) {
        recipients.notify(entry, perms);
    }
}

impl<'a> CommitView<'a> {
    /// The watches of the shard in which `path` lies, if its lock is held.
    pub fn watches(&self, path: Path<'_>) -> Option<&'a Trie> {
        self.source.watches(self.store.layout.home(path).shard)
    }

    /// The node at `path` before the transaction that changed it; `None` outside of one.
    fn before(&self, path: Path<'_>) -> Option<Option<&NodeArc>> {
        let replaced = self.replaced?;
        let home = self.store.layout.home(path);
        replaced.base(&home).map(|root| find(root, &home, path).node())
    }

    /// Whether `path` is there now, which some change concerns.
    fn is_there(&self, path: Path<'_>) -> bool {
        let home = self.store.layout.home(path);
        !self.removes || find(self.source.root(&home), &home, path).node().is_some()
    }

    /// Whether `path` was only there within a transaction. Cost: twice its depth.
    pub fn never_was(&self, path: Path<'_>) -> bool {
        self.before(path).is_some_and(|before| before.is_none()) && !self.is_there(path)
    }

    /// Whether `path` has a change of its own: its watches are notified once, also if it went with what
    /// is above it and came back.
    pub fn has_changed(&self, path: Path<'_>) -> bool {
        let paths = || self.changes.iter().map(|change| change.path.as_path().bytes()).collect();
        self.paths.get_or_init(paths).contains(path.bytes())
    }

    /// `None` if the path was only there within a transaction: no domain may see that (XSA-115).
    fn perms<'c>(&'c self, change: &'c Change) -> Option<ChangePerms<'c>> {
        let path = change.path.as_path();
        self.budget.take(path.bytes().len() / STEP_BYTES);
        let (before, after) = match self.before(path) {
            None => (change.before.as_ref(), Some(&change.after)),
            Some(before) => {
                let after = Some(&change.after).filter(|_| self.is_there(path));
                (before.map(|node| &node.perms), after)
            }
        };
        (before.is_some() || after.is_some()).then_some([before, after, change.parent.as_ref()])
    }

    /// The events of the changes from `first` on, as far as the budget goes, in the order of the changes; and the
    /// first change whose events are not among them, if there is one.
    pub fn events(&self, first: usize) -> (Vec<Event>, Option<usize>) {
        let mut cursors = WatchCursors::default();
        let mut found = Vec::new();
        for (at, change) in self.changes.iter().enumerate().skip(first) {
            let start = found.len();
            self.matches(change, &mut cursors, &mut found);
            if self.budget.is_spent() {
                found.truncate(start);
                return (found, Some(at));
            }
            found[start..].sort_unstable_by_key(order);
        }
        (found, None)
    }

    /// Adds the events of one change, all of them unless the budget is spent.
    fn matches<'c>(
        &'c self,
        change: &'c Change,
        cursors: &mut WatchCursors<'c>,
        found: &mut Vec<Event>,
    ) {
        let path = change.path.as_path();
        // Most changes of most transactions match no watch.
        let perms = LazyCell::new(|| self.perms(change));
        let mut recipients = Recipients::new(self.store, path, found);
        let collapses = self.collapses && self.changes.len() > REPORTED_MAX as usize;
        let WatchCursors { own, upper, reported } = cursors;
        let mut report = |matched: &Matched<'c, '_>| {
            let Some(perms) = *perms else { return };
            if collapses {
                let reported = reported.get_or_insert_default();
                let reported = reported.entry(std::ptr::from_ref(matched.entries)).or_default();
                reported.report(matched, &mut recipients, perms, self);
            } else {
                report_each(matched, &mut recipients, perms, &self.budget);
            }
        };
        let own = self.source.watches(change.shard).map(|watches| (own, watches));
        for (cursor, watches) in own.into_iter().chain(self.upper.map(|watches| (upper, watches))) {
            self.budget.take(match self.changes {
                [_] => matches_of(watches, path, &mut report),
                _ => cursor.of(watches, path, &mut report),
            });
        }
        if change.removes() && perms.is_some() {
            RemovedWatches::of(self, change).report(found);
        }
    }
}

/// A connection is notified of one change in the order in which it set its watches.
pub fn order(event: &Event) -> (u16, u32, u64) {
    (event.watcher.thread, event.watcher.connection, event.watcher.seq)
}

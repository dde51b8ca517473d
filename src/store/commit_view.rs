//! A commit as its watchers see it: which changes they may know of.

use std::cell::{LazyCell, OnceCell};
use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

use super::context::Change;
use super::forest::Locked;
use super::node::NodeArc;
use super::recipients::{ChangePerms, Recipients};
use super::removed_watches::RemovedWatches;
use super::touched::TouchedHomes;
use super::tree::find;
use super::{Shard, Store};
use crate::sync::Arc;
use crate::watch::{Entries, Entry, Event, Matched, Matches, Trie};
use crate::words::{Path, PermSet};

/// So many changes of one guest's commit are reported one by one to a watch; of more it learns by one event
/// with its own path. A guest's commit has up to 1,024 changes, and all of them match a watch above: without
/// this bound other guests' watches decide for how long its locks are held. A device has fewer nodes than this.
pub const REPORTED_MAX: u32 = 16;

/// A commit with its locks held.
pub struct CommitView<'a, 's> {
    pub store: &'a Store,
    pub locked: &'a Locked<'s>,
    pub replaced: Option<&'a TouchedHomes>,
    pub changes: &'a [Change],
    /// Some of them removed something.
    pub removes: bool,
    /// Many changes that match one watch of a guest are one event.
    pub collapses: bool,
    /// The paths of `changes`, for [`CommitView::has_changed`].
    pub paths: OnceCell<HashSet<&'a [u8], RandomState>>,
    /// If some of its watches may match.
    pub upper: Option<Arc<Trie>>,
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
    /// After [`REPORTED_MAX`] changes: the entries that have not collapsed.
    open: Option<Vec<&'a Entry>>,
    /// Permissions by which none of those may know of a change.
    refused: Option<[*const PermSet; 3]>,
}

impl<'a> Reported<'a> {
    /// Notifies the watches that a change matches. Cost: the entries, but of those that collapsed.
    fn report(
        &mut self,
        matched: &Matched<'a, '_>,
        recipients: &mut Recipients<'_>,
        perms: ChangePerms<'_>,
    ) {
        self.changes += 1;
        if self.changes <= REPORTED_MAX {
            return report_each(matched, recipients, perms);
        }
        let key = perms.map(|perms| perms.map_or(std::ptr::null(), Arc::as_ptr));
        if self.refused == Some(key) {
            return;
        }
        let mut all_refused = true;
        let open = self.open.get_or_insert_with(|| matched.entries.iter().collect());
        open.retain(|entry| {
            let reaches = matched.reaches(entry);
            let collapsed = reaches && recipients.collapse(entry, perms);
            all_refused &= reaches && !recipients.may_know(entry, perms);
            !collapsed
        });
        self.refused = all_refused.then_some(key);
    }
}

/// Notifies all watches on a path that a change matches.
fn report_each(matched: &Matched<'_, '_>, recipients: &mut Recipients<'_>, perms: ChangePerms<'_>) {
    for entry in matched.entries.iter().filter(|entry| matched.reaches(entry)) {
        recipients.notify(entry, perms);
    }
}

impl CommitView<'_, '_> {
    /// The shard in which `path` lies, if its lock is held.
    pub fn shard(&self, path: Path<'_>) -> Option<&Shard> {
        self.locked.shard(self.store.layout.home(path).shard)
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
        let tree = self.locked.shard(home.shard).map(|shard| &shard.tree);
        !self.removes || tree.is_some_and(|tree| tree.get(&home, path).is_some())
    }

    /// Whether `path` was only there within a transaction.
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
        let (before, after) = match self.before(path) {
            None => (change.before.as_ref(), Some(&change.after)),
            Some(before) => {
                let after = Some(&change.after).filter(|_| self.is_there(path));
                (before.map(|node| &node.perms), after)
            }
        };
        (before.is_some() || after.is_some()).then_some([before, after, change.parent.as_ref()])
    }

    /// Adds the events of one change.
    pub fn matches<'c>(
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
                reported.report(matched, &mut recipients, perms);
            } else {
                report_each(matched, &mut recipients, perms);
            }
        };
        if let Some(shard) = self.locked.shard(change.shard) {
            own.of(&shard.watches, path, &mut report);
        }
        if let Some(trie) = &self.upper {
            upper.of(trie, path, &mut report);
        }
        if !change.removed.is_empty() && perms.is_some() {
            RemovedWatches::of(self, change).report(found);
        }
    }
}

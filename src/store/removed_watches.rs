//! The watches below a removed node. Each of these watches is notified that its own path was removed.

use std::collections::HashSet;

use foldhash::fast::RandomState;
use indexmap::IndexMap;
use smallvec::SmallVec;

use super::commit_view::CommitView;
use super::context::{Change, Removed};
use super::looks::{NAME_LOOKS, TABLE_LOOKS, WATCH_LOOKS, WAY_LOOKS, looks_of};
use super::node::Node;
use super::recipients::Recipients;
use crate::types::{Path, PathBuf};
use crate::watch::{Cursor, Entries, Event};

/// The nodes that one change removed, with the watches set exactly on removed paths below its root. The change's own
/// event covers the root.
pub struct RemovedWatches<'c, 'v> {
    view: &'c CommitView<'v>,
    change: &'c Change,
    /// The removed trees by the paths of their roots: a search of the list for each watched path would be quadratic,
    /// with the locks held. A transaction may remove the same path more than once, each time with other contents.
    trees: IndexMap<Path<'c>, SmallVec<[&'c Removed; 1]>, RandomState>,
    /// The paths reported so far; `None` if no path is in several trees.
    reported: Option<HashSet<PathBuf, RandomState>>,
}

/// A removed node on the way to a watched path, or at one.
struct Visit<'c, 't> {
    path: PathBuf,
    cursor: Cursor<'t>,
    node: &'c Node,
    /// The node's parent, if it is in the same tree.
    parent: Option<&'c Node>,
}

impl<'c, 'v> RemovedWatches<'c, 'v> {
    /// Collects what `change` removed, as far as the budget allows.
    pub fn of(view: &'c CommitView<'v>, change: &'c Change) -> RemovedWatches<'c, 'v> {
        let mut trees = IndexMap::<_, SmallVec<[&'c Removed; 1]>, RandomState>::default();
        let removed = change.removed.iter().take_while(|_| view.budget.take(TABLE_LOOKS));
        for removed in removed {
            trees.entry(removed.path.as_path()).or_default().push(removed);
        }
        let reported = (trees.len() < change.removed.len()).then(HashSet::default);
        RemovedWatches { view, change, trees, reported }
    }

    /// Adds their events. If the budget runs out, the events are incomplete.
    pub fn report(&mut self, found: &mut Vec<Event>) {
        for removed in &self.change.removed {
            let path = removed.path.as_path();
            if !self.view.budget.take(looks_of(path)) {
                return;
            }
            let own = self.view.watches(path);
            // Watches on paths that can have partitions below are in the global trie, all others in that of the shard.
            for trie in own.into_iter().chain(self.view.global) {
                if let Some(cursor) = trie.find(path) {
                    self.walk(removed, cursor, found);
                }
            }
        }
    }

    /// Walks a removed tree and the watched paths below its root together, without recursion since guests choose
    /// their depth. Cost: at each level the smaller of both, so neither a large tree without watches nor many watches
    /// below a small tree are expensive.
    fn walk(&mut self, removed: &'c Removed, cursor: Cursor<'_>, found: &mut Vec<Event>) {
        let path = removed.path.clone();
        let mut todo = vec![Visit { path, cursor, node: &removed.root, parent: None }];
        while let Some(visit) = todo.pop() {
            if !self.view.budget.take(NAME_LOOKS) {
                return;
            }
            if let Some(entries) = visit.cursor.entries() {
                self.report_path(&visit, entries, found);
            }
            let Visit { path, cursor, node, .. } = visit;
            let mut go_on = |name: &[u8], child: &'c Node| {
                if let Some(cursor) = cursor.child(name) {
                    let path = path.as_path().child(name);
                    todo.push(Visit { path, cursor, node: child, parent: Some(node) });
                }
            };
            // A child that is the root of another partition is in a removed tree of its own.
            let children = node.children();
            let ways = cursor.len().min(children.len());
            if !self.view.budget.take(ways * WAY_LOOKS) {
                return;
            }
            if cursor.len() <= children.len() {
                let children = cursor.names().filter_map(|name| Some((name, children.get(name)?)));
                children.for_each(|(name, child)| {
                    child.iter().for_each(|child| go_on(name, child));
                });
            } else {
                children.iter().for_each(|(name, child)| {
                    child.iter().for_each(|child| go_on(name.bytes(), child));
                });
            }
        }
    }

    fn report_path(&mut self, visit: &Visit<'c, '_>, entries: &Entries, found: &mut Vec<Event>) {
        let path = visit.path.as_path();
        // The checks below look up the path, and copy it.
        if !self.view.budget.take(TABLE_LOOKS) {
            return;
        }
        if path == self.change.path.as_path()
            || self.view.never_was(path)
            || self.view.has_changed(path)
        {
            return;
        }
        if let Some(reported) = &mut self.reported
            && !reported.insert(visit.path.clone())
        {
            return;
        }
        // The parent of a partition's root is in another removed tree.
        let parent = visit.parent.or_else(|| self.removed_node(path.parent()?));
        let perms = [Some(&visit.node.perms), parent.map(|parent| &parent.perms), None];
        let mut recipients = Recipients::new(self.view.registry, path, &self.view.budget, found);
        let entries = entries.iter().take_while(|_| self.view.budget.take(WATCH_LOOKS));
        entries.for_each(|entry| recipients.notify(entry, perms));
    }

    /// Returns the removed node that was at `path`. The node is in the tree of its partition, or in the change's own
    /// tree if the change's root is below the partition's.
    fn removed_node(&self, path: Path<'_>) -> Option<&'c Node> {
        let partition = self.view.layout.partition(path).root;
        let trees =
            self.trees.get(&partition).or_else(|| self.trees.get(&self.change.path.as_path()))?;
        trees.iter().find_map(|removed| node_in(removed, path))
    }
}

/// Returns the node at `path` in a removed tree.
fn node_in<'c>(removed: &'c Removed, path: Path<'_>) -> Option<&'c Node> {
    let below = path.below(removed.path.as_path())?;
    let mut names = below.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
    names.try_fold(&*removed.root, |node, name| node.children().get(name)?.as_deref())
}

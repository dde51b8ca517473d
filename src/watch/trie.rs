//! Watches by path.

use std::ops::Range;

use super::entries::{Entries, Entry, Watcher};
use crate::sync::Arc;
use crate::words::{Children, FlatDrop, Path};

/// A persistent set of watches: a clone shares everything and costs nothing.
///
/// The tree is path-compressed: a chain of names without a watch or a fork on it is one node. So there are at
/// most twice as many nodes as watched paths, and a path costs what its bytes cost, however many names it has.
#[derive(Clone, Default)]
pub struct Trie {
    root: Arc<TrieNode>,
    /// Above the special paths, which have no slash in front: `@x` and `/@x` are not the same.
    special: Arc<TrieNode>,
    count: usize,
}

/// A watched path, or one where the ways to several part.
#[derive(Clone, Default)]
struct TrieNode {
    /// The names that lead here after the one under which the parent has it, with slashes between.
    rest: Box<[u8]>,
    entries: Entries,
    children: Children<Arc<TrieNode>, false>,
}

thread_local! {
    static NODES: FlatDrop<Children<Arc<TrieNode>, false>> = const { FlatDrop::new() };
}

/// A guest that watches every level of a path makes the trie as deep as that.
impl Drop for TrieNode {
    fn drop(&mut self) {
        if !self.children.is_empty() {
            let children = std::mem::take(&mut self.children);
            NODES.with(|nodes| nodes.drop(children));
        }
    }
}

impl TrieNode {
    /// A node without children, `names` below a place in a trie; the first of them is its parent's to know.
    fn leaf(names: &[u8], entry: Entry) -> TrieNode {
        let mut node = TrieNode::renamed(TrieNode::default(), names.into());
        node.entries.insert(entry);
        node
    }

    /// How far `path` goes on after `end` as the names that lead here: so many bytes of them, and where in
    /// the path these end.
    fn common(&self, path: &[u8], end: usize) -> (usize, usize) {
        let start = end + usize::from(path.get(end) == Some(&b'/'));
        let below = path.get(start..).unwrap_or_default();
        let ends_name = |names: &[u8], at: usize| matches!(names.get(at), None | Some(b'/'));
        // Mostly all of them, which is one comparison of bytes; guests choose paths of a thousand names.
        let mut same = self.rest.len();
        if !below.starts_with(&self.rest) {
            same = self.rest.iter().zip(below).take_while(|(own, other)| own == other).count();
        }
        if !(ends_name(&self.rest, same) && ends_name(below, same)) {
            same = self.rest[..same].iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        }
        (same, if same == 0 { end } else { start + same })
    }

    /// Puts a node after the first `at` bytes of the names that lead here, which leads to this one.
    fn split(&mut self, at: usize) {
        let Some(name) = name_at(&self.rest, at) else { return };
        let mut below = std::mem::take(self);
        let rest = std::mem::take(&mut below.rest);
        below.rest = without_slash(&rest[name.end..]).into();
        self.children.insert(&rest[name], Arc::new(below));
        self.rest = rest[..at].into();
    }

    /// Becomes one with its only child if no watch is set on it.
    fn join(&mut self) {
        if !self.entries.is_empty() || self.children.len() != 1 {
            return;
        }
        let Some((name, child)) = self.children.iter().next() else { return };
        let names = std::mem::take(&mut self.rest).into_vec();
        let rest = with_names(with_names(names, name.bytes()), &child.rest);
        let name = name.clone();
        if let Some(child) = self.children.remove(name.bytes()) {
            *self = TrieNode::renamed(Arc::unwrap_or_clone(child), rest.into());
        }
    }

    /// The child on the way to `path`, of which `end` bytes lead here, and how many lead to that child; `None` if
    /// there is none or the path leaves the way to it.
    fn step(&self, path: &[u8], end: usize) -> Option<(&TrieNode, usize)> {
        let name = name_at(path, end)?;
        let child = self.children.get(&path[name.clone()])?;
        let (same, end) = child.common(path, name.end);
        (same == child.rest.len()).then_some((child, end))
    }

    /// How many bytes of `path` lead from this top to the last node on the way. Guests choose how many nodes that
    /// are, so nothing here recurses.
    fn reach(&self, path: &[u8]) -> usize {
        let (mut node, mut end) = (self, 0);
        while let Some((child, next)) = node.step(path, end) {
            (node, end) = (child, next);
        }
        end
    }

    /// How many lead to the parent of the node at `path`; `None` if there is no such node.
    fn reach_parent(&self, path: &[u8]) -> Option<usize> {
        let (mut node, mut end, mut parent) = (self, 0, 0);
        while name_at(path, end).is_some() {
            let (child, next) = node.step(path, end)?;
            (node, parent, end) = (child, end, next);
        }
        Some(parent)
    }

    /// The node to which `end` bytes of `path` lead, if one is there, to be changed.
    fn reach_mut(&mut self, path: &[u8], end: usize) -> Option<&mut TrieNode> {
        let (mut node, mut reached) = (self, 0);
        while reached < end {
            let name = name_at(path, reached)?;
            node = Arc::make_mut(node.children.get_mut(&path[name.clone()])?);
            reached = node.common(path, name.end).1;
        }
        Some(node)
    }

    /// Adds the entry here or below, where no further node is on the way to it; returns whether it is new.
    fn insert(&mut self, path: &[u8], end: usize, entry: Entry) -> bool {
        let Some(name) = name_at(path, end) else { return self.entries.insert(entry) };
        let Some(child) = self.children.get_mut(&path[name.clone()]) else {
            let leaf = TrieNode::leaf(without_slash(&path[name.end..]), entry);
            self.children.insert(&path[name], Arc::new(leaf));
            return true;
        };
        // The path leaves the way to it: a node where it does is on the way.
        let child = Arc::make_mut(child);
        let (same, end) = child.common(path, name.end);
        child.split(same);
        match name_at(path, end) {
            None => child.entries.insert(entry),
            Some(name) => {
                let leaf = TrieNode::leaf(without_slash(&path[name.end..]), entry);
                child.children.insert(&path[name], Arc::new(leaf));
                true
            }
        }
    }

    /// Removes the entry of this node or of a child of it, and the child if nothing needs it any more.
    fn remove(&mut self, path: &[u8], end: usize, watcher: Watcher) -> bool {
        let Some(name) = name_at(path, end) else { return self.entries.remove(watcher) };
        let Some(child) = self.children.get_mut(&path[name.clone()]) else { return false };
        let child = Arc::make_mut(child);
        let removed = child.entries.remove(watcher);
        if child.is_empty() {
            self.children.remove(&path[name]);
        } else if removed {
            child.join();
        }
        removed
    }

    fn renamed(mut node: TrieNode, rest: Box<[u8]>) -> TrieNode {
        node.rest = rest;
        node
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.children.is_empty()
    }
}

/// A path that leads to a watched one, or is one.
#[derive(Clone, Copy)]
pub struct Cursor<'t> {
    node: &'t TrieNode,
    /// How many bytes of the names that lead to the node were followed; all of them: the path is the node's.
    followed: usize,
}

impl<'t> Cursor<'t> {
    fn is_at_node(self) -> bool {
        self.followed == self.node.rest.len()
    }

    /// The watches set on this path.
    pub fn entries(self) -> Option<&'t Entries> {
        Some(&self.node.entries).filter(|entries| self.is_at_node() && !entries.is_empty())
    }

    /// The path that goes on with `name`, if it leads to watches. Cost: a look-up.
    pub fn child(self, name: &[u8]) -> Option<Cursor<'t>> {
        if self.is_at_node() {
            return Some(Cursor { node: self.node.children.get(name)?, followed: 0 });
        }
        let next = name_at(&self.node.rest, self.followed)?;
        (self.node.rest[next.clone()] == *name)
            .then_some(Cursor { node: self.node, followed: next.end })
    }

    /// How many names go on from here.
    pub fn len(self) -> usize {
        if self.is_at_node() { self.node.children.len() } else { 1 }
    }

    /// Whether no name goes on from here.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The names that go on from here.
    pub fn names(self) -> impl Iterator<Item = &'t [u8]> {
        let between = name_at(&self.node.rest, self.followed).filter(|_| !self.is_at_node());
        let below = self.is_at_node().then(|| self.node.children.iter());
        let between = between.map(|name| &self.node.rest[name]);
        between.into_iter().chain(below.into_iter().flatten().map(|(name, _)| name.bytes()))
    }
}

impl Trie {
    /// How many entries there are: watched paths, each once for each connection.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds an entry, or replaces that of the same connection and path; returns whether it is new. Cost: the
    /// path's length.
    pub fn insert(&mut self, path: Path<'_>, entry: Entry) -> bool {
        let reached = self.top(path).node.reach(path.bytes());
        let node = Arc::make_mut(self.top_mut(path)).reach_mut(path.bytes(), reached);
        let is_new = node.is_some_and(|node| node.insert(path.bytes(), reached, entry));
        self.count += usize::from(is_new);
        is_new
    }

    /// Takes an entry out; `false` if it is not there. Cost: the path's length.
    pub fn remove(&mut self, path: Path<'_>, watcher: Watcher) -> bool {
        let Some(parent) = self.top(path).node.reach_parent(path.bytes()) else { return false };
        let node = Arc::make_mut(self.top_mut(path)).reach_mut(path.bytes(), parent);
        let removed = node.is_some_and(|node| {
            let removed = node.remove(path.bytes(), parent, watcher);
            // No node but the top has one child only and no watch, so that nothing above the parent changes.
            if removed && parent > 0 {
                node.join();
            }
            removed
        });
        self.count -= usize::from(removed);
        removed
    }

    /// Where the way to `path` begins.
    pub(super) fn top(&self, path: Path<'_>) -> Cursor<'_> {
        let node = if path.is_special() { &self.special } else { &self.root };
        Cursor { node, followed: 0 }
    }

    fn top_mut(&mut self, path: Path<'_>) -> &mut Arc<TrieNode> {
        if path.is_special() { &mut self.special } else { &mut self.root }
    }

    /// The place of `path`, if it leads to watches. Cost: its depth.
    pub fn find(&self, path: Path<'_>) -> Option<Cursor<'_>> {
        path.components().try_fold(self.top(path), |cursor, name| cursor.child(name))
    }

    /// The watches set on `path` itself.
    pub fn exact(&self, path: Path<'_>) -> Option<&Entries> {
        self.find(path)?.entries()
    }

    /// Calls `found` for each watched path, with the watches set on it. Cost: all of them.
    pub fn each(&self, mut found: impl FnMut(Path<'_>, &Entries)) {
        let mut todo = vec![(b"/".to_vec(), &self.root), (Vec::new(), &self.special)];
        while let Some((path, node)) = todo.pop() {
            if !node.entries.is_empty()
                && let Ok(path) = Path::parse(&path)
            {
                found(path, &node.entries);
            }
            let below = node.children.iter().map(|(name, child)| {
                (with_names(with_names(path.clone(), name.bytes()), &child.rest), child)
            });
            todo.extend(below);
        }
    }

    /// Makes the count wrong, for tests of the consistency check.
    #[cfg(test)]
    pub fn falsify_len(&mut self) {
        self.count += 1;
    }
}

/// The name that follows what ends at `end`, if one does.
pub(super) fn name_at(path: &[u8], end: usize) -> Option<Range<usize>> {
    let start = end + usize::from(path.get(end) == Some(&b'/'));
    let rest = path.get(start..).filter(|rest| !rest.is_empty())?;
    let len = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
    Some(start..start + len)
}

/// A path, `/`, or nothing, and these names below it.
fn with_names(mut path: Vec<u8>, names: &[u8]) -> Vec<u8> {
    if !names.is_empty() && !matches!(&*path, b"/" | b"") {
        path.push(b'/');
    }
    path.extend_from_slice(names);
    path
}

fn without_slash(names: &[u8]) -> &[u8] {
    names.strip_prefix(b"/").unwrap_or(names)
}

#[cfg(test)]
mod tests;

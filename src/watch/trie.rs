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
    fn common(&self, path: &[u8], mut end: usize) -> (usize, usize) {
        let mut same = 0;
        while let (Some(own), Some(name)) = (name_at(&self.rest, same), name_at(path, end)) {
            if self.rest[own.clone()] != path[name.clone()] {
                break;
            }
            (same, end) = (own.end, name.end);
        }
        (same, end)
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
        let is_new = insert_below(Arc::make_mut(self.top_mut(path)), path.bytes(), 0, entry);
        self.count += usize::from(is_new);
        is_new
    }

    /// Takes an entry out; `false` if it is not there. Cost: the path's length.
    pub fn remove(&mut self, path: Path<'_>, watcher: Watcher) -> bool {
        let removed = remove_below(Arc::make_mut(self.top_mut(path)), path.bytes(), 0, watcher);
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

/// Adds the entry, and the node that is missing; returns whether it is new. `end` bytes of the path lead to
/// the node. Each name is looked up once: the upper trie has one for every domain of the host. The depth of
/// the recursion is at most that of a path, 1,536 levels of a frame each.
fn insert_below(node: &mut TrieNode, path: &[u8], end: usize, entry: Entry) -> bool {
    let Some(name) = name_at(path, end) else { return node.entries.insert(entry) };
    let Some(child) = node.children.get_mut(&path[name.clone()]) else {
        let leaf = TrieNode::leaf(without_slash(&path[name.end..]), entry);
        node.children.insert(&path[name], Arc::new(leaf));
        return true;
    };
    let child = Arc::make_mut(child);
    let (same, end) = child.common(path, name.end);
    child.split(same);
    insert_below(child, path, end, entry)
}

/// Removes the entry and the nodes that nothing needs any more. Recursive as [`insert_below`].
fn remove_below(node: &mut TrieNode, path: &[u8], end: usize, watcher: Watcher) -> bool {
    let Some(name) = name_at(path, end) else { return node.entries.remove(watcher) };
    let Some(child) = node.children.get_mut(&path[name.clone()]) else { return false };
    let (same, end) = child.common(path, name.end);
    if same < child.rest.len() {
        return false;
    }
    let child = Arc::make_mut(child);
    let removed = remove_below(child, path, end, watcher);
    if child.is_empty() {
        node.children.remove(&path[name]);
    } else if removed {
        child.join();
    }
    removed
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

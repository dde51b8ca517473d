//! A persistent trie of watches.

use std::ops::Range;

use super::entries::{Entries, Entry, Watcher};
use crate::sync::Arc;
use crate::types::{Children, FlatDrop, Path};

/// A persistent set of watches by path. A clone is a snapshot and shares everything.
///
/// The trie is path-compressed: a chain of names without a watch or a fork is one node. A guest chooses how many names
/// a path has, and this way a path costs its bytes and at most two nodes, however many names it has. With a node for
/// each name, 1,024 watches on paths of a thousand one-letter names took 170 MB for 2.2 MB of quota.
#[derive(Clone, Default)]
pub struct Trie {
    root: Arc<TrieNode>,
    /// The root of the special paths, which have no slash in front: `@x` and `/@x` differ.
    special: Arc<TrieNode>,
    count: usize,
}

/// A watched path, or the common prefix at which the paths to several diverge.
#[derive(Clone, Default)]
struct TrieNode {
    /// The names that lead here after the one under which the parent holds this node, separated by slashes.
    rest: Box<[u8]>,
    entries: Entries,
    /// In byte order (`false`): clients do not list them, and a look-up among many is cheaper.
    children: Children<Arc<TrieNode>, false>,
}

thread_local! {
    static NODES: FlatDrop<Children<Arc<TrieNode>, false>> = const { FlatDrop::new() };
}

/// Drops nodes without recursion: a guest that watches every level of a path makes the trie as deep as that.
impl Drop for TrieNode {
    fn drop(&mut self) {
        // Leaves need no thread-local.
        if !self.children.is_empty() {
            let children = std::mem::take(&mut self.children);
            NODES.with(|nodes| nodes.drop(children));
        }
    }
}

impl TrieNode {
    /// Creates a node without children; `names` are those after the one under which the parent holds it.
    fn leaf(names: &[u8], entry: Entry) -> TrieNode {
        let mut node = TrieNode::renamed(TrieNode::default(), names.into());
        node.entries.insert(entry);
        node
    }

    /// Returns how far `path`, from byte `end` on, follows the names that lead here: the number of matching bytes of
    /// the names, and where in the path they end.
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

    /// Splits the node: a new one takes its place, reached by the first `at` bytes of its names, and leads to it.
    fn split(&mut self, at: usize) {
        let Some(name) = name_at(&self.rest, at) else { return };
        let mut below = std::mem::take(self);
        let rest = std::mem::take(&mut below.rest);
        below.rest = without_slash(&rest[name.end..]).into();
        self.children.insert(&rest[name], Arc::new(below));
        self.rest = rest[..at].into();
    }

    /// Merges with the only child if no watch is set here. Otherwise a guest that sets and removes watches could leave
    /// chains of nodes behind, for which no account is charged.
    fn join(&mut self) {
        if !self.entries.is_empty() || self.children.len() != 1 {
            return;
        }
        let Some((name, child)) = self.children.iter().next() else { return };
        let names = std::mem::take(&mut self.rest).into_vec();
        let rest = with_names(with_names(names, name.bytes()), &child.rest);
        let name = name.clone();
        if let Some(child) = self.children.remove(name.bytes()) {
            // A snapshot may hold the child, which is then copied.
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

/// A position in a trie: a path that leads to a watched one, or is one. The position may be in the middle of a node's
/// names.
#[derive(Clone, Copy)]
pub struct Cursor<'t> {
    node: &'t TrieNode,
    /// Number of bytes of the node's names that were followed. If all were, the position is the node's own path.
    followed: usize,
}

impl<'t> Cursor<'t> {
    fn is_at_node(self) -> bool {
        self.followed == self.node.rest.len()
    }

    /// Returns the watches set on this path.
    pub fn entries(self) -> Option<&'t Entries> {
        Some(&self.node.entries).filter(|entries| self.is_at_node() && !entries.is_empty())
    }

    /// Returns the position below this one under `name`, if that leads to watches. Cost: a look-up.
    pub fn child(self, name: &[u8]) -> Option<Cursor<'t>> {
        if self.is_at_node() {
            return Some(Cursor { node: self.node.children.get(name)?, followed: 0 });
        }
        let next = name_at(&self.node.rest, self.followed)?;
        (self.node.rest[next.clone()] == *name)
            .then_some(Cursor { node: self.node, followed: next.end })
    }

    /// Returns the number of names by which the trie continues below this position.
    pub fn len(self) -> usize {
        if self.is_at_node() { self.node.children.len() } else { 1 }
    }

    /// Returns whether the trie has no name below this position.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Returns the names by which the trie continues below this position.
    pub fn names(self) -> impl Iterator<Item = &'t [u8]> {
        let between = name_at(&self.node.rest, self.followed).filter(|_| !self.is_at_node());
        let below = self.is_at_node().then(|| self.node.children.iter());
        let between = between.map(|name| &self.node.rest[name]);
        between.into_iter().chain(below.into_iter().flatten().map(|(name, _)| name.bytes()))
    }
}

impl Trie {
    /// Returns the number of entries: each watched path once for each connection.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns whether there are no entries.
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

    /// Removes an entry; returns `false` if it does not exist. Cost: the path's length.
    pub fn remove(&mut self, path: Path<'_>, watcher: Watcher) -> bool {
        let removed = remove_below(Arc::make_mut(self.top_mut(path)), path.bytes(), 0, watcher);
        self.count -= usize::from(removed);
        removed
    }

    /// Returns the position at which every path of the kind of `path` starts.
    pub(super) fn top(&self, path: Path<'_>) -> Cursor<'_> {
        let node = if path.is_special() { &self.special } else { &self.root };
        Cursor { node, followed: 0 }
    }

    fn top_mut(&mut self, path: Path<'_>) -> &mut Arc<TrieNode> {
        if path.is_special() { &mut self.special } else { &mut self.root }
    }

    /// Returns the position of `path`, if it leads to watches. Cost: its depth.
    pub fn find(&self, path: Path<'_>) -> Option<Cursor<'_>> {
        path.components().try_fold(self.top(path), |cursor, name| cursor.child(name))
    }

    /// Returns the watches set on `path` itself.
    pub fn exact(&self, path: Path<'_>) -> Option<&Entries> {
        self.find(path)?.entries()
    }

    /// Calls `found` for each watched path, with the watches set on it. Cost: visits all watched paths.
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

    /// Corrupts the count, for tests of the consistency check.
    #[cfg(test)]
    pub fn falsify_len(&mut self) {
        self.count += 1;
    }
}

/// Adds the entry, and the node if it is missing; returns whether the entry is new. `end` bytes of the path lead to the
/// node. The function recurses so that each name is looked up once: the global watch trie has a name for every domain
/// of the host. The depth is at most that of a path, 1,536 levels of a frame each.
fn insert_below(node: &mut TrieNode, path: &[u8], end: usize, entry: Entry) -> bool {
    let Some(name) = name_at(path, end) else { return node.entries.insert(entry) };
    let Some(child) = node.children.get_mut(&path[name.clone()]) else {
        let leaf = TrieNode::leaf(without_slash(&path[name.end..]), entry);
        node.children.insert(&path[name], Arc::new(leaf));
        return true;
    };
    let child = Arc::make_mut(child);
    let (same, end) = child.common(path, name.end);
    // A no-op if all of the child's names match.
    child.split(same);
    insert_below(child, path, end, entry)
}

/// Removes the entry and the nodes that are no longer needed. Recursive as [`insert_below`].
fn remove_below(node: &mut TrieNode, path: &[u8], end: usize, watcher: Watcher) -> bool {
    let Some(name) = name_at(path, end) else { return node.entries.remove(watcher) };
    let Some(child) = node.children.get_mut(&path[name.clone()]) else { return false };
    let (same, end) = child.common(path, name.end);
    // The path ends or diverges within the child's names, where no watch is set.
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

/// Returns the range of the name that follows byte `end` of `path`, if there is one.
pub(super) fn name_at(path: &[u8], end: usize) -> Option<Range<usize>> {
    let start = end + usize::from(path.get(end) == Some(&b'/'));
    let rest = path.get(start..).filter(|rest| !rest.is_empty())?;
    let len = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
    Some(start..start + len)
}

/// Appends names to a path, to `/`, or to nothing.
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

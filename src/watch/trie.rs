//! Watches by path.

use smallvec::SmallVec;

use crate::sync::Arc;
use crate::words::{Children, Domid, Path, PathBuf};

/// Names one watch of one connection, on the thread that serves it. Nothing is promised about its
/// still existing: `seq` never comes twice, so whoever finds another there drops the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watcher {
    /// The thread.
    pub thread: u16,
    /// The connection's place on that thread.
    pub connection: u32,
    /// The watch's place in that connection.
    pub watch: u32,
    /// Rises with every watch set on the thread: the order in which a connection's are told.
    pub seq: u64,
}

/// A watch as the trie holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whom to tell.
    pub watcher: Watcher,
    /// Whose permissions decide whether it is told.
    pub domid: Domid,
    /// How many levels below its path it reaches; `None` for all (xenstore.txt, WATCH).
    pub depth: Option<u16>,
}

/// A persistent set of watches: a clone shares everything and costs nothing.
#[derive(Clone, Default)]
pub struct Trie {
    root: Arc<TrieNode>,
    /// Above the special paths, which have no slash in front: `@x` and `/@x` are not the same.
    special: Arc<TrieNode>,
    count: usize,
}

#[derive(Clone, Default)]
pub(super) struct TrieNode {
    entries: Entries,
    children: Children<Arc<TrieNode>>,
}

impl TrieNode {
    /// The watches set on it.
    pub(super) fn entries(&self) -> &Entries {
        &self.entries
    }

    /// The one below it that is called `name`.
    pub(super) fn child(&self, name: &[u8]) -> Option<&TrieNode> {
        self.children.get(name).map(|child| &**child)
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.children.is_empty()
    }
}

impl Trie {
    /// How many watches there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a watch. Cost: the path's depth.
    pub fn insert(&mut self, path: Path<'_>, entry: Entry) {
        insert_below(Arc::make_mut(self.above_mut(path)), &mut path.components(), entry);
        self.count += 1;
    }

    /// Takes a watch out; `false` if it is not there. Cost: the path's depth.
    pub fn remove(&mut self, path: Path<'_>, watcher: Watcher) -> bool {
        let names: SmallVec<[&[u8]; 16]> = path.components().collect();
        let removed = remove_below(Arc::make_mut(self.above_mut(path)), &names, watcher);
        self.count -= usize::from(removed);
        removed
    }

    /// Calls `found` for each watch set on `path` itself.
    pub fn exact(&self, path: Path<'_>, found: impl FnMut(&Entry)) {
        if let Some(node) = self.node(path) {
            node.entries.each(found);
        }
    }

    /// Calls `found` for each watched path strictly below `path`, with the watches set on it, in no
    /// particular order. Cost: the watches and watched paths below.
    pub fn below(&self, path: Path<'_>, mut found: impl FnMut(Path<'_>, &Entries)) {
        if let Some(node) = self.node(path) {
            walk(path.to_buf(), node, &mut found);
        }
    }

    /// Calls `found` for each watched path, with the watches set on it. Cost: all of them.
    pub fn each(&self, mut found: impl FnMut(Path<'_>, &Entries)) {
        if !self.root.entries.is_empty() {
            found(Path::ROOT, &self.root.entries);
        }
        self.below(Path::ROOT, &mut found);
        for (name, node) in self.special.children.iter() {
            let Ok(path) = Path::parse(name.bytes()) else { continue };
            if !node.entries.is_empty() {
                found(path, &node.entries);
            }
            walk(path.to_buf(), node, &mut found);
        }
    }

    /// Makes the count wrong, for tests of the consistency check.
    #[cfg(test)]
    pub fn falsify_len(&mut self) {
        self.count += 1;
    }

    /// Where the way to `path` begins.
    pub(super) fn above(&self, path: Path<'_>) -> &Arc<TrieNode> {
        if path.is_special() { &self.special } else { &self.root }
    }

    fn above_mut(&mut self, path: Path<'_>) -> &mut Arc<TrieNode> {
        if path.is_special() { &mut self.special } else { &mut self.root }
    }

    fn node(&self, path: Path<'_>) -> Option<&TrieNode> {
        let mut node = self.above(path);
        for name in path.components() {
            node = node.children.get(name)?;
        }
        Some(node)
    }
}

/// Visits what is watched below `node`, which is at `path`.
fn walk(path: PathBuf, node: &TrieNode, found: &mut impl FnMut(Path<'_>, &Entries)) {
    let mut stack = vec![(path, node)];
    while let Some((path, node)) = stack.pop() {
        for (name, child) in node.children.iter() {
            let path = path.as_path().child(name.bytes());
            if !child.entries.is_empty() {
                found(path.as_path(), &child.entries);
            }
            stack.push((path, child));
        }
    }
}

/// Adds the watch, and the nodes that are missing. Each name is looked up once: the upper trie has one
/// for every domain of the host. The depth of the recursion is that of a watched path, at most 1,536
/// levels of a frame each.
fn insert_below<'a>(node: &mut TrieNode, names: &mut impl Iterator<Item = &'a [u8]>, entry: Entry) {
    let Some(name) = names.next() else { return node.entries.insert(entry) };
    if let Some(child) = node.children.get_mut(name) {
        return insert_below(Arc::make_mut(child), names, entry);
    }
    let mut child = TrieNode::default();
    insert_below(&mut child, names, entry);
    node.children.insert(name, Arc::new(child));
}

/// Removes the watch and the nodes that it leaves empty. Recursive as [`insert_below`].
fn remove_below(node: &mut TrieNode, names: &[&[u8]], watcher: Watcher) -> bool {
    let Some((name, rest)) = names.split_first() else {
        return node.entries.remove(watcher);
    };
    let Some(child) = node.children.get_mut(name) else { return false };
    let child = Arc::make_mut(child);
    let removed = remove_below(child, rest, watcher);
    if child.is_empty() {
        node.children.remove(name);
    }
    removed
}

/// From here on a path's watches are a map: everybody may watch `@releaseDomain`.
const FEW_MAX: usize = 32;

/// The watches set on one path.
#[derive(Clone)]
pub enum Entries {
    /// Most watched paths have one watch.
    Few(SmallVec<[Entry; 1]>),
    /// More than `FEW_MAX`: a change beside a snapshot must not copy them all.
    Many(im::OrdMap<Watcher, Entry>),
}

impl Default for Entries {
    fn default() -> Entries {
        Entries::Few(SmallVec::new())
    }
}

impl Entries {
    /// All of them, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        let (few, many) = match self {
            Entries::Few(few) => (Some(few), None),
            Entries::Many(many) => (None, Some(many)),
        };
        let few = few.into_iter().flatten();
        few.chain(many.into_iter().flat_map(|many| many.values()))
    }

    /// Calls `found` for all of them, in no particular order.
    pub(super) fn each(&self, found: impl FnMut(&Entry)) {
        match self {
            Entries::Few(few) => few.iter().for_each(found),
            Entries::Many(many) => many.values().for_each(found),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        match self {
            Entries::Few(few) => few.is_empty(),
            Entries::Many(many) => many.is_empty(),
        }
    }

    fn insert(&mut self, entry: Entry) {
        match self {
            Entries::Few(few) if few.len() < FEW_MAX => few.push(entry),
            Entries::Few(few) => {
                let all = few.drain(..).chain([entry]);
                *self = Entries::Many(all.map(|entry| (entry.watcher, entry)).collect());
            }
            Entries::Many(many) => {
                many.insert(entry.watcher, entry);
            }
        }
    }

    fn remove(&mut self, watcher: Watcher) -> bool {
        match self {
            Entries::Few(few) => {
                let at = few.iter().position(|entry| entry.watcher == watcher);
                at.map(|at| few.remove(at)).is_some()
            }
            Entries::Many(many) => many.remove(&watcher).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Matches;
    use super::*;
    use proptest::prelude::*;

    fn entry(seq: u64, depth: Option<u16>) -> Entry {
        let watcher = Watcher { thread: 0, connection: 0, watch: 0, seq };
        Entry { watcher, domid: Domid(1), depth }
    }

    fn found(trie: &Trie, path: &str) -> Vec<u64> {
        let mut seqs = Vec::new();
        let path = Path::parse(path.as_bytes()).unwrap();
        Matches::default().of(trie, path, |entry| seqs.push(entry.watcher.seq));
        seqs.sort_unstable();
        seqs
    }

    #[test]
    fn depth_limits_how_far_below_a_watch_reaches() {
        let mut trie = Trie::default();
        let path = |text: &'static str| Path::parse(text.as_bytes()).unwrap();
        trie.insert(path("/a"), entry(1, None));
        trie.insert(path("/a"), entry(2, Some(0)));
        trie.insert(path("/a"), entry(3, Some(1)));
        trie.insert(path("/"), entry(4, Some(1)));
        assert_eq!(found(&trie, "/a"), [1, 2, 3, 4]);
        assert_eq!(found(&trie, "/a/b"), [1, 3]);
        assert_eq!(found(&trie, "/a/b/c"), [1]);
        assert_eq!(found(&trie, "/ab"), [4]);
    }

    #[test]
    fn everything_watched_is_visited_and_nothing_else() {
        let mut trie = Trie::default();
        let path = |text: &'static str| Path::parse(text.as_bytes()).unwrap();
        let watched = ["/", "/a/b", "@releaseDomain", "@releaseDomain/7", "@introduceDomain/7"];
        for (seq, text) in (0..).zip(watched) {
            assert_eq!(trie.is_empty(), seq == 0);
            trie.insert(path(text), entry(seq, None));
        }
        let each = |trie: &Trie| {
            let mut found = Vec::new();
            trie.each(|path, entries| {
                found.extend(entries.iter().map(|entry| entry.watcher.seq));
                assert!(!entries.is_empty(), "{path:?}");
            });
            found.sort_unstable();
            found
        };
        assert_eq!(each(&trie), [0, 1, 2, 3, 4]);
        for (seq, text) in (0..).zip(watched) {
            assert!(trie.remove(path(text), entry(seq, None).watcher));
        }
        assert_eq!(each(&trie), [0; 0]);
        // What leads to no watch any more is not kept.
        assert!(trie.root.children.is_empty() && trie.special.children.is_empty());
    }

    fn arb_path() -> impl Strategy<Value = String> {
        prop::collection::vec("[ab]", 0..5).prop_map(|names| format!("/{}", names.join("/")))
    }

    proptest! {
        #[test]
        fn finds_what_a_list_would(
            steps in prop::collection::vec((any::<bool>(), arb_path(), prop::option::of(0u16..3)), 1..60),
            probe in arb_path(),
        ) {
            let mut trie = Trie::default();
            let mut list: Vec<(String, Entry)> = Vec::new();
            for (seq, (insert, path, depth)) in (0..).zip(steps) {
                let parsed = Path::parse(path.as_bytes()).unwrap();
                if insert {
                    trie.insert(parsed, entry(seq, depth));
                    list.push((path, entry(seq, depth)));
                } else if let Some(at) = list.iter().position(|(other, _)| *other == path) {
                    let (_, gone) = list.remove(at);
                    prop_assert!(trie.remove(parsed, gone.watcher));
                    prop_assert!(!trie.remove(parsed, gone.watcher));
                }
                prop_assert_eq!(trie.len(), list.len());
            }
            let at = Path::parse(probe.as_bytes()).unwrap();
            let mut expected: Vec<u64> = list.iter().filter(|(path, entry)| {
                let below = at.below(Path::parse(path.as_bytes()).unwrap());
                below.is_some_and(|rest| {
                    let levels = rest.split(|&b| b == b'/').filter(|name| !name.is_empty()).count();
                    entry.depth.is_none_or(|depth| levels <= usize::from(depth))
                })
            }).map(|(_, entry)| entry.watcher.seq).collect();
            expected.sort_unstable();
            prop_assert_eq!(found(&trie, &probe), expected);
            let mut below = Vec::new();
            trie.below(at, |_, entries| below.extend(entries.iter().map(|entry| entry.watcher.seq)));
            below.sort_unstable();
            let mut expected: Vec<u64> = list.iter()
                .filter(|(path, _)| *path != probe && Path::parse(path.as_bytes()).unwrap().is_within(at))
                .map(|(_, entry)| entry.watcher.seq).collect();
            expected.sort_unstable();
            prop_assert_eq!(below, expected);
        }
    }
}

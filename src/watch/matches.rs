//! Which watches changes concern.

use std::cell::LazyCell;
use std::ops::Range;

use smallvec::SmallVec;

use super::trie::{Entry, Trie, TrieNode};
use crate::words::Path;

/// Finds the watches of one path after the other. A commit's changes are neighbours mostly: what a path
/// has in common with the one before is not looked up again.
#[derive(Default)]
pub struct Matches<'t, 'p> {
    /// Where the path before was looked for.
    trie: Option<&'t Trie>,
    last: &'p [u8],
    /// The nodes on the way to it, the root first, each with where its name ends in the path.
    way: SmallVec<[(&'t TrieNode, usize); 8]>,
    /// Where the first name ends that there is no node for.
    missing: Option<usize>,
}

impl<'t, 'p> Matches<'t, 'p> {
    /// Calls `found` for each watch in `trie` on `path` or an ancestor of it whose depth reaches `path`.
    /// Cost: the path's depth.
    pub fn of(&mut self, trie: &'t Trie, path: Path<'p>, mut found: impl FnMut(&Entry)) {
        self.go_to(trie, path);
        // Few watches have a depth, and most paths need not be counted.
        let depth = LazyCell::new(|| path.components().count());
        for (level, (node, _)) in self.way.iter().enumerate() {
            let reaches = |limit: u16| *depth - level <= usize::from(limit);
            node.entries().each(|entry| {
                if entry.depth.is_none_or(reaches) {
                    found(entry);
                }
            });
        }
    }

    /// Goes back to what this path and the last one have in common, and from there as far as there are
    /// nodes.
    fn go_to(&mut self, trie: &'t Trie, path: Path<'p>) {
        let bytes = path.bytes();
        let last = std::mem::replace(&mut self.last, bytes);
        let is_same = self.trie.replace(trie).is_some_and(|last| std::ptr::eq(last, trie));
        // Special paths have a root of their own, which is no part of their bytes.
        if !is_same || path.is_special() || last.first() == Some(&b'@') {
            self.way.clear();
            self.missing = None;
        }
        let in_common = |end: usize| {
            bytes.get(..end) == last.get(..end) && matches!(bytes.get(end), None | Some(b'/'))
        };
        if self.missing.is_some_and(in_common) {
            return;
        }
        self.missing = None;
        while self.way.last().is_some_and(|(_, end)| !in_common(*end)) {
            self.way.pop();
        }
        let (mut node, mut end) = self.way.last().copied().unwrap_or((trie.above(path), 0));
        if self.way.is_empty() {
            self.way.push((node, end));
        }
        while let Some(name) = name_at(bytes, end) {
            end = name.end;
            let Some(child) = node.child(&bytes[name]) else {
                self.missing = Some(end);
                return;
            };
            node = child;
            self.way.push((node, end));
        }
    }
}

/// The name that follows what ends at `end`, if one does.
fn name_at(path: &[u8], end: usize) -> Option<Range<usize>> {
    let start = end + usize::from(path.get(end) == Some(&b'/'));
    let rest = path.get(start..).filter(|rest| !rest.is_empty())?;
    let len = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
    Some(start..start + len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Watcher;
    use super::*;
    use crate::words::{Domid, PathBuf};

    fn arb_path() -> impl Strategy<Value = PathBuf> {
        let names = prop::collection::vec("[ab]{1,2}", 0..5).prop_map(|names| names.join("/"));
        ("[/@]", names).prop_filter_map("no path", |(first, names)| {
            Some(Path::parse(format!("{first}{names}").as_bytes()).ok()?.to_buf())
        })
    }

    proptest! {
        #[test]
        fn which_paths_came_before_makes_no_difference(
            watched in prop::collection::vec((arb_path(), prop::option::of(0u16..3)), 0..20),
            asked in prop::collection::vec((arb_path(), any::<bool>()), 1..20),
        ) {
            let mut trie = Trie::default();
            for (seq, (path, depth)) in (0..).zip(&watched) {
                let watcher = Watcher { thread: 0, connection: 0, watch: 0, seq };
                trie.insert(path.as_path(), Entry { watcher, domid: Domid(1), depth: *depth });
            }
            let other = trie.clone();
            let mut one = Matches::default();
            for (path, in_other) in &asked {
                let (mut found, mut alone) = (Vec::new(), Vec::new());
                let trie = if *in_other { &other } else { &trie };
                one.of(trie, path.as_path(), |entry| found.push(entry.watcher.seq));
                Matches::default().of(trie, path.as_path(), |entry| alone.push(entry.watcher.seq));
                prop_assert_eq!(found, alone, "{:?} of {:?}", path, asked);
            }
        }
    }
}

//! The search for the watches that changes concern.

use std::cell::LazyCell;

use smallvec::SmallVec;

use super::entries::{Entries, Entry};
use super::trie::{Cursor, Trie, name_at};
use crate::types::Path;

/// A search for the watches of one path after another. Consecutive changes of a commit are mostly neighbours, so it
/// does not repeat the descent along the path's common part with the previous one.
#[derive(Default)]
pub struct Matches<'t, 'p> {
    /// The trie in which the previous path was searched.
    trie: Option<&'t Trie>,
    last: &'p [u8],
    /// The positions in the trie along the previous path, the root first, each with the offset at which its name ends
    /// in the path.
    way: SmallVec<[(Cursor<'t>, usize); 8]>,
    /// Where in the path the first name ends that leads to no watch.
    missing: Option<usize>,
}

/// The watches on one path, for a change at or below it.
pub struct Matched<'t, 'd> {
    /// All watches on the path.
    pub entries: &'t Entries,
    /// Computes how many levels the change is below the path.
    levels: &'d dyn Fn() -> usize,
}

impl Matched<'_, '_> {
    /// Returns whether the watches of `entry` reach down to the change.
    pub fn reaches(&self, entry: &Entry) -> bool {
        entry.depth.is_none_or(|limit| self.levels() <= usize::from(limit))
    }

    /// Returns how many levels the change is below the path. Cost: the path's length, once.
    pub fn levels(&self) -> usize {
        (self.levels)()
    }
}

/// Calls `found` for each watched path in `trie` that is `path` or an ancestor of it, as long as it returns `true`;
/// returns how many levels of the path lead to watches, and stops after `max`. For a single path, which has no
/// neighbours to share a descent with. Cost: the path's depth.
pub fn matches_of<'t>(
    trie: &'t Trie,
    path: Path<'_>,
    max: usize,
    mut found: impl FnMut(&Matched<'t, '_>) -> bool,
) -> usize {
    let bytes = path.bytes();
    // Counted once, and only if a watch has a depth.
    let depth = LazyCell::new(|| path.components().count());
    let (mut cursor, mut end, mut level) = (trie.top(path), 0, 0);
    loop {
        if let Some(entries) = cursor.entries()
            && !found(&Matched { entries, levels: &|| *depth - level })
        {
            return level;
        }
        level += 1;
        let Some(name) = name_at(bytes, end).filter(|_| level < max) else { return level };
        end = name.end;
        let Some(child) = cursor.child(&bytes[name]) else { return level };
        cursor = child;
    }
}

impl<'t, 'p> Matches<'t, 'p> {
    /// Calls `found` for each watched path in `trie` that is `path` or an ancestor of it; returns how many levels
    /// of the path lead to watches, and how many names were looked up. After `max` of these the search is given up.
    /// Cost: the path's depth.
    pub fn of(
        &mut self,
        trie: &'t Trie,
        path: Path<'p>,
        max: usize,
        mut found: impl FnMut(&Matched<'t, '_>),
    ) -> (usize, usize) {
        let looked_up = self.go_to(trie, path, max);
        if looked_up == max {
            return (self.way.len(), looked_up);
        }
        // Computed on demand: few watches have a depth.
        let depth = LazyCell::new(|| path.components().count());
        for (level, (cursor, _)) in self.way.iter().enumerate() {
            if let Some(entries) = cursor.entries() {
                found(&Matched { entries, levels: &|| *depth - level });
            }
        }
        (self.way.len(), looked_up)
    }

    /// Moves the position to `path`: back to the common part with the previous path, then down as far as names lead
    /// to watches, but looks up at most `max`. Returns the number of those looked up.
    fn go_to(&mut self, trie: &'t Trie, path: Path<'p>, max: usize) -> usize {
        let bytes = path.bytes();
        let last = std::mem::replace(&mut self.last, bytes);
        let is_same = self.trie.replace(trie).is_some_and(|last| std::ptr::eq(last, trie));
        // Special paths have a root of their own, which is not in their bytes.
        if !is_same || path.is_special() || last.first() == Some(&b'@') {
            self.way.clear();
            self.missing = None;
        }
        let in_common = |end: usize| {
            // The common part must end with a name: `/ab` is not below `/a`.
            bytes.get(..end) == last.get(..end) && matches!(bytes.get(end), None | Some(b'/'))
        };
        // The missing name is on the way to this path too, so nothing below the present position can match.
        if self.missing.is_some_and(in_common) {
            return 0;
        }
        self.missing = None;
        while self.way.last().is_some_and(|(_, end)| !in_common(*end)) {
            self.way.pop();
        }
        let (mut cursor, mut end) = self.way.last().copied().unwrap_or((trie.top(path), 0));
        if self.way.is_empty() {
            self.way.push((cursor, end));
        }
        let mut looked_up = 0;
        while looked_up < max
            && let Some(name) = name_at(bytes, end)
        {
            (end, looked_up) = (name.end, looked_up + 1);
            let Some(child) = cursor.child(&bytes[name]) else {
                self.missing = Some(end);
                break;
            };
            cursor = child;
            self.way.push((cursor, end));
        }
        looked_up
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::entries::tests::entry;
    use super::*;
    use crate::types::PathBuf;

    fn arb_path() -> impl Strategy<Value = PathBuf> {
        let names = prop::collection::vec("[ab]{1,2}", 0..5).prop_map(|names| names.join("/"));
        ("[/@]", names).prop_filter_map("no path", |(first, names)| {
            Some(Path::parse(format!("{first}{names}").as_bytes()).ok()?.to_buf())
        })
    }

    proptest! {
        #[test]
        fn matches_do_not_depend_on_earlier_paths(
            watched in prop::collection::vec((arb_path(), prop::option::of(0u16..3)), 0..20),
            asked in prop::collection::vec((arb_path(), any::<bool>()), 1..20),
        ) {
            let mut trie = Trie::default();
            for (seq, (path, depth)) in (0..).zip(&watched) {
                trie.insert(path.as_path(), entry(seq, *depth));
            }
            let other = trie.clone();
            let mut one = Matches::default();
            for (path, in_other) in &asked {
                let (mut found, mut alone) = (Vec::new(), Vec::new());
                let trie = if *in_other { &other } else { &trie };
                let reaching = |matched: &Matched<'_, '_>, seqs: &mut Vec<u64>| {
                    let reaching = matched.entries.iter().filter(|entry| matched.reaches(entry));
                    seqs.extend(reaching.map(|entry| entry.watcher.seq));
                };
                one.of(trie, path.as_path(), usize::MAX, |matched| reaching(matched, &mut found));
                let levels = matches_of(trie, path.as_path(), usize::MAX, |matched| {
                    reaching(matched, &mut alone);
                    true
                });
                prop_assert_eq!((found, one.way.len()), (alone, levels), "{:?} of {:?}", path, asked);
            }
        }
    }
}

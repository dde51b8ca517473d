use super::super::Matches;
use super::super::entries::tests::entry;
use super::*;
use crate::types::ABS_PATH_MAX;
use proptest::prelude::*;

fn found(trie: &Trie, path: &str) -> Vec<u64> {
    let mut seqs = Vec::new();
    let path = Path::parse(path.as_bytes()).unwrap();
    Matches::default().of(trie, path, usize::MAX, |matched| {
        let reaching = matched.entries.iter().filter(|entry| matched.reaches(entry));
        seqs.extend(reaching.map(|entry| entry.watcher.seq));
    });
    seqs.sort_unstable();
    seqs
}

/// Returns the number of nodes of a trie and of bytes of the names that they hold.
fn size(trie: &Trie) -> (usize, usize) {
    let mut todo = vec![&trie.root, &trie.special];
    let mut size = (0, 0);
    while let Some(node) = todo.pop() {
        size = (size.0 + 1, size.1 + node.rest.len());
        todo.extend(node.children.iter().map(|(_, child)| child));
    }
    size
}

#[test]
fn chain_of_names_is_one_trie_node_until_paths_diverge() {
    let mut trie = Trie::default();
    let deep = format!("/a{}", "/b".repeat(1000));
    let path = |text: &str| Path::parse(text.as_bytes()).unwrap().to_buf();
    let beside = format!("/a{}/c", "/b".repeat(400));
    let above = format!("/a{}", "/b".repeat(700));
    for (seq, (text, nodes)) in (0..).zip([(&deep, 3), (&beside, 5), (&above, 6)]) {
        trie.insert(path(text).as_path(), entry(seq, None));
        assert_eq!(size(&trie).0, nodes);
    }
    assert!(size(&trie).1 <= deep.len() + beside.len());
    assert_eq!(found(&trie, &format!("{deep}/x")), [0, 2]);
    for (seq, (text, nodes)) in (0..).zip([(&deep, 5), (&beside, 3), (&above, 2)]) {
        assert!(trie.remove(path(text).as_path(), entry(seq, None).watcher));
        assert_eq!(size(&trie).0, nodes);
    }
}

#[test]
fn an_entry_of_the_same_connection_and_path_is_replaced() {
    let mut trie = Trie::default();
    for connection in 0..100 {
        for seq in [1, 2] {
            let mut entry = entry(seq, None);
            (entry.watcher.connection, entry.watcher.group) = (connection, 0);
            trie.insert(Path::ROOT, entry);
            assert_eq!(trie.len(), connection as usize + 1);
        }
    }
    let seqs = trie.exact(Path::ROOT).unwrap().iter().map(|entry| entry.watcher.seq);
    assert!(seqs.eq([2; 100]));
}

#[test]
fn xsa_418_deep_watches_are_dropped_on_a_small_stack() {
    let dropped = std::thread::Builder::new().stack_size(64 << 10).spawn(|| {
        let mut trie = Trie::default();
        let mut node = TrieNode::leaf(b"", entry(0, None));
        for _ in 0..100_000 {
            let mut above = TrieNode::default();
            above.children.insert(b"a", Arc::new(node));
            node = above;
        }
        trie.root = Arc::new(node);
        drop(trie);
    });
    dropped.unwrap().join().unwrap();
}

/// Setting and removing recurse, a frame for each node on the way. A path has at most 1,536 names, and a thread a
/// stack of 2 MiB.
#[test]
fn xsa_418_the_deepest_watches_are_set_and_removed_on_half_a_stack() {
    const STACK_BYTES: usize = 1 << 20;
    let levels = || (1..=ABS_PATH_MAX / 2).map(|depth| "/a".repeat(depth));
    let set_and_removed = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        let mut trie = Trie::default();
        for (seq, path) in (0..).zip(levels()) {
            trie.insert(Path::parse(path.as_bytes()).unwrap(), entry(seq, None));
        }
        assert_eq!((trie.len(), size(&trie).0), (1536, 2 + 1536));
        // The watches are removed from the bottom up, so each removal descends to the lowest level.
        for (seq, path) in (0..).zip(levels()).collect::<Vec<_>>().into_iter().rev() {
            let path = Path::parse(path.as_bytes()).unwrap();
            assert!(trie.remove(path, entry(seq, None).watcher));
        }
        assert_eq!(size(&trie).0, 2);
    });
    set_and_removed.unwrap().join().unwrap();
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
fn visit_reaches_every_watch_and_nothing_else() {
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
    // Nodes that lead to no watch are removed.
    assert!(trie.root.children.is_empty() && trie.special.children.is_empty());
}

fn arb_path() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab]", 0..5).prop_map(|names| format!("/{}", names.join("/")))
}

proptest! {
    #[test]
    fn trie_finds_the_same_watches_as_a_list(
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
        let mut all = Vec::new();
        trie.each(|path, entries| {
            all.extend(entries.iter().map(|entry| (path.to_string(), entry.watcher.seq)));
        });
        all.sort_unstable_by_key(|(_, seq)| *seq);
        let expected: Vec<_> = list.iter()
            .map(|(path, entry)| (path.clone(), entry.watcher.seq)).collect();
        prop_assert_eq!(all, expected);
        let mut paths: Vec<&String> = list.iter().map(|(path, _)| path).collect();
        paths.sort_unstable();
        paths.dedup();
        prop_assert!(size(&trie).0 <= 2 + 2 * paths.len());
    }
}

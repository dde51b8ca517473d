use super::*;

/// A change of the watched path.
const OWN: Changed<'_> = Changed::Below(0);

fn watch(seq: u64) -> Watch {
    let (path, token) = (Arc::new(Path::ROOT.to_buf()), seq.to_string().into_bytes().into());
    Watch { path, token, prefix_len: 0, depth: None, seq }
}

fn listed(watches: &mut Watches, index: usize) -> Vec<u64> {
    watches.in_order(index).map(|watch| watch.seq).collect()
}

#[test]
fn watch_list_keeps_its_order_across_removals() {
    let mut watches = Watches::new(1);
    for seq in 2..102 {
        watches.insert(watch(seq));
    }
    for seq in 2..100 {
        let token = seq.to_string();
        assert!(watches.remove(Path::ROOT, token.as_bytes(), 200 + seq).is_some());
        assert!(watches.order.len() <= 2 * watches.len() + GONE_MAX);
    }
    assert_eq!(watches.generation(), 299);
    // The new watch reuses the slot of a removed one.
    watches.insert(watch(300));
    assert_eq!(listed(&mut watches, 0), [100, 101, 300]);
    assert_eq!(listed(&mut watches, 2), [300]);
    assert_eq!(listed(&mut watches, 3), [0; 0]);
    assert_eq!(listed(&mut watches, usize::MAX), [0; 0]);
    assert_eq!(watches.take(301).len(), 3);
    assert_eq!((watches.generation(), watches.len()), (301, 0));
}

#[test]
fn watches_on_one_path_are_grouped_by_kind_of_depth() {
    let mut watches = Watches::new(1);
    for (seq, depth) in (2..).zip([None, Some(1), None, Some(3)]) {
        watches.insert(Watch { depth, ..watch(seq) });
    }
    let mut groups: Vec<_> = watches
        .groups()
        .map(|group| (group.group, group.seq, group.depth, group.watches))
        .collect();
    groups.sort_unstable();
    assert_eq!(groups, [(0, 4, None, 2), (1, 5, Some(3), 2)]);
    let notified = |group, seq, changed: Changed<'static>| {
        watches.notified(group, seq, changed).map(|id| id.seq).collect::<Vec<_>>()
    };
    assert_eq!(notified(0, 4, Changed::Path(b"/a/b")), [2, 4]);
    assert_eq!(notified(0, 3, Changed::Path(b"/a/b")), [2]);
    assert_eq!(notified(1, 5, Changed::Path(b"/a/b")), [5]);
    assert_eq!(notified(1, 5, Changed::Path(b"/a")), [3, 5]);
    assert_eq!(notified(1, 5, OWN), [3, 5]);
    assert_eq!(notified(2, 5, OWN), [0; 0]);
    let (_, group, left) = watches.remove(Path::ROOT, b"5", 6).unwrap();
    assert_eq!((group, left.map(|left| (left.seq, left.watches))), (1, Some((3, 1))));
    let (_, group, left) = watches.remove(Path::ROOT, b"3", 7).unwrap();
    assert!(group == 1 && left.is_none());
    // The group's slot is reused: an event of the old group finds no watch.
    watches.insert(Watch { depth: Some(0), ..watch(8) });
    assert_eq!(watches.notified(1, 5, OWN).count(), 0);
    assert_eq!(watches.notified(1, 8, OWN).count(), 1);
}

#[test]
fn deferred_events_of_removed_watches_are_not_kept() {
    let mut watches = Watches::new(1);
    let (first, _) = watches.insert(watch(2));
    assert!(watches.defer(0, 2, OWN, 0) && !watches.defer(0, 2, OWN, 0));
    for seq in 3..1000 {
        let path = Arc::new(Path::parse(b"/a").unwrap().to_buf());
        let (_, GroupSummary { group, .. }) = watches.insert(Watch { path, ..watch(seq) });
        watches.defer(group, seq, OWN, 0);
        let (path, token) = (Path::parse(b"/a").unwrap(), seq.to_string());
        watches.remove(path, token.as_bytes(), 1000 + seq).unwrap();
        assert!(watches.deferred.len() <= 2 * watches.len() + GONE_MAX);
    }
    assert_eq!(watches.next_deferred(), Some(first));
    assert_eq!(watches.next_deferred(), None);
    assert!(!watches.has_deferred());
}

#[test]
fn deferred_event_reaches_each_matching_watch() {
    let mut watches = Watches::new(1);
    for (seq, depth) in (2..).zip([0, 2, 5, 1]) {
        watches.insert(Watch { depth: Some(depth), ..watch(seq) });
    }
    let all = |watches: &mut Watches| {
        std::iter::from_fn(|| watches.next_deferred().map(|id| id.seq)).collect::<Vec<_>>()
    };
    assert!(watches.defer(0, 4, Changed::Path(b"/a/b"), 0));
    assert_eq!(all(&mut watches), [3, 4]);
    assert!(
        watches.defer(0, 5, Changed::Path(b"/a/b"), 0)
            && watches.defer(0, 5, Changed::Path(b"/a"), 0)
    );
    assert!(!watches.defer(0, 5, Changed::Path(b"/a/b/c"), 0));
    assert_eq!(all(&mut watches), [3, 4, 5]);
    // A change after the first watch was notified notifies it again.
    assert!(watches.defer(0, 5, OWN, 2));
    assert_eq!(watches.next_deferred().map(|id| id.seq), Some(3));
    assert!(
        watches.defer(0, 5, Changed::Path(b"/a/b"), 0)
            && !watches.defer(0, 5, Changed::Path(b"/a/b"), 0)
    );
    assert_eq!(all(&mut watches), [4, 5, 3, 4]);
    // One event stands for several changes, the nearest of which is two levels below.
    assert!(watches.defer(0, 5, Changed::Below(2), 0));
    assert_eq!(all(&mut watches), [3, 4]);
    // An event of removed watches does not concern those that reuse their slots.
    assert!(!watches.defer(0, 1, OWN, 0) && !watches.has_deferred());
}

use super::*;

#[test]
fn an_incarnation_is_born_once_and_dies_once() {
    let registry = Registry::new(Limits::defaults(), None);
    let first = registry.admit(Domid(5), 100).unwrap();
    assert!(Arc::ptr_eq(&first, &registry.admit(Domid(5), 100).unwrap()));
    let stamp = registry.now();
    assert!(registry.births().holds(Domid(5), stamp));
    assert!(registry.bury(&first));
    assert!(!registry.bury(&first));
    let second = registry.admit(Domid(5), 101).unwrap();
    assert!(!registry.births().holds(Domid(5), stamp));
    assert!(registry.owner(Domid(5), stamp).is_none());
    assert!(registry.owner(Domid(5), registry.now()).is_some());
    assert!(!registry.bury(&first));
    assert!(registry.bury(&second));
    assert!(registry.admit(Domid::SELF, 1).is_none());
}

#[test]
fn xsa_233_a_target_ends_with_its_incarnation() {
    let registry = Registry::new(Limits::defaults(), None);
    let stub = registry.admit(Domid(6), 1).unwrap();
    let guest = registry.admit(Domid(5), 2).unwrap();
    registry.set_target(&stub, &guest);
    assert_eq!(registry.subject(&stub).target, Some(Domid(5)));
    assert_eq!(registry.subject_of(Domid(6)), registry.subject(&stub));
    registry.bury(&guest);
    assert_eq!(registry.subject(&stub).target, None);
    registry.admit(Domid(5), 3);
    assert_eq!(registry.subject(&stub).target, None);
}

#[test]
fn peaks_exclude_the_control_domain() {
    let registry = Registry::new(Limits::defaults(), None);
    let guest = registry.admit(Domid(5), 1).unwrap();
    let control = registry.get(Domid::CONTROL).unwrap();
    assert!(registry.reserve(&control, Quota::Nodes, 50, None));
    assert_eq!((registry.peak(Quota::Nodes), control.account.peak(Quota::Nodes)), (0, 50));
    for (size, peak) in [(3, 3), (2, 5), (0, 5)] {
        assert!(registry.reserve(&guest, Quota::Nodes, size, None));
        assert_eq!(registry.peak(Quota::Nodes), peak);
    }
    guest.account.release(Quota::Nodes, 5);
    assert!(registry.permits(&guest, Quota::NodeSize, 7, None));
    assert_eq!((registry.peak(Quota::Nodes), registry.peak(Quota::NodeSize)), (5, 7));
    assert_eq!(guest.account.refused(Quota::NodeSize), 0);
    assert!(!registry.permits(&guest, Quota::NodeSize, 1 << 20, None));
    assert_eq!(guest.account.refused(Quota::NodeSize), 1);
    registry.reset_peaks();
    assert_eq!(registry.peak(Quota::Nodes), 0);
}

#[test]
fn refusals_are_counted_and_every_doubling_is_reported() {
    let registry = Registry::new(Limits::defaults(), None);
    let guest = registry.admit(Domid(5), 1).unwrap();
    registry.set_limit(Some(&guest), Quota::Watches, 2);
    assert!(registry.reserve(&guest, Quota::Watches, 2, None));
    for refused in 1..=4 {
        assert!(!registry.reserve(&guest, Quota::Watches, 1, None));
        assert_eq!(guest.account.refused(Quota::Watches), refused);
    }
    assert_eq!(registry.reports.take_all(), ["watches 1", "watches 2", "watches 4"]);
    registry.set_limit(Some(&guest), Quota::Watches, 3);
    assert_eq!(
        (registry.limit(&guest, Quota::Watches), guest.account.refused(Quota::Nodes)),
        (3, 0)
    );
    assert!(registry.reserve(&guest, Quota::Watches, 1, None));
}

#[test]
fn soft_memory_is_reported_when_it_is_crossed() {
    let registry = Registry::new(Limits::defaults(), None);
    let guest = registry.admit(Domid(5), 1).unwrap();
    let control = registry.get(Domid::CONTROL).unwrap();
    let use_memory = |amount| assert!(registry.reserve(&guest, Quota::Memory, amount, None));
    use_memory(1);
    registry.set_soft_memory(Some(&guest), 100);
    assert!(registry.reserve(&control, Quota::Memory, 200, None));
    use_memory(99);
    assert!(registry.reports.take_all().is_empty(), "at the limit, not above it");
    use_memory(1);
    use_memory(1);
    assert_eq!(registry.reports.take_all(), ["soft memory 101 over 100"]);
    registry.set_soft_memory(Some(&guest), 0);
    guest.account.release(Quota::Memory, 102);
    use_memory(1000);
    assert!(registry.reports.take_all().is_empty(), "0 means no limit");
}

/// A change of a default does not replay open transactions either.
#[test]
fn default_limit_applies_to_later_domains_only() {
    let registry = Registry::new(Limits::defaults(), None);
    let guest = registry.admit(Domid(5), 1).unwrap();
    let rights = registry.rights();
    registry.set_limit(None, Quota::Watches, 2);
    registry.set_soft_memory(None, 3);
    let later = registry.admit(Domid(6), 2).unwrap();
    let limits =
        |domain: &Domain| (registry.limit(domain, Quota::Watches), domain.limits().soft_memory());
    let before = (Quota::Watches.default_value(), Quota::SOFT_MEMORY_DEFAULT);
    assert_eq!((limits(&guest), limits(&later)), (before, (2, 3)));
    assert_eq!(registry.rights(), rights);
    registry.set_limit(Some(&guest), Quota::Watches, 4);
    assert_eq!((limits(&guest).0, limits(&later).0), (4, 2));
    assert_ne!(registry.rights(), rights);
}

#[test]
fn node_quota_is_reserved_all_or_nothing() {
    let registry = Registry::new(Limits::defaults(), None);
    let guest = registry.admit(Domid(5), 1).unwrap();
    let used = || (guest.account.used(Quota::Nodes), guest.account.used(Quota::Memory));
    registry.set_limit(Some(&guest), Quota::Nodes, 3);
    registry.set_limit(Some(&guest), Quota::Memory, 10);
    assert!(!registry.reserve_nodes(&guest, 4, 1, None));
    assert!(!registry.reserve_nodes(&guest, 3, 11, None));
    assert_eq!(used(), (0, 0));
    assert!(registry.reserve_nodes(&guest, 3, 10, None));
    assert!(registry.reserve_nodes(&guest, 0, 0, None));
    assert_eq!(used(), (3, 10));
}

#[test]
fn permissions_from_before_a_birth_do_not_apply() {
    let registry = Registry::new(Limits::defaults(), None);
    for _life in 0..2 {
        let before = registry.now();
        let domain = registry.admit(Domid(5), 1).unwrap();
        assert!(!registry.births().holds(Domid(5), before));
        assert!(registry.births().holds(Domid(5), registry.now()));
        assert!(registry.bury(&domain));
    }
}

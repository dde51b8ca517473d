//! DOMAIN_STATES, and the error of an import that another domain blocks.

use super::moves::{each_pair, inhabit, release};
use super::*;

/// Returns the states of domains, without the unique ids of their incarnations.
fn states(world: &World, domids: &str) -> Vec<String> {
    let said = Bulk::connect(&world.daemon).ask(bulk::STATES, domids, &[]);
    let line = |line: &str| {
        let words: Vec<&str> = line.split('|').collect();
        let [domid, "OK", state, _, _, port, ..] = words[..] else { panic!("{line}") };
        format!("{domid} {state} {port}")
    };
    said.lines().map(line).collect()
}

/// Returns the incarnation of domain 5, and that at the source of its import.
fn numbers(world: &World) -> [u64; 2] {
    let said = Bulk::connect(&world.daemon).ask(bulk::STATES, "5|", &[]);
    let words: Vec<&str> = said.split('|').collect();
    [3, 4].map(|at| words[at].parse().unwrap())
}

/// Attempts an import of domain 5, which must be refused, like its dry run; returns the reason.
fn refused(world: &World, stream: &[u8]) -> String {
    let mut bulk = Bulk::connect(&world.daemon);
    let said = bulk.import(stream);
    assert_eq!(bulk.check(stream), said);
    let why = said.strip_prefix("5|EEXIST|domid 5 is in use: ");
    why.unwrap_or_else(|| panic!("{said}")).to_owned()
}

#[test]
fn states_are_reported_throughout_a_move() {
    each_pair(|from, to| {
        // Each host counts its incarnations; creating and destroying a domain makes the counts differ.
        from.create(77);
        inhabit(from, 5);
        to.create(5);
        let only = |state: &str| vec![format!("5 {state}")];
        assert_eq!(states(to, "5|"), only("absent 0"));
        assert_eq!(states(from, "5|"), only("running 0"));
        quiesce(from, "5").unwrap();
        assert_eq!(states(from, "5|"), only("quiesced 0"));
        let (stream, said) = Bulk::connect(&from.daemon).export("5|");
        assert_eq!(states(from, "5|"), only("exported 0"));
        let [source, origin] = numbers(from);
        assert!(source > 1 && origin == 0);

        let occupied_in = |world: &World, name: &str, why: &str| {
            assert_eq!(states(world, "5|"), only(name));
            let said = refused(world, &stream);
            assert!(said.contains(why), "{name}: {said}");
        };
        assert!(Bulk::connect(&to.daemon).import(&stream).starts_with("5|OK|1|"));
        assert_eq!(numbers(to)[1], source);
        occupied_in(to, "arrived 1", "not introduced: xsctl introduce continues");
        to.introduce(5);
        occupied_in(to, "arrived-introduced 0", "not served yet: xsctl unquiesce serves it");
        assert_eq!(Bulk::connect(&to.daemon).ask(bulk::DISCARD, "5|", &[]), "5|OK|");
        assert_eq!(states(to, "5|"), only("absent 0"));
        assert_eq!(numbers(to)[1], 0, "a discarded import leaves no source");
        assert!(Bulk::connect(&to.daemon).import(&stream).starts_with("5|OK|"));
        to.admin.request(op::INTRODUCE, 0, "5\x001\x001\0").unwrap();

        occupied_in(from, "exported 0", "exported from here: xsctl release ends it here");
        release(from, 5, bulk::mark(&said)).unwrap();
        occupied_in(from, "left 0", "reconnect it with xsctl introduce");
        assert_eq!(numbers(from), [source, 0]);
        unquiesce(to, "5").unwrap();
        occupied_in(to, "running 0", "it is introduced and served");
        assert_eq!(numbers(to)[1], source, "a served domain keeps its source");
        quiesce(to, "5").unwrap();
        occupied_in(to, "quiesced 0", "was not imported: xsctl unquiesce serves it");
    });
}

#[test]
fn range_of_states_lists_only_known_domains() {
    each_pair(|from, _| {
        from.guest(300);
        from.guest(7);
        // The domain exists on the host, but the daemon does not know it.
        from.create(8);
        assert_eq!(states(from, "1-32751|"), ["7 running 0", "300 running 0"]);
        assert_eq!(states(from, "7-9|9|"), ["7 running 0", "9 absent 0"]);
        assert_eq!(states(from, "1-6|"), [""; 0]);
        let mut bulk = Bulk::connect(&from.daemon);
        for wrong in ["", "5", "0|", "x|", "1-x|", "70000|"] {
            assert_eq!(bulk.ask(bulk::STATES, wrong, &[]), "EINVAL|", "{wrong}");
        }
        for domid in 400..700 {
            from.guest(domid);
        }
        assert_eq!(
            states(from, "1-32751|").len(),
            302,
            "the range exceeds what one request can move"
        );
    });
}

#[test]
fn log_names_moved_domains_and_refused_imports_separately() {
    let [mut from, mut to] = [1, 4].map(|shards| World::new(Control::Socket, shards));
    for domid in [5, 6, 7, 9] {
        from.guest(domid);
    }
    for domid in [5, 6, 9] {
        to.create(domid);
    }
    to.guest(7);
    let (stream, said) = Bulk::connect(&from.daemon).export("1-9|");
    let mut bulk = Bulk::connect(&to.daemon);
    bulk.import(&stream);
    bulk.import(&stream);
    bulk.ask(bulk::DISCARD, "1-9|", &[]);
    release(&mut from, 5, bulk::mark(&said)).unwrap();
    let lines = |world: &mut World, event: &str| -> Vec<String> {
        let log = world.log();
        log.lines().filter(|line| line.contains(event)).map(str::to_owned).collect()
    };
    let exported = lines(&mut from, " exported ");
    assert!(
        exported.len() == 1 && exported[0].contains(" domains=4 domids=5-7,9 "),
        "{exported:?}"
    );
    let left = lines(&mut from, " released with a mark ");
    assert!(left.len() == 1 && left[0].contains(" domid=5"), "{left:?}");
    let imported = lines(&mut to, " info imported ");
    assert!(
        imported.len() == 1 && imported[0].contains(" domains=3 domids=5-6,9 "),
        "{imported:?}"
    );
    let refused = lines(&mut to, " import refused ");
    assert_eq!(refused.len(), 2);
    for (line, domids) in refused.iter().zip([" domains=1 domids=7 ", " domains=4 domids=5-7,9 "]) {
        assert!(line.contains(domids) && line.contains(" error=EEXIST why="), "{line}");
    }
    let discarded = lines(&mut to, " discarded ");
    assert!(discarded[0].contains(" domains=3 domids=5-6,9"), "{discarded:?}");
}

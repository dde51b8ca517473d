//! Commits that match so many watches that their events are found after the locks are released.

use super::common::{Control, World, op};
use super::{all_ok, watch_all};

/// Guests that watch each level of the path that domain 5 writes below.
const WATCHERS: [u16; 4] = [6, 7, 8, 9];
const LEVELS: usize = 300;
const CHANGES: usize = 40;

fn chain(levels: usize) -> String {
    format!("/local/domain/5{}", "/a".repeat(levels))
}

/// A chain of nodes of domain 5 that domains 6 and 7 may read, and all of [`WATCHERS`] watch.
fn watched_chain(shards: u16) -> World {
    let mut world = World::new(Control::Socket, shards);
    WATCHERS.into_iter().for_each(|domid| _ = world.guest(domid));
    let guest = world.guest(5);
    let nodes = (0..CHANGES).map(|i| format!("{}/{i}", chain(LEVELS)));
    let writes = nodes.clone().map(|node| (op::WRITE, 0, format!("{node}\0").into_bytes()));
    all_ok(&guest.pipeline(&writes.collect::<Vec<_>>()));
    let paths = (0..=LEVELS).map(chain).chain(nodes);
    let perms = paths.map(|path| (op::SET_PERMS, 0, format!("{path}\0n5\0r6\0r7\0").into_bytes()));
    all_ok(&world.admin.pipeline(&perms.collect::<Vec<_>>()));
    for domid in WATCHERS {
        let watches = (0..LEVELS).map(|levels| (chain(levels), "t".to_owned()));
        assert_eq!(watch_all(world.guest(domid), watches), LEVELS);
    }
    world
}

#[test]
fn events_of_a_commit_that_matches_very_many_watches_are_all_there_and_in_order() {
    for shards in [1, 4] {
        let mut world = watched_chain(shards);
        let guest = world.guest(5);
        let tx = guest.start().unwrap();
        let write = |i| (op::WRITE, tx, format!("{}/{i}\0v", chain(LEVELS)).into_bytes());
        all_ok(&guest.pipeline(&(0..CHANGES).map(write).collect::<Vec<_>>()));
        guest.commit(tx).unwrap();
        // What is written after it is told after it.
        let last = format!("{}/{}", chain(LEVELS), CHANGES - 1);
        world.admin.write(&last, "w").unwrap();
        for name in ["dom6", "dom7"] {
            let mut events = Vec::new();
            let mut told = std::collections::HashSet::new();
            while events.iter().filter(|event| **event == format!("{last}|t")).count() < 2 {
                let event = world.next_event(name);
                told.insert(event.clone());
                events.push(event);
            }
            let own = (0..LEVELS).filter(|levels| told.contains(&format!("{}|t", chain(*levels))));
            println!("{name}: {} events, {} with the watched path", events.len(), own.count());
        }
        for name in ["dom8", "dom9"] {
            assert!(world.events_until_now(name).is_empty(), "it may not be read");
        }
        world.check_store();
    }
}

/// A domain that is released while its events are looked for has them all before, on its next ring.
#[test]
fn a_release_waits_for_events_that_are_not_found_yet() {
    for shards in [1, 4] {
        let mut world = watched_chain(shards);
        let guest = world.guest(5);
        let tx = guest.start().unwrap();
        let write = |i| (op::WRITE, tx, format!("{}/{i}\0v", chain(LEVELS)).into_bytes());
        all_ok(&guest.pipeline(&(0..CHANGES).map(write).collect::<Vec<_>>()));
        guest.commit(tx).unwrap();
        world.admin.request(op::RELEASE, 0, b"6\0").unwrap();
        world.introduce(6);
        let first = format!("{}/0|t", chain(LEVELS));
        assert_eq!(world.next_event("dom6"), first);
        world.check_store();
    }
}

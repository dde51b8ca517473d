//! Commits that match too many watches to find all events under their locks.

use std::collections::HashSet;

use super::common::{Control, World, op};
use super::{all_ok, watch_all};

/// Guests that watch each level of the path below which domain 5 writes.
const WATCHERS: [u16; 4] = [6, 7, 8, 9];
const LEVELS: usize = 120;
const CHANGES: usize = 40;

fn chain(levels: usize) -> String {
    format!("/local/domain/5{}", "/a".repeat(levels))
}

/// The last change of these tests' commits: its events are not found under the locks.
fn last_change() -> String {
    format!("{}/{}", chain(LEVELS), CHANGES - 1)
}

/// Creates a chain of nodes of domain 5 that domains 6 and 7 may read and all of [`WATCHERS`] watch.
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
    world.guest(5).write("after", "").unwrap();
    world.admin.set_perms("/local/domain/5/after", "n5\0r6\0r7").unwrap();
    for domid in WATCHERS {
        world.guest(domid).watch("/local/domain/5/after", "after").unwrap();
        world.guest(domid).next_event();
        world.guest(domid).watch(&last_change(), "last").unwrap();
        world.guest(domid).next_event();
        let watches = (0..LEVELS).map(|levels| (chain(levels), levels.to_string()));
        assert_eq!(watch_all(world.guest(domid), watches), LEVELS);
    }
    world
}

/// Writes, as domain 5, all nodes at the end of the chain in one transaction.
fn commit_changes(world: &mut World) {
    let guest = world.guest(5);
    let tx = guest.start().unwrap();
    let write = |i| (op::WRITE, tx, format!("{}/{i}\0v", chain(LEVELS)).into_bytes());
    all_ok(&guest.pipeline(&(0..CHANGES).map(write).collect::<Vec<_>>()));
    guest.commit(tx).unwrap();
}

#[test]
fn events_for_very_many_watches_are_complete_and_in_order() {
    for shards in [1, 4] {
        let mut world = watched_chain(shards);
        commit_changes(&mut world);
        // The event of another client's later write comes later.
        world.admin.write("/local/domain/5/after", "v").unwrap();
        for name in ["dom6", "dom7"] {
            let mut notified = HashSet::new();
            let mut events = 0;
            loop {
                let event = world.next_event(name);
                let (path, token) = event.split_once('|').unwrap();
                if token == "after" {
                    break;
                }
                let watched = token.parse().map_or(last_change(), chain);
                assert!(path.starts_with(&watched), "{event}");
                notified.insert(token.to_owned());
                events += 1;
            }
            assert_eq!(notified.len(), LEVELS + 1, "{name} has watches without an event");
            println!("{name}: {events} events");
        }
        for name in ["dom8", "dom9"] {
            assert!(world.events_until_now(name).is_empty(), "events on unreadable nodes");
        }
        world.check_store();
    }
}

/// A domain that is released while its events are being found gets all of them first, on its next ring.
#[test]
fn release_waits_for_events_of_the_matcher() {
    for shards in [1, 4] {
        let mut world = watched_chain(shards);
        commit_changes(&mut world);
        world.admin.request(op::RELEASE, 0, b"6\0").unwrap();
        world.introduce(6);
        assert_eq!(world.next_event("dom6"), format!("{}/0|0", chain(LEVELS)));
        world.check_store();
    }
}

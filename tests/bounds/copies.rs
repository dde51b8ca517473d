//! Nodes that only snapshots of open transactions keep in memory: they are charged to no account, so they are bounded.

use super::all_ok;
use super::common::{Control, World, op};

/// The bound of replaced nodes that snapshots keep, plus tolerances for a pass and for the allocator.
const KEPT_BYTES_MAX: u64 = (8 << 20) + (8 << 20);
/// Levels of the chain that is copied, each with a value.
const LEVELS: usize = 900;
const VALUE_BYTES: usize = 1900;
/// Snapshots; fewer than the transactions that a guest may have. Each copy of the chain shares its values and takes
/// some 150 KB.
const ROUNDS: usize = 220;
/// The rounds that are measured. Without a bound, the first of them would keep 19 MB.
const LAST_ROUNDS: usize = 50;

/// Creates a chain of directories with long values in the partition of domain 5; returns the path of the deepest.
fn chain(world: &mut World) -> String {
    let guest = world.guest(5);
    guest.write(&vec!["a"; LEVELS].join("/"), "v").unwrap();
    let value = "v".repeat(VALUE_BYTES);
    let writes = (1..LEVELS).map(|depth| {
        (op::WRITE, 0, format!("{}\0{value}", vec!["a"; depth].join("/")).into_bytes())
    });
    all_ok(&guest.pipeline(&writes.collect::<Vec<_>>()));
    vec!["a"; LEVELS].join("/")
}

/// Starts a transaction that takes a snapshot of the partition of domain 5.
fn snapshot(world: &mut World) -> u32 {
    let guest = world.guest(5);
    let tx = guest.start().unwrap();
    guest.request(op::READ, tx, b"a\0").unwrap();
    tx
}

/// Each write copies the whole chain, since a new snapshot holds it and would keep the old version for a second.
#[test]
fn copies_beside_snapshots_are_bounded() {
    for shards in [1, 4] {
        let mut world = World::new(Control::Socket, shards);
        let deepest = chain(&mut world);
        let before = world.daemon.resident_bytes();
        let mut transactions = Vec::new();
        let mut grown = u64::MAX;
        for round in 0..ROUNDS {
            transactions.push(snapshot(&mut world));
            world.guest(5).write(&deepest, &round.to_string()).unwrap();
            // The least of the last rounds is what is kept: the allocator gives freed pages back with a delay, up to
            // 4 MB of them here.
            if round >= ROUNDS - LAST_ROUNDS {
                grown = grown.min(world.daemon.resident_bytes().saturating_sub(before));
            }
        }
        println!("{shards} shards: grown by {grown} bytes");
        assert!(grown < KEPT_BYTES_MAX, "{ROUNDS} snapshots keep {grown} bytes");
        // All transactions commit: nothing that they saw has changed.
        for tx in transactions {
            world.guest(5).request(op::READ, tx, b"a\0").unwrap();
            world.guest(5).commit(tx).unwrap();
        }
        world.check_store();
    }
}

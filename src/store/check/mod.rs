//! The consistency check of `xsctl control check`: it recomputes everything that the store keeps twice and compares.
//!
//! The check works on one consistent snapshot: the shared locks of all shards are held at once while their trees and
//! tries are cloned and the accounts are read, and not during the comparison. It compares:
//!
//! | kept | must be equal to |
//! |---|---|
//! | partitions of a shard | the names without a node, each in its parent's children, of all shards |
//! | `names_bytes` of a directory | the sum over its children |
//! | the index of owners | the topmost nodes of each guest |
//! | a domain's use of `nodes` | the nodes that it owns |
//! | a domain's use of `memory` | at least the charges of its nodes |
//! | a trie's count | its watches |
//! | a connection's watches | those of it in the tries ([`WatchList::check`]) |
//! | a domain's birth | the table that permission checks read |
//!
//! Not recomputed: the charges for watches, transactions and unsent bytes in `memory`, since these belong to threads
//! and change during the snapshot; and `outstanding` and `transactions`.

mod findings;
mod walk;
mod watches;

use std::collections::HashMap;
use std::time::Duration;

use foldhash::fast::RandomState;

pub use findings::Findings;
pub use watches::{Tries, WatchList};

use super::forest::{LockSet, Locked};
use super::{Store, Tree};
use crate::domain::{Domain, Quota};
use crate::sync::workers::Workers;
use crate::sync::{Arc, Ordering};
use crate::types::{Domid, Layout, ShardId};
use walk::Walk;

/// Maximum number of attempts to find a moment in which no removal is being settled, one second in all with the pauses:
/// in that time the reaper frees some millions of nodes.
const SNAPSHOTS_MAX: usize = 200;
/// See [`SNAPSHOTS_MAX`].
const SNAPSHOT_PAUSE: Duration = Duration::from_millis(5);
/// Maximum number of repetitions while the check finds nodes whose owner is dead. The owner's sweep may be in progress;
/// nodes that still exist after a second were missed by it.
const SWEEPS_MAX: usize = 10;
/// See [`SWEEPS_MAX`].
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// The result of a check.
pub struct Checked {
    /// Nodes visited.
    pub nodes: usize,
    /// Watches found in the tries.
    pub watches: usize,
    /// The findings.
    pub findings: Findings,
}

/// The error of a check that found no moment without a removal being settled, so that accounts cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckError {
    /// The number of removals that were being settled at the last try.
    pub removals: u64,
}

/// Everything that is compared, as of one moment.
struct Snapshot {
    layout: Layout,
    trees: Vec<Tree>,
    tries: Tries,
    domains: Vec<Use>,
}

/// A living domain and its charges.
struct Use {
    domain: Arc<Domain>,
    nodes: u64,
    bytes: u64,
}

/// The births of living domains, by domid.
type Living = HashMap<Domid, u64, RandomState>;

/// Checks the store. Cost: visits every node, on the worker pool. The store is locked only while trees are cloned and
/// accounts are read, about 0.1 us for each domain.
///
/// # Errors
/// [`CheckError`], after a second.
pub fn check(store: &Store) -> Result<Checked, CheckError> {
    for look in 1.. {
        let snapshot = Snapshot::settled(store)?;
        let living = snapshot.living();
        let walks = snapshot.walks(&living);
        if walks.iter().any(|walk| walk.has_orphans()) && look < SWEEPS_MAX {
            // The check has a thread of its own, so no client waits.
            std::thread::sleep(SWEEP_PAUSE);
            continue;
        }
        return Ok(snapshot.compare(walks, store.registry.faults()));
    }
    unreachable!("the last look is the last")
}

impl Snapshot {
    fn living(&self) -> Living {
        self.domains.iter().map(|used| (used.domain.domid, used.domain.birth)).collect()
    }

    /// Visits every node, on the worker pool.
    fn walks<'w>(&'w self, living: &'w Living) -> Vec<Walk<'w>> {
        let shards: Vec<ShardId> = self.layout.all().collect();
        Workers::find().map(shards, |shard| Walk::of(shard, self.layout, &self.trees, living))
    }

    /// Compares what the walks found with accounts and tries, and adds the faults of the registry.
    fn compare(&self, walks: Vec<Walk<'_>>, faults: Vec<String>) -> Checked {
        let mut findings = Findings::default();
        let mut nodes = 0;
        let mut owned: HashMap<Domid, (u64, u64), RandomState> = HashMap::default();
        for mut walk in walks {
            walk.report_orphans();
            nodes += walk.nodes;
            for (domid, (nodes, bytes)) in walk.owned {
                let sum = owned.entry(domid).or_default();
                *sum = (sum.0 + nodes, sum.1 + bytes);
            }
            findings.append(walk.findings);
        }
        // Only now, as a domain owns nodes in several shards.
        for used in &self.domains {
            let (nodes, bytes) = owned.remove(&used.domain.domid).unwrap_or_default();
            used.compare(nodes, bytes, &mut findings);
        }
        let watches = self.tries.check(self.layout, &mut findings);
        for fault in faults {
            findings.add(|| fault);
        }
        Checked { nodes, watches, findings }
    }

    /// Takes a snapshot at a moment when no removal is being settled.
    fn settled(store: &Store) -> Result<Snapshot, CheckError> {
        for _ in 0..SNAPSHOTS_MAX {
            match Snapshot::take(store) {
                Some(snapshot) => return Ok(snapshot),
                None => std::thread::sleep(SNAPSHOT_PAUSE),
            }
        }
        Err(CheckError { removals: store.unsettled.load(Ordering::Relaxed) })
    }

    /// Takes a snapshot unless a removal is being settled. With all locks held, the accounts of living domains do not
    /// change: a thread that charges holds some lock exclusively, and removals being settled are counted in
    /// `unsettled`.
    fn take(store: &Store) -> Option<Snapshot> {
        let locked = Locked::take(&store.shards, &LockSet::all(store.layout, false));
        // Acquire pairs with the release in `settle`: zero means that all credits are visible.
        if store.unsettled.load(Ordering::Acquire) > 0 {
            return None;
        }
        let shards = || store.layout.all().filter_map(|shard| locked.shard(shard));
        let known = store.registry.known();
        let used = |domid| {
            // None if the domain has died since `known` was read.
            let domain = store.registry.get(domid)?;
            let (nodes, bytes) =
                (domain.account.used(Quota::Nodes), domain.account.used(Quota::Memory));
            Some(Use { domain, nodes, bytes })
        };
        Some(Snapshot {
            layout: store.layout,
            trees: shards().map(|shard| shard.tree.clone()).collect(),
            tries: Tries::new(
                shards().map(|shard| shard.watches.clone()),
                store.publisher.global.load(),
            ),
            domains: known.into_iter().filter_map(used).collect(),
        })
    }
}

impl Use {
    /// Compares the account with the nodes found. The account's bytes may be more, as it is charged for other objects
    /// too.
    fn compare(&self, nodes: u64, bytes: u64, findings: &mut Findings) {
        let domid = self.domain.domid;
        if self.nodes != nodes {
            findings.add(|| {
                format!("domain {domid} owns {nodes} nodes, and its account says {}", self.nodes)
            });
        }
        if self.bytes < bytes {
            findings.add(|| {
                format!(
                    "domain {domid}'s nodes take {bytes} bytes, and its account says {} in all",
                    self.bytes
                )
            });
        }
    }
}

#[cfg(test)]
mod tests;

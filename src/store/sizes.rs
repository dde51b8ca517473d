//! The sizes of the store, for reports.

use super::{NodeArc, Store, Tree};
use crate::types::ShardId;

/// The sizes of one shard.
pub struct Sizes {
    /// Partitions.
    pub partitions: usize,
    /// Nodes, with the partitions' roots.
    pub nodes: usize,
    /// Entries in its trie of watches.
    pub watches: usize,
    /// Entries in the index of owners.
    pub boundaries: usize,
    /// Partitions pinned by open transactions, once for each transaction.
    pub pinned: u32,
}

impl Sizes {
    /// Returns the sizes of a shard. Cost: a visit to every node, on a snapshot, without a lock.
    pub fn of(store: &Store, shard: ShardId) -> Sizes {
        let tree = store.snapshot(shard);
        Sizes {
            partitions: tree.partitions().count(),
            nodes: nodes_of(&tree),
            watches: store.shards.read(shard).watches.len(),
            boundaries: tree.owned().count(),
            pinned: store.shards.pins(shard).count(),
        }
    }
}

/// Returns the number of nodes of the store. Cost: a visit to every node, on a snapshot of each shard, without a lock.
pub fn count_nodes(store: &Store) -> usize {
    store.layout.all().map(|shard| nodes_of(&store.snapshot(shard))).sum()
}

fn nodes_of(tree: &Tree) -> usize {
    let mut todo: Vec<_> = tree.partitions().map(|(_, root)| NodeArc::clone(root)).collect();
    let mut count = 0;
    while let Some(node) = todo.pop() {
        count += 1;
        todo.extend(node.children().iter().filter_map(|(_, child)| child.clone()));
    }
    count
}

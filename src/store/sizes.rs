//! The sizes of the store, for reports.

use super::{NodeArc, Store};
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

impl Store {
    /// Returns the sizes of all shards, the root shard last. Cost: a visit to every node, on a snapshot of each
    /// shard, without a lock.
    pub fn sizes(&self) -> impl Iterator<Item = (ShardId, Sizes)> {
        self.layout.all().map(|shard| {
            let tree = self.snapshot(shard);
            let watches = self.read_shard(shard).watches.len();
            let sizes = Sizes {
                partitions: tree.partitions().count(),
                nodes: count_nodes(
                    tree.partitions().map(|(_, root)| NodeArc::clone(root)).collect(),
                ),
                watches,
                boundaries: tree.owned().count(),
                pinned: self.pins[usize::from(shard.0)].count(),
            };
            (shard, sizes)
        })
    }

    /// Returns the number of entries in the global watch trie.
    pub fn global_watches(&self) -> usize {
        self.global.load().len()
    }

    /// Returns the number of nodes. Cost: as [`Store::sizes`].
    pub fn count_nodes(&self) -> usize {
        self.sizes().map(|(_, sizes)| sizes.nodes).sum()
    }
}

fn count_nodes(mut todo: Vec<NodeArc>) -> usize {
    let mut count = 0;
    while let Some(node) = todo.pop() {
        count += 1;
        todo.extend(node.children().iter().filter_map(|(_, child)| child.clone()));
    }
    count
}

//! How much the store holds, for reports.

use super::{NodeArc, Store};
use crate::words::ShardId;

/// What one shard holds.
pub struct Sizes {
    /// Homes.
    pub homes: usize,
    /// Nodes, the homes' roots included.
    pub nodes: usize,
    /// Watches in its own trie.
    pub watches: usize,
    /// Entries in the index of owners.
    pub boundaries: usize,
    /// Versions that open transactions pin.
    pub pinned: u32,
}

impl Store {
    /// The sizes of all shards, the spine last. Cost: a visit to every node, on a snapshot of each
    /// shard; nothing is locked meanwhile.
    pub fn sizes(&self) -> impl Iterator<Item = (ShardId, Sizes)> {
        self.layout.all().map(|shard| {
            let tree = self.snapshot(shard);
            let watches = self.read_shard(shard).watches.len();
            let sizes = Sizes {
                homes: tree.homes().count(),
                nodes: count_nodes(tree.homes().map(|(_, root)| NodeArc::clone(root)).collect()),
                watches,
                boundaries: tree.owned().count(),
                pinned: self.pins[usize::from(shard.0)].count(),
            };
            (shard, sizes)
        })
    }

    /// Watches that are every shard's concern.
    pub fn upper_watches(&self) -> usize {
        self.upper.load().len()
    }

    /// How many nodes there are. Cost: as [`Store::sizes`].
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

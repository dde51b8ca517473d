//! The walk over one shard's nodes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use foldhash::fast::RandomState;

use super::super::Tree;
use super::super::node::{Node, NodeArc};
use super::Living;
use super::findings::Findings;
use crate::types::{Domid, Layout, Partition, Path, PathBuf, ShardId, domain_of_partition};

/// The walk over one shard, with its results.
pub struct Walk<'a> {
    shard: ShardId,
    layout: Layout,
    trees: &'a [Tree],
    /// Of the snapshot's moment: a domain that dies during the walk leaves no orphans.
    living: &'a Living,
    /// The number of nodes visited.
    pub nodes: usize,
    /// Nodes and bytes by living owner.
    pub owned: HashMap<Domid, (u64, u64), RandomState>,
    /// The boundaries found, for comparison with the index of owners.
    boundaries: BTreeSet<(Domid, PathBuf)>,
    /// Dead owners: the number of nodes of each, and one of them.
    orphans: BTreeMap<Domid, (usize, PathBuf)>,
    /// The findings.
    pub findings: Findings,
}

impl<'a> Walk<'a> {
    /// Visits every node of a shard. `trees` are the trees of all shards.
    pub fn of(shard: ShardId, layout: Layout, trees: &'a [Tree], living: &'a Living) -> Walk<'a> {
        let mut walk = Walk {
            shard,
            layout,
            trees,
            living,
            nodes: 0,
            owned: HashMap::default(),
            boundaries: BTreeSet::new(),
            orphans: BTreeMap::new(),
            findings: Findings::default(),
        };
        let tree = walk.tree(shard);
        for (root, node) in tree.into_iter().flat_map(Tree::partitions) {
            walk.partition(root.as_path());
            walk.below(root, node);
        }
        walk.compare_index();
        walk.compare_partitions();
        walk
    }

    /// Returns whether nodes of dead owners were found.
    pub fn has_orphans(&self) -> bool {
        !self.orphans.is_empty()
    }

    /// Turns nodes of dead owners into findings.
    pub fn report_orphans(&mut self) {
        for (domid, (nodes, path)) in std::mem::take(&mut self.orphans) {
            self.findings.add(|| {
                let path = path.as_path();
                format!("{nodes} nodes belong to a domain {domid} that is dead, such as {path}")
            });
        }
    }

    fn tree(&self, shard: ShardId) -> Option<&'a Tree> {
        self.trees.get(usize::from(shard.0))
    }

    fn node(&self, partition: &Partition<'_>, path: Path<'_>) -> Option<&'a NodeArc> {
        self.tree(partition.shard)?.get(partition, path)
    }

    /// Checks that a partition's root is in the right shard and named by its parent. A path is finite and every
    /// parent is checked likewise, so this shows that all partitions can be reached from `/`.
    fn partition(&mut self, root: Path<'_>) {
        let Partition { shard, root: right } = self.layout.partition(root);
        let here = self.shard.0;
        if right != root {
            self.findings.add(|| format!("{root} in shard {here} is not a partition root"));
        } else if shard != self.shard {
            self.findings
                .add(|| format!("{root} is in shard {here}, and belongs to shard {}", shard.0));
        }
        let Some(parent) = root.parent().filter(|_| !root.is_special()) else { return };
        match self.node(&self.layout.partition(parent), parent) {
            None => self.findings.add(|| format!("{root} exists, but its parent does not")),
            Some(parent) => {
                if parent.children().get(root.name()).is_none() {
                    self.findings
                        .add(|| format!("{root} exists, but is not among its parent's children"));
                }
            }
        }
    }

    /// Visits the nodes of one partition. Without recursion, as guests choose the depth.
    fn below(&mut self, root: &PathBuf, node: &NodeArc) {
        let mut todo = vec![(root.clone(), NodeArc::clone(node), None)];
        while let Some((path, node, owner_above)) = todo.pop() {
            let owner = self.account(path.as_path(), &node, owner_above);
            let mut names_bytes = 0;
            for (name, child) in node.children().iter() {
                names_bytes += name.bytes().len() + 1;
                let below = path.as_path().child(name.bytes());
                let bytes = below.as_path().bytes();
                if name.bytes().contains(&b'/') || Path::parse(bytes).is_err() {
                    let below = below.as_path();
                    // An invalid path has no partition, so the walk does not go below it.
                    self.findings.add(|| format!("{below} is not a valid node name"));
                    continue;
                }
                self.child(below.as_path(), child.is_some());
                todo.extend(child.clone().map(|child| (below, child, Some(owner))));
            }
            let counted = node.children().names_bytes();
            if counted != names_bytes {
                self.findings.add(|| {
                    let path = path.as_path();
                    format!("{path}: its children's names take {names_bytes} bytes, not {counted}")
                });
            }
        }
    }

    /// Checks a child's entry: it has a node, unless it is the root of another partition, which is in its own shard.
    fn child(&mut self, path: Path<'_>, has_node: bool) {
        let partition = self.layout.partition(path);
        match (partition.root == path, has_node) {
            (true, true) => {
                self.findings.add(|| {
                    format!("{path} is stored in its parent, but should be a partition root")
                });
            }
            (true, false) => {
                if self.node(&partition, path).is_none() {
                    let shard = partition.shard.0;
                    self.findings
                        .add(|| format!("{path} is a name without a partition in shard {shard}"));
                }
            }
            (false, false) => self.findings.add(|| format!("{path} is a name without a node")),
            (false, true) => {}
        }
    }

    /// Counts a node for its owner, whom it returns.
    fn account(&mut self, path: Path<'_>, node: &Node, owner_above: Option<Domid>) -> Domid {
        self.nodes += 1;
        let owner = node.perms.owner();
        if owner != Domid::CONTROL && owner_above != Some(owner) {
            self.boundaries.insert((owner, path.to_buf()));
        }
        if self.living.get(&owner).is_some_and(|&birth| birth <= node.perms.stamp()) {
            let (nodes, bytes) = self.owned.entry(owner).or_default();
            *nodes += 1;
            *bytes +=
                node.charge_bytes(path.name()) + node.index_bytes(path.bytes().len(), owner_above);
        } else {
            self.orphans.entry(owner).or_insert_with(|| (0, path.to_buf())).0 += 1;
        }
        owner
    }

    fn compare_index(&mut self) {
        let Some(tree) = self.tree(self.shard) else { return };
        let mut missing = std::mem::take(&mut self.boundaries);
        let shard = self.shard.0;
        for entry in tree.owned() {
            if !missing.remove(entry) {
                let (owner, path) = (entry.0, entry.1.as_path());
                self.findings.add(|| {
                    format!(
                        "the index of owners of shard {shard} has {path} for domain {owner}, whose \
                         nodes do not begin there"
                    )
                });
            }
        }
        for (owner, path) in missing {
            let path = path.as_path();
            self.findings.add(|| {
                format!("the index of owners of shard {shard} lacks {path} of domain {owner}")
            });
        }
    }

    fn compare_partitions(&mut self) {
        let Some(tree) = self.tree(self.shard) else { return };
        let shard = self.shard.0;
        let with_key = |root: &PathBuf| Some((domain_of_partition(root.as_path())?, root.clone()));
        let partitions: BTreeSet<_> =
            tree.partitions().filter_map(|(root, _)| with_key(root)).collect();
        let index: BTreeSet<_> = tree.of_domains().cloned().collect();
        for (domid, root) in partitions.symmetric_difference(&index) {
            let path = root.as_path();
            self.findings.add(|| {
                format!(
                    "the index of partitions of shard {shard} is wrong about {path} of domain \
                     {domid}"
                )
            });
        }
    }
}

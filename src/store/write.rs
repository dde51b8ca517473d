//! The operations that create and change nodes: WRITE, MKDIR, SET_PERMS.
//!
//! Each operation validates everything and claims its partitions first, then charges the account, then changes the
//! tree. So a refusal leaves nothing behind (XSA-414, XSA-415).

use std::cmp::Ordering;

use smallvec::SmallVec;

use super::context::{Context, Effects};
use super::error::StoreError;
use super::forest::Forest;
use super::node::{Child, Node, NodeArc, charge_bytes, index_bytes, size};
use super::read::{nearest, refusal};
use super::tree::{Found, owner_above};
use crate::sync::Arc;
use crate::types::{Access, Domid, Errno, Layout, Partition, Path, Perms};

/// WRITE: sets the value and creates missing nodes. Cost: the depth and the value.
///
/// # Errors
/// `EACCES`; `ENOSPC` if a quota is reached; then nothing is created.
pub fn write<F: Forest>(
    cx: &mut Context<'_>,
    forest: &mut F,
    path: Path<'_>,
    value: &[u8],
    effects: &mut Effects,
) -> Result<(), StoreError> {
    let partition = forest.layout().partition(path);
    forest.claim(&partition)?;
    let node = match forest.find(&partition, path)? {
        Found::Node(node) => node,
        Found::Missing(above) => {
            let missing = Missing::new(partition, path, above);
            return create(cx, forest, missing, value, effects);
        }
    };
    let perms = Arc::clone(&node.perms);
    if !cx.access(&perms).allows(Access::WRITE) {
        return Err(refusal(cx, forest, path, Errno::EACCES, Access::WRITE)?.into());
    }
    let (before, after) = (node.value().len(), value.len());
    cx.check_size(size(&perms, node.children().names_bytes(), after))?;
    match after.cmp(&before) {
        // Most writes keep the length, and then skip the account, whose cache line all threads share.
        Ordering::Equal => {}
        Ordering::Greater => cx.charge(&perms, 0, (after - before) as u64)?,
        Ordering::Less => cx.credit(&perms, 0, (before - after) as u64),
    }
    // After the charge, the last step that can be refused.
    if let Some(node) = forest.get_mut(&partition, path)? {
        node.set_value(cx.generation, value);
    }
    effects.changed(path.to_buf(), partition.shard, None, perms);
    Ok(())
}

/// MKDIR: creates missing nodes. If the node exists, it stays unchanged and no watch fires.
///
/// # Errors
/// As [`write`].
pub fn mkdir<F: Forest>(
    cx: &mut Context<'_>,
    forest: &mut F,
    path: Path<'_>,
    effects: &mut Effects,
) -> Result<(), StoreError> {
    let partition = forest.layout().partition(path);
    match forest.find(&partition, path)? {
        Found::Node(node) if cx.access(&node.perms).allows(Access::WRITE) => Ok(()),
        // Although the node exists, as in C xenstored (COMPATIBILITY.md, o-mkdir-root).
        Found::Node(_) => Err(refusal(cx, forest, path, Errno::EACCES, Access::WRITE)?.into()),
        Found::Missing(above) => {
            let missing = Missing::new(partition, path, above);
            create(cx, forest, missing, b"", effects)
        }
    }
}

/// A path at which no node exists.
struct Missing<'p> {
    partition: Partition<'p>,
    path: Path<'p>,
    /// The permissions of the nearest existing ancestor and the length of its path, if it is in the same partition.
    above: Option<(Perms, usize)>,
}

impl<'p> Missing<'p> {
    fn new(
        partition: Partition<'p>,
        path: Path<'p>,
        above: Option<(&NodeArc, usize)>,
    ) -> Missing<'p> {
        let above = above.map(|(node, at)| (Arc::clone(&node.perms), at));
        Missing { partition, path, above }
    }
}

/// Creates the missing node with `value`, and each missing ancestor with an empty value. The created nodes inherit the
/// permissions of the nearest existing ancestor; a guest owns the nodes that it creates. Only the requested path is a
/// change of which watchers are notified, as in C xenstored.
fn create<F: Forest>(
    cx: &mut Context<'_>,
    forest: &mut F,
    missing: Missing<'_>,
    value: &[u8],
    effects: &mut Effects,
) -> Result<(), StoreError> {
    let Missing { partition, path, above } = missing;
    let (ancestor, at) = match above {
        Some(above) => above,
        None => nearest(forest, partition.root.parent().ok_or(Errno::EIO)?)?,
    };
    // The stamp is read before the check that the caller lives: if the caller dies and its domid is reused in between,
    // the stamp is older than the new incarnation's birth, so the new incarnation does not own the created nodes.
    let now = cx.registry.now();
    if !cx.access(&ancestor).allows(Access::WRITE) || !cx.caller_lives() {
        return Err(Errno::EACCES.into());
    }
    let branch = Branch::new(forest.layout(), partition, path, at);
    // Before the charge, which a restart for a missing lock would repeat.
    branch.claim(forest)?;

    let perms = ancestor.inherited(&cx.caller.subject, cx.registry.births(), now);
    let (nodes, bytes) = (branch.missing.len() as u64, branch.bytes(&perms, ancestor.owner()));
    let bytes = bytes + value.len() as u64;
    cx.check_size(size(&perms, 0, value.len()))?;
    // A privileged caller is not limited and skips this read of the parent, so its transactions do not conflict with
    // other changes of the same directory.
    if !cx.caller.subject.privileged
        && let Some(topmost) = branch.missing.last()
    {
        let anchor = branch.anchor;
        let size = forest.get(&branch.partition_of(anchor), anchor)?.map_or(0, |node| node.size());
        cx.check_size(size + topmost.name().len() + 1)?;
    }
    cx.charge(&perms, nodes, bytes)?;
    if ancestor.owner() != perms.owner() {
        branch.note_boundary(forest, perms.owner())?;
    }
    branch.attach(cx, forest, value, &perms)?;
    effects.changed(path.to_buf(), partition.shard, None, perms);
    Ok(())
}

/// A chain of missing nodes, created together.
struct Branch<'p> {
    layout: Layout,
    /// The partition of the lowest node.
    partition: Partition<'p>,
    /// The missing paths, the lowest first.
    missing: SmallVec<[Path<'p>; 8]>,
    /// The existing node that becomes the parent of the topmost missing one.
    anchor: Path<'p>,
}

impl<'p> Branch<'p> {
    /// Creates the chain from `path`, which lies in `partition`, up to but without the ancestor whose path has `at`
    /// bytes.
    fn new(layout: Layout, partition: Partition<'p>, path: Path<'p>, at: usize) -> Branch<'p> {
        let longer = |path: &Path<'_>| path.bytes().len() > at;
        let missing = std::iter::successors(Some(path), |path| path.parent()).take_while(longer);
        Branch { layout, partition, missing: missing.collect(), anchor: path.prefix(at) }
    }

    /// Returns the partition of one of the missing nodes or of the anchor.
    fn partition_of(&self, above: Path<'p>) -> Partition<'p> {
        self.layout.partition_above(self.partition, above)
    }

    /// Returns whether a missing node is the root of a partition.
    fn is_root(&self, here: Path<'p>) -> bool {
        // The partition's root is `here` or an ancestor, so equal lengths mean equal paths.
        self.partition_of(here).root.bytes().len() == here.bytes().len()
    }

    /// Claims every partition concerned: each missing node may be a partition's root, in another shard.
    fn claim<F: Forest>(&self, forest: &mut F) -> Result<(), StoreError> {
        forest.claim(&self.partition)?;
        let mut last = self.partition;
        for above in self.missing.iter().chain([&self.anchor]) {
            let partition = self.partition_of(*above);
            if partition != last {
                forest.claim(&partition)?;
                last = partition;
            }
        }
        Ok(())
    }

    /// Returns the charge for the missing nodes, without values; `above` is the anchor's owner.
    fn bytes(&self, perms: &Perms, above: Domid) -> u64 {
        let mut bytes = 0;
        for (at, here) in (1..).zip(&self.missing) {
            let is_topmost = at == self.missing.len();
            let above = if is_topmost { above } else { perms.owner() };
            let above = (!self.is_root(*here)).then_some(above);
            bytes +=
                charge_bytes(perms, here.name(), 0) + index_bytes(perms, here.bytes().len(), above);
        }
        bytes
    }

    /// Adds the boundary of `owner` at the topmost node to the index. A partition's root is added by
    /// [`Branch::attach`].
    fn note_boundary<F: Forest>(&self, forest: &mut F, owner: Domid) -> Result<(), StoreError> {
        let Some(&topmost) = self.missing.last() else { return Ok(()) };
        if self.is_root(topmost) {
            return Ok(());
        }
        forest.note_owned(&self.partition_of(topmost), owner, topmost)
    }

    /// Builds the missing nodes from the bottom up and attaches the topmost to the anchor.
    fn attach<F: Forest>(
        &self,
        cx: &Context<'_>,
        forest: &mut F,
        value: &[u8],
        perms: &Perms,
    ) -> Result<(), StoreError> {
        let mut node = Node::new(Arc::clone(perms), cx.generation, value);
        let above = self.missing.iter().skip(1).map(|path| (path, false));
        let above = above.chain([(&self.anchor, true)]);
        for (&here, (&parent, is_topmost)) in self.missing.iter().zip(above) {
            let (partition, is_root) = (self.partition_of(here), self.is_root(here));
            let child: Child = if is_root {
                forest.set_root(&partition, Some(NodeArc::new(node)))?;
                // After `set_root`, so that the index shares the path that the table of partitions keeps.
                forest.note_owned(&partition, perms.owner(), here)?;
                None
            } else {
                Some(NodeArc::new(node))
            };
            if is_topmost {
                let partition = self.partition_of(parent);
                if is_root {
                    return forest.name_partition(&partition, parent, here.name(), cx.generation);
                }
                if let Some(parent) = forest.get_mut(&partition, parent)? {
                    parent.insert_child(cx.generation, here.name(), child);
                }
                return Ok(());
            }
            node = Node::new(Arc::clone(perms), cx.generation, b"");
            node.insert_child(cx.generation, here.name(), child);
        }
        Ok(())
    }
}

/// SET_PERMS: only the owner may, and only the control domain may change the owner.
///
/// # Errors
/// `EACCES` for others, `EPERM` for a guest that names another owner, whose quota it could otherwise fill with nodes
/// that it gives away (XSA-352), `ENOENT` if the new owner is not alive, `ENOSPC` if there are too many entries.
pub fn set_perms<F: Forest>(
    cx: &mut Context<'_>,
    forest: &mut F,
    path: Path<'_>,
    perms: &Perms,
    effects: &mut Effects,
) -> Result<(), StoreError> {
    let partition = forest.layout().partition(path);
    forest.claim(&partition)?;
    // Checked under the lock, so that the owner cannot die between the check and the sweep of its nodes.
    if !cx.registry.births().holds(perms.owner(), perms.stamp()) {
        return Err(Errno::ENOENT.into());
    }
    // No exception for `/`, whose permissions a guest could otherwise set (XSA-353).
    let wanted = Access::SET_PERMS;
    let Some(node) = forest.get(&partition, path)? else {
        return Err(refusal(cx, forest, path, Errno::ENOENT, wanted)?.into());
    };
    if !cx.access(&node.perms).allows(wanted) {
        return Err(refusal(cx, forest, path, Errno::EACCES, wanted)?.into());
    }
    let before = Arc::clone(&node.perms);
    if !cx.caller.subject.privileged && perms.owner() != before.owner() {
        return Err(Errno::EPERM.into());
    }
    cx.check_size(size(perms, node.children().names_bytes(), node.value().len()))?;
    let (name, value_bytes) = (path.name(), node.value().len());
    // An owner that keeps its node is not charged for another one.
    let former = cx.registry.owner(before.owner(), before.stamp());
    // The account of a dead former owner is gone, so its node counts as another one even if the domid stays the same.
    let moved = u64::from(former.is_none() || before.owner() != perms.owner());
    let (mut old, mut new) =
        (charge_bytes(&before, name, value_bytes), charge_bytes(perms, name, value_bytes));
    if moved > 0 {
        let above = owner_above(forest.root(&partition)?, &partition, path);
        old += index_bytes(&before, path.bytes().len(), above);
        new += index_bytes(perms, path.bytes().len(), above);
    }
    // Credited first, so that the quota is compared with the difference.
    cx.credit(&before, moved, old);
    if let Err(errno) = cx.charge(perms, moved, new) {
        cx.recharge(&before, moved, old);
        return Err(errno.into());
    }
    if let Some(node) = forest.get_mut(&partition, path)? {
        node.set_perms(cx.generation, Arc::clone(perms));
    }
    if moved > 0 {
        reindex(cx, forest, &partition, path, (before.owner(), perms.owner()))?;
    }
    effects.changed(path.to_buf(), partition.shard, Some(before), Arc::clone(perms));
    Ok(())
}

/// Updates the index of owners and the charges for it after `path` changed its owner, even to another incarnation of
/// the same domid: nodes of the earlier incarnation below `path` become boundaries, which that incarnation's sweep must
/// find. Cost: the children.
fn reindex<F: Forest>(
    cx: &mut Context<'_>,
    forest: &mut F,
    partition: &Partition<'_>,
    path: Path<'_>,
    (before, after): (Domid, Domid),
) -> Result<(), StoreError> {
    forest.forget_owned(partition, before, path)?;
    if owner_above(forest.root(partition)?, partition, path) != Some(after) {
        forest.note_owned(partition, after, path)?;
    }
    let Some(node) = forest.get(partition, path)? else { return Ok(()) };
    // The clone ends the borrow of the forest, whose index the loop changes.
    let node = NodeArc::clone(node);
    for (name, child) in node.children().iter() {
        // The roots of other partitions are always boundaries, in the index of their own shard.
        let Some(child) = child else { continue };
        let owner = child.perms.owner();
        let lives = cx.registry.births().holds(owner, child.perms.stamp());
        let path = path.child(name.bytes());
        if owner == after && lives {
            forest.forget_owned(partition, owner, path.as_path())?;
        } else if owner == before {
            forest.note_owned(partition, owner, path.as_path())?;
        }
        let bytes = |above| child.index_bytes(path.as_path().bytes().len(), Some(above));
        cx.credit(&child.perms, 0, bytes(before));
        // Not `charge`, which may refuse: the owner has changed already.
        cx.recharge(&child.perms, 0, bytes(after));
    }
    Ok(())
}

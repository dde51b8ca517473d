//! RM: detaches subtrees of any size at the cost of a path.

use super::context::{Change, Context, Effects, Removed};
use super::error::StoreError;
use super::forest::Forest;
use super::node::NodeArc;
use super::read::refusal;
use crate::sync::Arc;
use crate::types::{Access, Errno, Partition, Path, PathBuf, ShardId, has_partitions_below};

/// Executes RM. Nodes below the removed one in other partitions are removed, too. [`super::settle`] accounts for the
/// removed nodes and frees them after the locks are released. Cost here: the depth, and the partitions below.
///
/// # Errors
/// `EINVAL` for the root, `EACCES`, `ENOENT` if not even the parent exists.
pub fn rm<F: Forest>(
    cx: &mut Context<'_>,
    forest: &mut F,
    path: Path<'_>,
    effects: &mut Effects,
) -> Result<(), StoreError> {
    // EINVAL for every caller; C xenstored checks a guest's permissions first (COMPATIBILITY.md, rm-root).
    if path.is_root() {
        return Err(Errno::EINVAL.into());
    }
    let parent = path.parent().ok_or(Errno::EINVAL)?;
    let partition = forest.layout().partition(path);
    forest.claim(&partition)?;
    match forest.get(&partition, path)? {
        Some(node) if cx.access(&node.perms).allows(Access::WRITE) => {}
        Some(_) => return Err(refusal(cx, forest, path, Errno::EACCES, Access::WRITE)?.into()),
        None => {
            let errno = refusal(cx, forest, path, Errno::ENOENT, Access::WRITE)?;
            let partition = forest.layout().partition(parent);
            // RM of a missing child succeeds (COMPATIBILITY.md, o-rm-missing).
            let has_parent = forest.perms(&partition, parent)?.is_some();
            return if errno == Errno::ENOENT && has_parent { Ok(()) } else { Err(errno.into()) };
        }
    }
    effects.changes.extend(detach(cx, forest, path)?);
    Ok(())
}

/// Detaches the node at `path` and the partitions below it; returns `None` if nothing is there.
///
/// # Errors
/// `ENOSPC` for a guest's transaction that removes too many nodes of others.
pub fn detach<F: Forest>(
    cx: &mut Context<'_>,
    forest: &mut F,
    path: Path<'_>,
) -> Result<Option<Change>, StoreError> {
    let layout = forest.layout();
    let (partition, parent) = (layout.partition(path), path.parent().ok_or(Errno::EINVAL)?);
    let parent_partition = layout.partition(parent);
    let partitions = partitions_below(forest, path)?;
    // All partitions are claimed before the first change, so a restart for a lock has nothing to undo.
    forest.claim(&partition)?;
    for below in &partitions {
        forest.claim(&below.partition())?;
    }
    if cx.credits_at_once() {
        let mut roots: Vec<_> = forest.get(&partition, path)?.cloned().into_iter().collect();
        for below in &partitions {
            roots.extend(forest.root(&below.partition())?.cloned());
        }
        cx.count_removed(&roots)?;
    }

    // Not claimed before: as the first change it may still restart for its lock.
    let Some(parent) = forest.get_mut(&parent_partition, parent)? else { return Ok(None) };
    let parent_perms = Arc::clone(&parent.perms);
    let child = parent.remove_child(cx.generation, path.name()).flatten();
    let is_root = partition.root == path;
    let root = if is_root { forest.set_root(&partition, None)? } else { child };
    let Some(root) = root else { return Ok(None) };
    let after = Arc::clone(&root.perms);
    let (shard, path) = (partition.shard, path.to_buf());
    // A partition's root is always a boundary in the index, whatever owns its parent.
    let above = (!is_root).then(|| parent_perms.owner());
    let mut removed = vec![Removed { path: path.clone(), root, above, credited: false }];
    removed.reserve_exact(partitions.len());
    for below in partitions {
        if let Some(root) = forest.set_root(&below.partition(), None)? {
            removed.push(Removed { path: below.root, root, above: None, credited: false });
        }
    }
    Ok(Some(Change { path, shard, before: None, after, parent: Some(parent_perms), removed }))
}

/// A partition below a removed node.
struct PartitionBelow {
    root: PathBuf,
    shard: ShardId,
}

impl PartitionBelow {
    fn partition(&self) -> Partition<'_> {
        Partition { shard: self.shard, root: self.root.as_path() }
    }
}

/// Returns the partitions strictly below `path`. Only directories that can hold partitions are visited, so the cost
/// is the number of their children.
fn partitions_below<F: Forest>(
    forest: &mut F,
    path: Path<'_>,
) -> Result<Vec<PartitionBelow>, StoreError> {
    let mut partitions = Vec::new();
    let mut todo = if has_partitions_below(path) { vec![path.to_buf()] } else { Vec::new() };
    while let Some(path) = todo.pop() {
        let path = path.as_path();
        let partition = forest.layout().partition(path);
        let Some(node) = forest.get(&partition, path)? else { continue };
        let node = NodeArc::clone(node);
        for (name, child) in node.children().iter() {
            let root = path.child(name.bytes());
            // Not only partitions are visited: `backend/vif` is an ordinary node with partitions below.
            if has_partitions_below(root.as_path()) {
                todo.push(root.clone());
            }
            if child.is_none() {
                let shard = forest.layout().partition(root.as_path()).shard;
                partitions.push(PartitionBelow { root, shard });
            }
        }
    }
    Ok(partitions)
}

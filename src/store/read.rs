//! The operations that change nothing: READ, DIRECTORY, DIRECTORY_PART, GET_PERMS.

use std::io::Write;

use super::context::Context;
use super::error::StoreError;
use super::forest::Forest;
use super::node::Node;
use super::tree::Found;
use crate::sync::Arc;
use crate::types::{Access, Errno, PAYLOAD_BYTES_MAX, Path, Perms};

/// Calls `look` with the node at `path` if the caller has the access `wanted`. Cost: the path's depth.
///
/// # Errors
/// `EACCES` or `ENOENT`, see [`refusal`].
pub fn with_node<F: Forest, R>(
    cx: &Context<'_>,
    forest: &mut F,
    path: Path<'_>,
    wanted: Access,
    look: impl FnOnce(&Node) -> R,
) -> Result<R, StoreError> {
    let partition = forest.layout().partition(path);
    let errno = match forest.get(&partition, path)? {
        Some(node) if cx.access(&node.perms).allows(wanted) => return Ok(look(node)),
        Some(_) => Errno::EACCES,
        None => Errno::ENOENT,
    };
    Err(refusal(cx, forest, path, errno, wanted)?.into())
}

/// Returns the error for a node that is missing or refused. `ENOENT` would reveal that the node is missing, so a
/// caller without any of the access `wanted` to the nearest existing ancestor gets `EACCES` instead.
pub fn refusal<F: Forest>(
    cx: &Context<'_>,
    forest: &mut F,
    path: Path<'_>,
    errno: Errno,
    wanted: Access,
) -> Result<Errno, StoreError> {
    let parent = path.parent().unwrap_or(Path::ROOT);
    // As in C xenstored, and unlike oxenstored, which reveals it (COMPATIBILITY.md, o-hidden-nodes).
    let (perms, _) = nearest(forest, parent)?;
    let granted = cx.access(&perms);
    Ok(if granted.overlaps(wanted) { errno } else { Errno::EACCES })
}

/// Returns the permissions of the node at `path` or of its nearest existing ancestor, and the length of that one's
/// path. Cost: the depth, and a look-up of each partition on the way up.
///
/// # Errors
/// [`StoreError::NeedsLock`]; `EIO` if the store has no root, which does not happen.
pub fn nearest<F: Forest>(forest: &mut F, path: Path<'_>) -> Result<(Perms, usize), StoreError> {
    let mut at = path;
    loop {
        let partition = forest.layout().partition(at);
        // Asked for first: if the node exists, a transaction depends only on its permissions and not on the whole
        // partition.
        if let Some(perms) = forest.perms(&partition, at)? {
            return Ok((perms, at.bytes().len()));
        }
        match forest.find(&partition, at)? {
            Found::Node(node) => return Ok((Arc::clone(&node.perms), at.bytes().len())),
            Found::Missing(Some((node, len))) => return Ok((Arc::clone(&node.perms), len)),
            Found::Missing(None) => at = partition.root.parent().ok_or(Errno::EIO)?,
        }
    }
}

/// READ: appends the value to `reply`.
pub fn read<F: Forest>(
    cx: &Context<'_>,
    forest: &mut F,
    path: Path<'_>,
    reply: &mut Vec<u8>,
) -> Result<(), StoreError> {
    with_node(cx, forest, path, Access::READ, |node| reply.extend_from_slice(node.value()))
}

/// DIRECTORY: appends the children's names, each with a NUL. Cost: linear in the number of children.
///
/// # Errors
/// `E2BIG` if they exceed a reply's payload; clients then use DIRECTORY_PART.
pub fn directory<F: Forest>(
    cx: &Context<'_>,
    forest: &mut F,
    path: Path<'_>,
    reply: &mut Vec<u8>,
) -> Result<(), StoreError> {
    with_node(cx, forest, path, Access::READ, |node| {
        if node.children().names_bytes() > PAYLOAD_BYTES_MAX {
            return Err(Errno::E2BIG.into());
        }
        for (name, _) in node.children().iter() {
            reply.extend_from_slice(name.bytes());
            reply.push(0);
        }
        Ok(())
    })?
}

/// DIRECTORY_PART: appends the generation, then the list of names from byte `offset` on as far as it fits; an empty
/// name marks its end. A client that sees another generation in a later part restarts. Cost: the children up to the
/// end of the part.
pub fn directory_part<F: Forest>(
    cx: &Context<'_>,
    forest: &mut F,
    path: Path<'_>,
    offset: usize,
    reply: &mut Vec<u8>,
) -> Result<(), StoreError> {
    with_node(cx, forest, path, Access::READ, |node| {
        let start = reply.len();
        // Writing to a vector does not fail.
        // A path has at most 3,072 bytes, so at least one whole name fits after the generation and the client makes
        // progress.
        let _ = write!(reply, "{}\0", node.generation());
        let mut position = 0;
        for (name, _) in node.children().iter() {
            let end = position + name.bytes().len() + 1;
            if end > offset {
                let rest = &name.bytes()[offset.saturating_sub(position)..];
                // One byte stays reserved for the empty name at the end.
                if reply.len() - start + rest.len() + 2 > PAYLOAD_BYTES_MAX {
                    return;
                }
                reply.extend_from_slice(rest);
                reply.push(0);
            }
            position = end;
        }
        reply.push(0);
    })
}

/// GET_PERMS: appends the entries, each as `<letter><domid>` with a NUL, without those of domains that died since
/// they were set ([`PermSet::shown`](crate::types::PermSet::shown)).
pub fn get_perms<F: Forest>(
    cx: &Context<'_>,
    forest: &mut F,
    path: Path<'_>,
    reply: &mut Vec<u8>,
) -> Result<(), StoreError> {
    with_node(cx, forest, path, Access::READ, |node| {
        for entry in node.perms.shown(cx.registry.births()) {
            reply.push(entry.access.letter());
            let _ = write!(reply, "{}\0", entry.domid);
        }
    })
}

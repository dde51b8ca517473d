//! The operations that only look: READ, DIRECTORY, DIRECTORY_PART, GET_PERMS.

use std::io::Write;

use super::context::Context;
use super::error::StoreError;
use super::forest::Forest;
use super::node::Node;
use super::tree::Found;
use crate::sync::Arc;
use crate::words::{Access, Errno, PAYLOAD_BYTES_MAX, Path, Perms};

/// Calls `look` with the node at `path` if the caller has `wanted` there. Cost: the path's depth.
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
    let home = forest.layout().home(path);
    let errno = match forest.get(&home, path)? {
        Some(node) if cx.access(&node.perms).allows(wanted) => return Ok(look(node)),
        Some(_) => Errno::EACCES,
        None => Errno::ENOENT,
    };
    Err(refusal(cx, forest, path, errno, wanted)?.into())
}

/// The error for a node that is missing or refused. Whether `ENOENT` may be told depends on the
/// nearest existing ancestor: who has nothing of what was wanted there learns nothing (`EACCES`).
pub fn refusal<F: Forest>(
    cx: &Context<'_>,
    forest: &mut F,
    path: Path<'_>,
    errno: Errno,
    wanted: Access,
) -> Result<Errno, StoreError> {
    let parent = path.parent().unwrap_or(Path::ROOT);
    let (perms, _) = nearest(forest, parent)?;
    let granted = cx.access(&perms);
    Ok(if granted.overlaps(wanted) { errno } else { Errno::EACCES })
}

/// The permissions of the node at `path` or of the nearest one above it, and the length of its path.
/// Cost: the depth, and a look at each home on the way up.
///
/// # Errors
/// Besides a lock that is needed: `EIO` if there is no root, which cannot be.
pub fn nearest<F: Forest>(forest: &mut F, path: Path<'_>) -> Result<(Perms, usize), StoreError> {
    let mut at = path;
    loop {
        let home = forest.layout().home(at);
        if let Some(perms) = forest.perms(&home, at)? {
            return Ok((perms, at.bytes().len()));
        }
        match forest.find(&home, at)? {
            Found::Node(node) => return Ok((Arc::clone(&node.perms), at.bytes().len())),
            Found::Missing(Some((node, len))) => return Ok((Arc::clone(&node.perms), len)),
            Found::Missing(None) => at = home.root.parent().ok_or(Errno::EIO)?,
        }
    }
}

/// READ: the value.
pub fn read<F: Forest>(
    cx: &Context<'_>,
    forest: &mut F,
    path: Path<'_>,
    reply: &mut Vec<u8>,
) -> Result<(), StoreError> {
    with_node(cx, forest, path, Access::READ, |node| reply.extend_from_slice(node.value()))
}

/// DIRECTORY: the children's names, each with a NUL. Cost: their number.
///
/// # Errors
/// `E2BIG` if they do not fit a reply.
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

/// DIRECTORY_PART: the generation, then the list from `offset` on as far as it fits; an empty name
/// ends it. Cost: the children up to the end of the part.
pub fn directory_part<F: Forest>(
    cx: &Context<'_>,
    forest: &mut F,
    path: Path<'_>,
    offset: usize,
    reply: &mut Vec<u8>,
) -> Result<(), StoreError> {
    with_node(cx, forest, path, Access::READ, |node| {
        let start = reply.len();
        // A vector in memory takes every write.
        let _ = write!(reply, "{}\0", node.generation());
        let mut position = 0;
        for (name, _) in node.children().iter() {
            let end = position + name.bytes().len() + 1;
            if end > offset {
                let rest = &name.bytes()[offset.saturating_sub(position)..];
                // One byte is kept for the empty name at the end.
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

/// GET_PERMS: the entries, each as `<letter><domid>` with a NUL. Those of domains that died since they
/// were set are left out ([`PermSet::shown`](crate::words::PermSet::shown)).
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

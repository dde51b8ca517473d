//! DISCARD_DOMAINS: reverts an import.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::{Outcome, divided, try_often};
use crate::server::OwnerThreads;
use crate::store::{DomainSnapshot, Generations, NodeArc, Op, StoreError, Verb};
use crate::sync::Arc;
use crate::types::{Domid, Errno, Logged, Path, PathBuf, PermSet};

/// Reverts the imports of these domains. Cost: the nodes of the domains.
pub fn discard_domains(owners: &OwnerThreads, domids: &[Domid]) -> Vec<Outcome> {
    let discard = |(&domid, seen): (&Domid, Result<DomainSnapshot, Errno>)| match seen {
        Ok(seen) => match remove_partitions(owners, &seen) {
            Ok(()) => Outcome::done(domid, &[]),
            Err((path, errno)) => Outcome::failed(
                domid,
                errno,
                format!("{} could not be removed; remove it", path.as_path()),
            ),
        },
        Err(errno) => {
            Outcome::failed(domid, errno, "it was not imported, or has been served since")
        }
    };
    // Connections and states first: a saved connection must not be restored onto nodes that are being removed.
    let outcomes: Vec<Outcome> = domids.iter().zip(owners.discard(domids)).map(discard).collect();
    let (done, _) = divided(&outcomes);
    if !done.is_empty() {
        tracing::info!(domains = done.len(), domids = %Logged(&done), "discarded");
    }
    outcomes
}

/// Removes a domain's partitions, the present ones and those that came with the import. The deepest partitions are
/// removed first, so that none is needed as scaffolding of another.
///
/// # Errors
/// The first node that could not be changed, with its error. The rest is removed nevertheless.
fn remove_partitions(owners: &OwnerThreads, seen: &DomainSnapshot) -> Result<(), (PathBuf, Errno)> {
    let (store, mut result) = (owners.store(), Ok(()));
    let mut change = |path: &PathBuf, verb: Verb<'_>| {
        if let Err(errno) = change(owners, path.as_path(), verb) {
            tracing::warn!(
                %errno,
                path = %path.as_path(),
                "cannot remove a node of a discarded domain"
            );
            // The reply has room for one path; the log has all.
            if result.is_ok() {
                result = Err((path.clone(), errno));
            }
        }
    };
    let now = DomainSnapshot::of(store, &store.snapshot_all(), seen.domid);
    let roots = now.partitions.iter().chain(&seen.partitions).map(|(root, _)| root);
    for root in roots.collect::<BTreeSet<_>>().into_iter().rev() {
        let partition = store.layout().partition(root.as_path());
        // A snapshot per partition, since the removals before have changed the tree.
        let tree = store.snapshot(partition.shard);
        let Some(node) = tree.root(&partition) else { continue };
        let (goes, stays) = divide(root, node);
        for path in goes {
            change(&path, Verb::Rm);
        }
        // Nodes that stay must be scaffolding, since a later import accepts no other node at its roots.
        for path in stays {
            change(&path, Verb::Write(Cow::Borrowed(b"")));
            change(&path, Verb::SetPerms(Arc::new(PermSet::control_only())));
        }
    }
    result
}

/// Divides a partition into the topmost nodes to remove and the nodes to keep, which lead to other partitions.
/// Without recursion, as guests choose the depth.
fn divide(root: &PathBuf, node: &NodeArc) -> (Vec<PathBuf>, Vec<PathBuf>) {
    // Each node precedes those below it, and has its parent's index.
    let (mut nodes, mut todo) = (Vec::new(), vec![(root.clone(), node, None)]);
    while let Some((path, node, above)) = todo.pop() {
        let here = nodes.len();
        for (name, child) in node.children().iter() {
            if let Some(child) = child {
                todo.push((path.as_path().child(name.bytes()), child, Some(here)));
            }
        }
        // A name without a node is the root of another partition.
        let leads = node.children().iter().any(|(_, child)| child.is_none());
        nodes.push((path, above, leads));
    }
    // Nodes follow their parents, so a single pass from the end reaches all ancestors.
    for at in (0..nodes.len()).rev() {
        if let (_, Some(above), true) = nodes[at] {
            nodes[above].2 = true;
        }
    }
    let (mut goes, mut stays) = (Vec::new(), Vec::new());
    for (path, above, leads) in &nodes {
        if *leads {
            stays.push(path.clone());
        // Only topmost nodes: RM removes what is below.
        } else if above.is_none_or(|above| nodes[above].2) {
            goes.push(path.clone());
        }
    }
    (goes, stays)
}

/// Runs one operation of the daemon itself, and again if an epoch began since its check, as for any client.
fn change(owners: &OwnerThreads, path: Path<'_>, verb: Verb<'_>) -> Result<(), Errno> {
    let (op, mut generations) = (Op { path, verb }, Generations::default());
    let executed = try_often(
        || owners.store().execute(&owners.caller(), &op, &mut generations, &mut Vec::new()),
        |error| matches!(error, StoreError::StaleEpoch | StoreError::NeedsLock(..)),
    );
    match executed {
        Ok(executed) => {
            owners.settle(executed);
            Ok(())
        }
        // Another client removed the node first.
        Err(StoreError::Refused(Errno::ENOENT)) => Ok(()),
        Err(StoreError::Refused(errno)) => Err(errno),
        Err(StoreError::StaleEpoch | StoreError::NeedsLock(..)) => Err(Errno::EAGAIN),
    }
}

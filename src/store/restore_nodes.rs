//! The nodes of another daemon's store, of which this one is the successor.

use super::context::{Caller, Context, Effects, Ledger};
use super::forest::{Forest, LockSet, Locked};
use super::import_subtrees::{Import, ImportError, ImportedNode};
use super::node::NodeArc;
use super::{Generations, Store};

/// Inserts all nodes of another store into an empty one, each after its parent. No watch fires, and owners are charged
/// regardless of their quotas. Cost: building the nodes.
///
/// # Errors
/// See [`ImportError`]; then the store is of no use.
pub fn restore_nodes(
    store: &Store,
    nodes: &[ImportedNode<'_>],
    by: &Caller,
    generations: &mut Generations,
) -> Result<(), ImportError> {
    let generation = generations.next(store);
    let import = Import::build(store.layout, nodes, generation)?;
    import.check_owners(&store.registry)?;
    let mut locked = Locked::take(&store.shards, &LockSet::all(store.layout, true));
    let ledger = Ledger::Accounts;
    let registry = &store.registry;
    let mut cx = Context { registry, caller: by, generation, ledger, path: None };
    // The changes are those of no client, so nothing is notified of them.
    let mut unpublished = Effects::default();
    // In path order the partition of each parent precedes those below it.
    for (path, subtree) in import.partitions {
        let partition = store.layout.partition(path.as_path());
        // Special paths are below no node.
        if let Some(parent) = path.as_path().parent().filter(|_| !path.as_path().is_special()) {
            let above = store.layout.partition(parent);
            let loose = || ImportError::Loose(path.clone());
            locked.root_of(&above).ok_or_else(loose)?;
            locked.name_partition(&above, parent, partition.root.name(), generation)?;
        }
        locked.set_root(&partition, Some(NodeArc::clone(&subtree.root)))?;
        subtree.charge(&mut cx, &mut locked, &partition, (None, &mut unpublished))?;
    }
    Ok(())
}

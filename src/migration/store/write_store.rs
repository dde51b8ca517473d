//! Writing all nodes of a store, for a process that goes on with it.

use std::io::{self, Write};

use super::write_domains::{Form, write_subtree};
use crate::migration::stream::Writer;
use crate::store::{NodeArc, Store, Tree};
use crate::sync::workers::Workers;
use crate::types::PathBuf;

/// Partitions whose records are in memory at the same time: enough to occupy all threads, some hundred kilobytes of
/// ordinary ones.
const PARTITIONS_AT_ONCE: usize = 512;

/// Writes the nodes of `trees`, a snapshot of all shards ([`Store::snapshot_all`]), in the order of the partitions'
/// paths, so that parents precede their children and equal stores give equal bytes. Returns the number of nodes. The
/// threads of the pool share the partitions. Cost: all nodes.
///
/// # Errors
/// Those of the output; `InvalidInput` for a value that the format cannot represent.
pub fn write_store<W: Write>(
    store: &Store,
    trees: &[Tree],
    form: Form,
    writer: &mut Writer<W>,
) -> io::Result<u64> {
    let births = store.registry().births();
    let mut partitions: Vec<(&PathBuf, &NodeArc)> =
        trees.iter().flat_map(Tree::partitions).collect();
    partitions.sort_unstable_by_key(|(root, _)| *root);
    let (workers, mut nodes) = (Workers::find(), 0);
    for some in partitions.chunks(PARTITIONS_AT_ONCE) {
        let subtree =
            |&(root, node): &(&PathBuf, &NodeArc)| write_subtree(root, node, births, form);
        for made in workers.map(some, subtree) {
            let invalid = |fault| io::Error::new(io::ErrorKind::InvalidInput, fault);
            let (records, count) = made.map_err(invalid)?;
            writer.write_appended(&records)?;
            nodes += count;
        }
    }
    Ok(nodes)
}

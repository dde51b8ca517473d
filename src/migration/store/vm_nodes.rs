//! The `/vm/<uuid>` subtree of a domain: the nodes of a virtual machine, which outlive the domain. The domain's node
//! `vm`, written by libxl, names it. If the domain itself could write that node, it could name and export another
//! machine's subtree, so in that case the subtree is left out.

use crate::store::{NodeArc, Store, Tree};
use crate::types::{Access, Domid, Entry, Path, PathBuf, PathSpace, partition_prefix};

/// The parent directory of the virtual machines' subtrees.
const MACHINES: &[u8] = b"/vm/";

/// The most bytes of a `/vm/<uuid>` that is reported as a name. libxl's have 40.
const MACHINE_BYTES_MAX: usize = 256;

/// The path `/vm/<uuid>`, and its node if it exists.
pub(super) type Machine<'t> = (PathBuf, Option<&'t NodeArc>);

/// Returns the `/vm/<uuid>` that a domain's node `vm` names and that is exported with the domain.
pub(super) fn machine<'t>(store: &Store, trees: &'t [Tree], domid: Domid) -> Option<Machine<'t>> {
    let (perms, value) = naming(store, trees, domid)?;
    let root = machine_named(domid, &perms, value)?;
    Some((root.to_buf(), get(store, trees, root)))
}

/// Returns the `/vm/<uuid>` that a domain's node `vm` names but that is left out because the domain can write that
/// node. Cost: two node look-ups.
pub fn left_behind(store: &Store, trees: &[Tree], domid: Domid) -> Option<PathBuf> {
    let (perms, value) = naming(store, trees, domid)?;
    let root = path_named(value).filter(|_| can_write(domid, &perms))?;
    get(store, trees, root).map(|_| root.to_buf())
}

/// Returns the `/vm/<uuid>` that a domain's node `vm` names, whether it exists or not: a name by which a person or a
/// tool tells a domain from another one with its domid. The domain may have written it. Cost: a node look-up.
pub fn named_machine(store: &Store, trees: &[Tree], domid: Domid) -> Option<String> {
    let (_, value) = naming(store, trees, domid)?;
    let path = path_named(value).filter(|path| path.bytes().len() <= MACHINE_BYTES_MAX)?;
    Some(path.to_string())
}

fn get<'t>(store: &Store, trees: &'t [Tree], path: Path<'_>) -> Option<&'t NodeArc> {
    let partition = store.layout().partition(path);
    trees.get(usize::from(partition.shard.0))?.get(&partition, path)
}

/// Returns the permissions and the value of a domain's node `vm`.
fn naming<'t>(store: &Store, trees: &'t [Tree], domid: Domid) -> Option<(Vec<Entry>, &'t [u8])> {
    let node = get(store, trees, machine_name(domid).as_path())?;
    Some((node.perms.lasting(store.registry().births()).collect(), node.value()))
}

/// Returns the path of the node that names a domain's `/vm/<uuid>`.
pub(super) fn machine_name(domid: Domid) -> PathBuf {
    let mut path = PathSpace::new();
    partition_prefix(domid, &mut path);
    path.extend_from_slice(b"vm");
    Path::parse(&path).unwrap_or(Path::ROOT).to_buf()
}

/// Returns the path that such a node names, given its permissions and value; `None` if the domain can write it.
pub(super) fn machine_named<'v>(
    domid: Domid,
    perms: &[Entry],
    value: &'v [u8],
) -> Option<Path<'v>> {
    path_named(value).filter(|_| !can_write(domid, perms))
}

/// Parses a value as the path of a virtual machine.
fn path_named(value: &[u8]) -> Option<Path<'_>> {
    // Only children of `/vm`: a deeper path could name a part of another machine's subtree.
    let name = value.strip_prefix(MACHINES).filter(|name| !name.contains(&b'/'))?;
    Path::parse(value).ok().filter(|_| !name.is_empty())
}

/// Returns whether a domain can write a node with these permissions. A node without any permissions counts as writable.
fn can_write(domid: Domid, perms: &[Entry]) -> bool {
    let Some((owner, others)) = perms.split_first() else { return true };
    let means = |entry: &&Entry| !entry.ignored && [domid, Domid::ANY].contains(&entry.domid);
    // The owner's letter is the access of all domains without an entry (xenstore.txt, SET_PERMS).
    let access = others.iter().find(means).map_or(owner.access, |entry| entry.access);
    owner.domid == domid || access.allows(Access::WRITE)
}

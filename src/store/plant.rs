//! The nodes of an empty store.

use super::Store;
use super::node::{Node, NodeArc};
use crate::domain::Quota;
use crate::sync::Arc;
use crate::types::{Access, Domid, Entry, INTRODUCE_DOMAIN, Path, PermSet, RELEASE_DOMAIN};

/// Creates the nodes that every client expects: `/`, `/tool`, `/tool/xenstored`, and the special ones. Every domain may
/// watch `@releaseDomain`.
pub fn plant(store: &Store) {
    let control = Arc::new(PermSet::control_only());
    // As in C xenstored since April 2026 (COMPATIBILITY.md, permissions of `@releaseDomain`).
    let any = Entry { domid: Domid::ANY, access: Access::READ, ignored: false };
    let readable = Arc::new(PermSet::new(control.stamp(), control.entries()[0], &[any]));
    let node = |perms: &Arc<PermSet>| Node::new(Arc::clone(perms), 0, b"");
    let mut root = node(&control);
    let mut tool = node(&control);
    // `/tool/xenstored` is a partition of its own, as is every `/<a>/<b>`, so its parent holds only the name.
    tool.insert_child(0, b"xenstored", None);
    root.insert_child(0, b"tool", Some(NodeArc::new(tool)));
    for (path, node) in [
        (&b"/"[..], root),
        (b"/tool/xenstored", node(&control)),
        (INTRODUCE_DOMAIN, node(&control)),
        (RELEASE_DOMAIN, node(&readable)),
    ] {
        let Ok(path) = Path::parse(path) else { continue };
        let partition = store.layout.partition(path);
        let mut shard = store.shards.write(partition.shard);
        charge(store, path, &node);
        shard.tree.set_root(partition.root, Some(NodeArc::new(node)));
    }
}

/// Charges the control domain for a node of [`plant`], like for each node that it creates later; otherwise the
/// consistency check would find the account too low.
fn charge(store: &Store, path: Path<'_>, node: &Node) {
    let Some(control) = store.registry.get(Domid::CONTROL) else { return };
    let below = node.children().iter().filter_map(|(name, child)| Some((name, child.as_ref()?)));
    let charges = below.map(|(name, child)| child.charge_bytes(name.bytes()));
    for bytes in charges.chain([node.charge_bytes(path.name())]) {
        control.account.charge(Quota::Nodes, 1);
        control.account.charge(Quota::Memory, bytes);
    }
}

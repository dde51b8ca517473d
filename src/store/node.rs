//! A node of the store.

use crate::sync::Arc;
use crate::words::{Children, Perms};

/// What a directory holds under a child's name: the node, or nothing if that child is a home of
/// its own and lives in its own shard.
pub type Child = Option<Arc<Node>>;

/// A node: its value, its permissions, its children.
#[derive(Clone)]
pub struct Node {
    /// Who may do what, and who owns it. Usually shared with the parent.
    pub perms: Perms,
    /// Unique to the last change of value, permissions or children; nothing reads an order from it.
    pub generation: u64,
    /// The value: bytes, usually text.
    pub value: Box<[u8]>,
    /// What lies directly below.
    pub children: Children<Child>,
}

/// What a node costs its owner beside its name, value and permission entries: about what the
/// process really pays for it.
const NODE_BYTES: usize = 96;
/// What a permission entry costs.
const ENTRY_BYTES: usize = 8;
/// The header that C counts into the quota `node-size`, so that the same limit bites at the same
/// value.
const SIZE_HEADER_BYTES: usize = 16;

impl Node {
    /// A node without value or children.
    pub fn empty(perms: Perms, generation: u64) -> Node {
        Node { perms, generation, value: Box::default(), children: Children::new() }
    }

    /// What it is charged with in the quota `memory`, in bytes.
    pub fn charge_bytes(&self, name: &[u8]) -> u64 {
        charge_bytes(&self.perms, name, self.value.len())
    }

    /// Its size in the quota `node-size`, in bytes: permissions, names of children, value.
    pub fn size(&self) -> usize {
        size(&self.perms, self.children.names_bytes(), self.value.len())
    }
}

/// [`Node::charge_bytes`] of a node that does not exist yet.
pub fn charge_bytes(perms: &Perms, name: &[u8], value_bytes: usize) -> u64 {
    (NODE_BYTES + ENTRY_BYTES * perms.entries().len() + name.len() + value_bytes) as u64
}

/// [`Node::size`] of a node that does not exist yet.
pub fn size(perms: &Perms, names_bytes: usize, value_bytes: usize) -> usize {
    SIZE_HEADER_BYTES + ENTRY_BYTES * perms.entries().len() + names_bytes + value_bytes
}

/// Nodes go one by one, however deep the tree: a guest decides how deep (XSA-418).
impl Drop for Node {
    fn drop(&mut self) {
        if self.children.is_empty() {
            return;
        }
        let mut below = Vec::new();
        self.children.drain_into(&mut below);
        while let Some(child) = below.pop() {
            if let Some(mut node) = child.and_then(Arc::into_inner) {
                node.children.drain_into(&mut below);
            }
        }
    }
}

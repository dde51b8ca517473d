//! The store's node and its layout in memory.

use crate::types::{Children, Domid, FlatDrop, Perms};

/// A shared node. triomphe's `Arc` has no weak references, so its header is one count of 8 bytes where std's has two.
pub type NodeArc = triomphe::Arc<Node>;

/// A directory's entry for a child: the node, or `None` if the child is the root of another partition, which is in
/// its own shard.
pub type Child = Option<NodeArc>;

/// A node: permissions, value, children, and a generation.
///
/// A look-up is a chain of cache misses, and most nodes are leaves with a short value. So this struct with its count
/// fills the allocator's block of 40 bytes, a value of up to 7 bytes is inside, a directory is one pointer away from
/// its children, and the generation of a longer value takes the room that a value of 64 bytes leaves in a block of
/// 80.
#[derive(Clone)]
pub struct Node {
    /// The permissions, the first of which names the owner. Usually shared with the parent.
    pub perms: Perms,
    content: Content,
}

#[derive(Clone)]
enum Content {
    /// A leaf with a value of at most [`SHORT_BYTES_MAX`], such as a state, port or flag.
    Short { generation: u64, len: u8, value: [u8; SHORT_BYTES_MAX] },
    /// Any other leaf: the generation ([`GENERATION_BYTES`], little-endian), then the value.
    Long(Box<[u8]>),
    /// At least one child.
    Directory { head: Box<Head>, children: Children<Child> },
}

/// A directory's value and generation. Copies of a directory share its value: a change below copies all directories
/// on the way, and a guest chooses their number and the lengths of their values, 1.8 MB for 900 levels of 2 KB.
#[derive(Clone)]
struct Head {
    generation: u64,
    /// `None` if empty, as most are.
    value: Option<triomphe::Arc<[u8]>>,
}

const GENERATION_BYTES: usize = size_of::<u64>();
/// Maximum length of a value stored inline: with the generation it takes the place of a directory's two pointers.
const SHORT_BYTES_MAX: usize = 7;

static NO_CHILDREN: Children<Child> = Children::new();

const _: () = assert!(size_of::<Node>() == 32);

/// The charge for a node without its name, value and permission entries, in bytes: about the memory that it takes.
const NODE_BYTES: usize = 96;
/// The charge for a permission entry, in bytes: a set that only one node has takes one or two allocations.
const ENTRY_BYTES: usize = 16;
/// The size of a permission entry in the quota `node-size`, in bytes.
const ENTRY_SIZE_BYTES: usize = 8;
/// The header that C xenstored counts in the quota `node-size` (`struct node_hdr`; 24 bytes in 4.17); counted here too,
/// so that a limit admits the same values.
const SIZE_HEADER_BYTES: usize = 16;

impl Node {
    /// Creates a node without children.
    pub fn new(perms: Perms, generation: u64, value: &[u8]) -> Node {
        Node { perms, content: Content::leaf(generation, value) }
    }

    /// Returns the value: bytes, usually text.
    pub fn value(&self) -> &[u8] {
        match &self.content {
            Content::Short { len, value, .. } => &value[..usize::from(*len)],
            Content::Long(bytes) => &bytes[GENERATION_BYTES..],
            Content::Directory { head, .. } => head.value(),
        }
    }

    /// Returns the number of the last change of value, permissions or children. The number is unique to that change;
    /// the order of numbers has no meaning.
    pub fn generation(&self) -> u64 {
        match &self.content {
            Content::Short { generation, .. } => *generation,
            Content::Long(bytes) => {
                // The default is never used: `Content::leaf` puts the generation first.
                let generation = bytes.first_chunk().copied().unwrap_or_default();
                u64::from_le_bytes(generation)
            }
            Content::Directory { head, .. } => head.generation,
        }
    }

    /// Returns the children.
    pub fn children(&self) -> &Children<Child> {
        match &self.content {
            Content::Directory { children, .. } => children,
            Content::Short { .. } | Content::Long(_) => &NO_CHILDREN,
        }
    }

    /// Returns the child called `name`, for changing.
    pub fn child_mut(&mut self, name: &[u8]) -> Option<&mut Child> {
        match &mut self.content {
            Content::Directory { children, .. } => children.get_mut(name),
            Content::Short { .. } | Content::Long(_) => None,
        }
    }

    /// Sets the value. A long value is overwritten in place if the length stays the same.
    pub fn set_value(&mut self, generation: u64, value: &[u8]) {
        match &mut self.content {
            // Most values are replaced by one of the same length, such as a state or count.
            Content::Long(bytes) if bytes.len() == GENERATION_BYTES + value.len() => {
                let (old_generation, old) = bytes.split_at_mut(GENERATION_BYTES);
                old_generation.copy_from_slice(&generation.to_le_bytes());
                old.copy_from_slice(value);
            }
            Content::Short { .. } | Content::Long(_) => {
                self.content = Content::leaf(generation, value);
            }
            Content::Directory { head, .. } => **head = Head::new(generation, value),
        }
    }

    /// Sets the permissions.
    pub fn set_perms(&mut self, generation: u64, perms: Perms) {
        self.perms = perms;
        match &mut self.content {
            Content::Short { generation: old, .. } => *old = generation,
            Content::Long(bytes) => {
                bytes[..GENERATION_BYTES].copy_from_slice(&generation.to_le_bytes());
            }
            Content::Directory { head, .. } => head.generation = generation,
        }
    }

    /// Adds a child, or replaces the one with that name and returns it.
    pub fn insert_child(&mut self, generation: u64, name: &[u8], child: Child) -> Option<Child> {
        if !matches!(self.content, Content::Directory { .. }) {
            let head = Box::new(Head::new(generation, self.value()));
            self.content = Content::Directory { head, children: Children::new() };
        }
        let Content::Directory { head, children } = &mut self.content else { return None };
        // By the generation DIRECTORY_PART's clients notice that the list changed between two parts.
        head.generation = generation;
        children.insert(name, child)
    }

    /// Removes and returns the child called `name`. Without children the node is a leaf again.
    pub fn remove_child(&mut self, generation: u64, name: &[u8]) -> Option<Child> {
        let Content::Directory { head, children } = &mut self.content else { return None };
        let child = children.remove(name)?;
        head.generation = generation;
        if children.is_empty() {
            self.content = Content::leaf(generation, head.value());
        }
        Some(child)
    }

    /// Corrupts the sum of the lengths of the children's names, if the node keeps it, for tests of the consistency
    /// check.
    #[cfg(test)]
    pub fn falsify_names_bytes(&mut self) {
        if let Content::Directory { children, .. } = &mut self.content {
            children.falsify_names_bytes();
        }
    }

    /// Returns the approximate number of bytes that a copy takes, without shared parts.
    pub fn copy_bytes(&self) -> usize {
        let content = match &self.content {
            Content::Short { .. } => 0,
            Content::Long(bytes) => bytes.len(),
            Content::Directory { children, .. } => size_of::<Head>() + children.copy_bytes(),
        };
        size_of::<Node>() + size_of::<usize>() + content
    }

    /// Returns the number of bytes that a copy shares until its value is replaced.
    pub fn shared_bytes(&self) -> usize {
        match &self.content {
            Content::Short { .. } | Content::Long(_) => 0,
            Content::Directory { head, .. } => head.value().len(),
        }
    }

    /// Returns the charge in the quota `memory`, in bytes, without [`Node::index_bytes`].
    pub fn charge_bytes(&self, name: &[u8]) -> u64 {
        charge_bytes(&self.perms, name, self.value().len())
    }

    /// Returns the additional charge for index entries, in bytes; its path has `path_bytes`, and its parent in the
    /// partition belongs to `above`. See the function `index_bytes`.
    pub fn index_bytes(&self, path_bytes: usize, above: Option<Domid>) -> u64 {
        index_bytes(&self.perms, path_bytes, above)
    }

    /// Returns the node's size as the quota `node-size` counts it, in bytes: permissions, names of children, value.
    pub fn size(&self) -> usize {
        size(&self.perms, self.children().names_bytes(), self.value().len())
    }
}

impl Head {
    fn new(generation: u64, value: &[u8]) -> Head {
        Head { generation, value: (!value.is_empty()).then(|| value.into()) }
    }

    fn value(&self) -> &[u8] {
        self.value.as_deref().unwrap_or_default()
    }
}

impl Content {
    fn leaf(generation: u64, value: &[u8]) -> Content {
        let mut short = [0; SHORT_BYTES_MAX];
        match (short.get_mut(..value.len()), u8::try_from(value.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(value);
                Content::Short { generation, len, value: short }
            }
            _ => Content::Long([&generation.to_le_bytes(), value].concat().into()),
        }
    }
}

/// Returns [`Node::charge_bytes`] of a node that does not exist yet.
pub fn charge_bytes(perms: &Perms, name: &[u8], value_bytes: usize) -> u64 {
    (NODE_BYTES + ENTRY_BYTES * perms.entries().len() + name.len() + value_bytes) as u64
}

/// Returns the length of the path, in bytes, if the node is a guest's boundary: at a partition's root or below another
/// owner's node. The index of owners and the table of partitions hold it. (C xenstored charges every node for its
/// path.)
pub fn index_bytes(perms: &Perms, path_bytes: usize, above: Option<Domid>) -> u64 {
    let owner = perms.owner();
    // The index of owners omits the control domain's boundaries, and no quota binds it.
    if owner == Domid::CONTROL || above == Some(owner) { 0 } else { path_bytes as u64 }
}

/// Returns [`Node::size`] of a node that does not exist yet.
pub fn size(perms: &Perms, names_bytes: usize, value_bytes: usize) -> usize {
    SIZE_HEADER_BYTES + ENTRY_SIZE_BYTES * perms.entries().len() + names_bytes + value_bytes
}

thread_local! {
    static DIRECTORIES: FlatDrop<Children<Child>> = const { FlatDrop::new() };
}

/// Drops trees without recursion: guests choose their depth, and recursion would overflow a small stack (XSA-418).
impl Drop for Node {
    fn drop(&mut self) {
        if let Content::Directory { children, .. } = &mut self.content {
            // Leaves, which most nodes are, do not get here and need no thread-local.
            let children = std::mem::take(children);
            DIRECTORIES.with(|directories| directories.drop(children));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Arc;
    use crate::types::{Entry, PermSet};

    fn perms() -> Perms {
        let entry = |text: &str| Entry::parse(text.as_bytes()).unwrap();
        Arc::new(PermSet::new(1, entry("n5"), &[entry("r6")]))
    }

    #[test]
    fn node_charge_is_the_sum_of_its_parts() {
        let mut node = Node::new(perms(), 1, b"value");
        assert_eq!(node.charge_bytes(b"name"), 96 + 2 * 16 + 4 + 5);
        assert_eq!(node.size(), 16 + 2 * 8 + 5);
        node.insert_child(2, b"child", None);
        assert_eq!(node.charge_bytes(b"name"), 96 + 2 * 16 + 4 + 5);
        assert_eq!(node.size(), 16 + 2 * 8 + 6 + 5);
    }

    #[test]
    fn copied_directory_shares_its_value() {
        let value = [b'v'; 2000];
        let mut node = Node::new(perms(), 1, &value);
        node.insert_child(2, b"child", None);
        let mut copy = node.clone();
        copy.insert_child(3, b"another", None);
        assert!(std::ptr::eq(node.value(), copy.value()));
        assert!(copy.copy_bytes() < value.len() && copy.shared_bytes() == value.len());
        copy.set_value(4, b"other");
        assert_eq!((node.value(), copy.value()), (&value[..], &b"other"[..]));
    }

    #[test]
    fn every_change_sets_the_generation() {
        let mut node = Node::new(perms(), 11, b"value");
        assert_eq!(node.generation(), 11);
        // The values are short, longer, of the maximum inline length, long, of the same length, and empty.
        let values = ["other", "others", "7 bytes", "8  bytes", "the same", ""];
        for (value, generation) in values.into_iter().zip((100..).step_by(2)) {
            node.set_value(generation, value.as_bytes());
            assert_eq!((node.generation(), node.value()), (generation, value.as_bytes()));
            node.set_perms(generation + 1, perms());
            assert_eq!((node.generation(), node.value()), (generation + 1, value.as_bytes()));
        }
        for generation in [12, 13] {
            node.set_value(generation, b"other");
            assert_eq!(node.generation(), generation);
            node.set_perms(generation + 10, perms());
            assert_eq!((node.generation(), node.value()), (generation + 10, &b"other"[..]));
            node.insert_child(generation + 20, b"child", None);
            assert_eq!(node.generation(), generation + 20);
        }
        assert!(node.remove_child(40, b"none").is_none());
        assert_eq!(node.generation(), 33);
        assert!(node.remove_child(41, b"child").is_some());
        assert_eq!((node.generation(), node.value()), (41, &b"other"[..]));
    }
}

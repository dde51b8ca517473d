//! A node of the store.

use crate::words::{Children, Domid, FlatDrop, Perms};

/// A node that versions of the store share. Nothing refers to one weakly, so it has one count.
pub type NodeArc = triomphe::Arc<Node>;

/// What a directory holds under a child's name: the node, or nothing if that child is a home of
/// its own and lives in its own shard.
pub type Child = Option<NodeArc>;

/// A node: its permissions, its value, its children, and a generation.
///
/// A look-up is a chain of cache misses, and most nodes are leaves with a short value. So this struct
/// with its count fills the allocator's block of 40 bytes, a short value lies in it, from a directory
/// it is one step to its children, and the generation takes the place that a value of 64 bytes leaves
/// in a block of 80.
#[derive(Clone)]
pub struct Node {
    /// Who may do what, and who owns it. Usually shared with the parent.
    pub perms: Perms,
    content: Content,
}

#[derive(Clone)]
enum Content {
    /// A leaf whose value has at most [`SHORT_BYTES_MAX`], as states, ports and flags have.
    Short { generation: u64, len: u8, value: [u8; SHORT_BYTES_MAX] },
    /// Any other leaf: the generation ([`GENERATION_BYTES`], little-endian), then the value.
    Long(Box<[u8]>),
    /// At least one child.
    Directory { head: Box<Head>, children: Children<Child> },
}

/// What a directory has beside its children. Copies of the directory share its value: a change below copies all
/// directories on the way, and a guest chooses how many these are and how long their values.
#[derive(Clone)]
struct Head {
    generation: u64,
    /// None is empty, as most are.
    value: Option<triomphe::Arc<[u8]>>,
}

const GENERATION_BYTES: usize = size_of::<u64>();
/// What fits beside a generation where a directory has two pointers.
const SHORT_BYTES_MAX: usize = 7;

static NO_CHILDREN: Children<Child> = Children::new();

const _: () = assert!(size_of::<Node>() == 32);

/// What a node costs its owner beside its name, value and permission entries: about what the
/// process really pays for it.
const NODE_BYTES: usize = 96;
/// What a permission entry costs: a set of one node's own is an allocation or two.
const ENTRY_BYTES: usize = 16;
/// What an entry counts in the quota `node-size`.
const ENTRY_SIZE_BYTES: usize = 8;
/// The header that C counts into the quota `node-size`, so that the same limit bites at the same
/// value.
const SIZE_HEADER_BYTES: usize = 16;

impl Node {
    /// A node without children.
    pub fn new(perms: Perms, generation: u64, value: &[u8]) -> Node {
        Node { perms, content: Content::leaf(generation, value) }
    }

    /// The value: bytes, usually text.
    pub fn value(&self) -> &[u8] {
        match &self.content {
            Content::Short { len, value, .. } => &value[..usize::from(*len)],
            Content::Long(bytes) => &bytes[GENERATION_BYTES..],
            Content::Directory { head, .. } => head.value(),
        }
    }

    /// Unique to the last change of value, permissions or children; nothing reads an order from it.
    pub fn generation(&self) -> u64 {
        match &self.content {
            Content::Short { generation, .. } => *generation,
            Content::Long(bytes) => {
                let generation = bytes.first_chunk().copied().unwrap_or_default();
                u64::from_le_bytes(generation)
            }
            Content::Directory { head, .. } => head.generation,
        }
    }

    /// What lies directly below.
    pub fn children(&self) -> &Children<Child> {
        match &self.content {
            Content::Directory { children, .. } => children,
            Content::Short { .. } | Content::Long(_) => &NO_CHILDREN,
        }
    }

    /// The child called `name`, to be changed.
    pub fn child_mut(&mut self, name: &[u8]) -> Option<&mut Child> {
        match &mut self.content {
            Content::Directory { children, .. } => children.get_mut(name),
            Content::Short { .. } | Content::Long(_) => None,
        }
    }

    /// Sets the value.
    pub fn set_value(&mut self, generation: u64, value: &[u8]) {
        match &mut self.content {
            // Most values are followed by others of their length: states, counts.
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

    /// Adds a child, or puts it in the place of one with that name, which is returned.
    pub fn insert_child(&mut self, generation: u64, name: &[u8], child: Child) -> Option<Child> {
        if !matches!(self.content, Content::Directory { .. }) {
            let head = Box::new(Head::new(generation, self.value()));
            self.content = Content::Directory { head, children: Children::new() };
        }
        let Content::Directory { head, children } = &mut self.content else { return None };
        head.generation = generation;
        children.insert(name, child)
    }

    /// Takes the child called `name` out.
    pub fn remove_child(&mut self, generation: u64, name: &[u8]) -> Option<Child> {
        let Content::Directory { head, children } = &mut self.content else { return None };
        let child = children.remove(name)?;
        head.generation = generation;
        if children.is_empty() {
            self.content = Content::leaf(generation, head.value());
        }
        Some(child)
    }

    /// Makes the sum of its children's names wrong if it is kept, for tests of the consistency check.
    #[cfg(test)]
    pub fn falsify_names_bytes(&mut self) {
        if let Content::Directory { children, .. } = &mut self.content {
            children.falsify_names_bytes();
        }
    }

    /// About what a copy takes beside what it shares, in bytes.
    pub fn copy_bytes(&self) -> usize {
        let content = match &self.content {
            Content::Short { .. } => 0,
            Content::Long(bytes) => bytes.len(),
            Content::Directory { children, .. } => size_of::<Head>() + children.copy_bytes(),
        };
        size_of::<Node>() + size_of::<usize>() + content
    }

    /// What a copy shares until it gets another value, in bytes.
    pub fn shared_bytes(&self) -> usize {
        match &self.content {
            Content::Short { .. } | Content::Long(_) => 0,
            Content::Directory { head, .. } => head.value().len(),
        }
    }

    /// What it is charged with in the quota `memory`, in bytes, beside [`Node::index_bytes`].
    pub fn charge_bytes(&self, name: &[u8]) -> u64 {
        charge_bytes(&self.perms, name, self.value().len())
    }

    /// What it is charged with besides, if its path has `path_bytes` and the node above it in its home belongs to
    /// `above`: see `index_bytes`.
    pub fn index_bytes(&self, path_bytes: usize, above: Option<Domid>) -> u64 {
        index_bytes(&self.perms, path_bytes, above)
    }

    /// Its size in the quota `node-size`, in bytes: permissions, names of children, value.
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

/// [`Node::charge_bytes`] of a node that does not exist yet.
pub fn charge_bytes(perms: &Perms, name: &[u8], value_bytes: usize) -> u64 {
    (NODE_BYTES + ENTRY_BYTES * perms.entries().len() + name.len() + value_bytes) as u64
}

/// Its path, in bytes, where a guest's nodes begin: at a home's root, or below a node of another owner. The index
/// of owners keeps it, and the table of homes. (C charges every node with its path.)
pub fn index_bytes(perms: &Perms, path_bytes: usize, above: Option<Domid>) -> u64 {
    let owner = perms.owner();
    if owner == Domid::CONTROL || above == Some(owner) { 0 } else { path_bytes as u64 }
}

/// [`Node::size`] of a node that does not exist yet.
pub fn size(perms: &Perms, names_bytes: usize, value_bytes: usize) -> usize {
    SIZE_HEADER_BYTES + ENTRY_SIZE_BYTES * perms.entries().len() + names_bytes + value_bytes
}

thread_local! {
    static DIRECTORIES: FlatDrop<Children<Child>> = const { FlatDrop::new() };
}

/// Trees are dropped without recursion, as they can be deep.
impl Drop for Node {
    fn drop(&mut self) {
        if let Content::Directory { children, .. } = &mut self.content {
            let children = std::mem::take(children);
            DIRECTORIES.with(|directories| directories.drop(children));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Arc;
    use crate::words::{Entry, PermSet};

    fn perms() -> Perms {
        let entry = |text: &str| Entry::parse(text.as_bytes()).unwrap();
        Arc::new(PermSet::new(1, entry("n5"), &[entry("r6")]))
    }

    #[test]
    fn a_node_costs_what_its_parts_cost() {
        let mut node = Node::new(perms(), 1, b"value");
        assert_eq!(node.charge_bytes(b"name"), 96 + 2 * 16 + 4 + 5);
        assert_eq!(node.size(), 16 + 2 * 8 + 5);
        node.insert_child(2, b"child", None);
        assert_eq!(node.charge_bytes(b"name"), 96 + 2 * 16 + 4 + 5);
        assert_eq!(node.size(), 16 + 2 * 8 + 6 + 5);
    }

    #[test]
    fn directory_when_copied_shares_its_value() {
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
    fn every_change_has_its_generation() {
        let mut node = Node::new(perms(), 11, b"value");
        assert_eq!(node.generation(), 11);
        // Short, longer, as long as can be, long, of the same length, none.
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

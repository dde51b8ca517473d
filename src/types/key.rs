//! The placement of paths: a pure function of their bytes.
//!
//! All paths about one guest have one key, so that they lie in one shard. A subtree with a key of its own is a
//! *partition* (`Partition`):
//!
//! | partition root | key |
//! |---|---|
//! | `/local/domain/<d>` | domain d |
//! | `/local/domain/<b>/backend/<kind>/<d>` | domain d |
//! | `/local/domain/<b>/device-model/<d>` | domain d |
//! | `/libxl/<d>` | domain d |
//! | `/vm/<uuid>` and any other `/<a>/<b>` | the path of the partition root |
//!
//! The nodes above all partitions (`/`, `/<a>`, `/local/domain`) and the special paths form the *root shard*
//! (`root_shard`).

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

use super::{Domid, Path};

/// The prefix of every domain's partition root.
pub const DOMAINS: &[u8] = b"/local/domain/";
/// The suffix of a domain's path below which it is the backend of other domains.
const BACKENDS: &[u8] = b"/backend/";
/// The suffix of a domain's path below which it runs the device models of other domains.
const DEVICE_MODELS: &[u8] = b"/device-model/";

/// A shard's index; the root shard's is one past the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// The placement of a path: its shard and its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition<'a> {
    /// The shard that holds the partition.
    pub shard: ShardId,
    /// The partition root: the path itself or an ancestor of it.
    pub root: Path<'a>,
}

/// The number of shards; maps paths to partitions.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    shards: u16,
}

impl Layout {
    /// Makes a layout of `shards` shards (at least one) and the root shard.
    pub fn new(shards: u16) -> Layout {
        Layout { shards: shards.max(1) }
    }

    /// Returns all shards, the root shard last. Locks are taken in this order.
    pub fn all(self) -> impl DoubleEndedIterator<Item = ShardId> + Clone {
        (0..=self.shards).map(ShardId)
    }

    /// Returns the number of shards, the root shard not counted.
    pub fn shards(self) -> u16 {
        self.shards
    }

    /// Returns the root shard, which holds everything above the partitions.
    pub fn root_shard(self) -> ShardId {
        ShardId(self.shards)
    }

    /// Returns the shard of domain `domid`'s key, which is also the index of its owner thread.
    pub fn of_domain(self, domid: Domid) -> ShardId {
        // Part of the interface: `xsctl move` batches domains by this remainder (docs/MIGRATION.md).
        ShardId(domid.0 % self.shards)
    }

    /// Returns the partition that holds `path`. Cost: a few components of the path.
    pub fn partition(self, path: Path<'_>) -> Partition<'_> {
        if path.is_special() {
            return Partition { shard: self.root_shard(), root: path };
        }
        let bytes = path.bytes();
        if bytes.starts_with(DOMAINS) {
            return self.domain_home(path);
        }
        let root_shard = Partition { shard: self.root_shard(), root: Path::ROOT };
        let second = component_end(bytes, 1).and_then(|first| component_end(bytes, first + 1));
        let Some(end) = second else { return root_shard };
        let root = path.prefix(end);
        // It matches `/<a>/<b>`, but holds the partitions of all domains.
        if root.bytes() == b"/local/domain" {
            return root_shard;
        }
        let domid = root.bytes().strip_prefix(b"/libxl/").and_then(Domid::parse_canonical);
        Partition { shard: domid.map_or_else(|| self.of_bytes(root), |d| self.of_domain(d)), root }
    }

    /// Returns the partition of `above`, which is an ancestor of a path in `partition` or that path itself. Costs
    /// nothing if the result is the same partition.
    pub fn partition_above<'a>(self, partition: Partition<'a>, above: Path<'a>) -> Partition<'a> {
        // Partitions nest and the innermost one counts, so `above` lies in `partition` unless it is above the root of
        // `partition`.
        if above.bytes().len() >= partition.root.bytes().len() {
            partition
        } else {
            self.partition(above)
        }
    }

    /// Returns the partition of a path at or below `/local/domain/<b>`. Most requests call this several times, so it
    /// parses only the components that decide.
    fn domain_home(self, path: Path<'_>) -> Partition<'_> {
        let bytes = path.bytes();
        let end = component_end(bytes, DOMAINS.len()).unwrap_or(bytes.len());
        let below = &bytes[end..];
        // The nodes about a device of domain d have d's key: guest, toolstack and backend take one lock for them.
        let nested = if below.starts_with(BACKENDS) {
            component_end(bytes, end + BACKENDS.len()).map(|kind| kind + 1)
        } else {
            below.starts_with(DEVICE_MODELS).then_some(end + DEVICE_MODELS.len())
        };
        if let Some(start) = nested
            && let Some(end) = component_end(bytes, start)
            && let Some(domid) = Domid::parse_canonical(&bytes[start..end])
        {
            return Partition { shard: self.of_domain(domid), root: path.prefix(end) };
        }
        let root = path.prefix(end);
        let domid = Domid::parse_canonical(&bytes[DOMAINS.len()..end]);
        Partition { shard: domid.map_or_else(|| self.of_bytes(root), |d| self.of_domain(d)), root }
    }

    fn of_bytes(self, root: Path<'_>) -> ShardId {
        // A fixed seed is safe: a guest gains nothing by choosing the shard of a path of its own. The same path must
        // hash to the same shard after a restart.
        let mut hasher = FixedState::with_seed(0).build_hasher();
        hasher.write(root.bytes());
        let shard = hasher.finish() % u64::from(self.shards);
        ShardId(u16::try_from(shard).unwrap_or(0))
    }
}

/// Returns whether partitions can lie strictly below `path`, that is, `path` is a proper prefix of a partition root's
/// pattern. Watches on such paths can match changes in every shard, and a removal there may reach other shards.
pub fn has_partitions_below(path: Path<'_>) -> bool {
    let has_names = |names: &[u8]| names.contains(&b'/');
    let Some(below) = path.bytes().strip_prefix(DOMAINS) else {
        // `/` and `/<a>` are above `/<a>/<b>`.
        let is_shallow = !path.bytes().iter().skip(1).any(|&byte| byte == b'/');
        return is_shallow || path.bytes() == b"/local/domain";
    };
    let Some(slash) = below.iter().position(|&byte| byte == b'/') else { return true };
    let kind = &below[slash + 1..];
    match kind.strip_prefix(b"backend") {
        // `backend` or one kind below it. Deeper paths are in a partition, and `backends` is another name.
        Some(class) => {
            class.first().is_none_or(|&byte| byte == b'/')
                && !has_names(class.get(1..).unwrap_or_default())
        }
        None => kind == b"device-model",
    }
}

/// Returns the domain whose key a partition has, given its root; `None` if the key is the path itself.
pub fn domain_of_partition(root: Path<'_>) -> Option<Domid> {
    let bytes = root.bytes();
    let may = bytes.starts_with(DOMAINS) || bytes.starts_with(b"/libxl/");
    Domid::parse_canonical(root.name()).filter(|_| may)
}

/// Returns the end of the component that starts at `start`, if there is one.
fn component_end(bytes: &[u8], start: usize) -> Option<usize> {
    let rest = bytes.get(start..).filter(|rest| !rest.is_empty())?;
    Some(start + rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_is_a_function_of_the_path() {
        let layout = Layout::new(4);
        let root_shard = layout.root_shard();
        for (path, root, shard) in [
            ("/", "/", Some(root_shard)),
            ("/tool", "/", Some(root_shard)),
            ("/local/domain", "/", Some(root_shard)),
            ("@releaseDomain", "@releaseDomain", Some(root_shard)),
            ("/local/domain/7", "/local/domain/7", Some(ShardId(3))),
            ("/local/domain/7/a/b", "/local/domain/7", Some(ShardId(3))),
            ("/local/domain/0/backend", "/local/domain/0", Some(ShardId(0))),
            ("/local/domain/0/backend/vif", "/local/domain/0", Some(ShardId(0))),
            ("/local/domain/0/backend/vif/7", "/local/domain/0/backend/vif/7", Some(ShardId(3))),
            (
                "/local/domain/0/backend/vif/7/0/x",
                "/local/domain/0/backend/vif/7",
                Some(ShardId(3)),
            ),
            ("/local/domain/0/backend/vif/007/0", "/local/domain/0", Some(ShardId(0))),
            (
                "/local/domain/4/device-model/6/s",
                "/local/domain/4/device-model/6",
                Some(ShardId(2)),
            ),
            ("/libxl/5/device", "/libxl/5", Some(ShardId(1))),
            ("/vm/abc/name", "/vm/abc", None),
            ("/tool/xenstored/x", "/tool/xenstored", None),
            ("/local/other", "/local/other", None),
        ] {
            let partition = layout.partition(Path::parse(path.as_bytes()).unwrap());
            assert_eq!(partition.root.bytes(), root.as_bytes(), "{path}");
            if let Some(shard) = shard {
                assert_eq!(partition.shard, shard, "{path}");
            }
            let path = Path::parse(path.as_bytes()).unwrap();
            for above in std::iter::successors(Some(path), |path| path.parent()) {
                assert_eq!(
                    layout.partition_above(partition, above),
                    layout.partition(above),
                    "{above}"
                );
            }
            let domain = domain_of_partition(partition.root).map(|domid| layout.of_domain(domid));
            assert_eq!(domain, shard.filter(|&shard| shard != root_shard && root != "/"), "{path}");
        }
    }

    #[test]
    fn prefixes_of_partition_patterns_have_partitions_below() {
        for path in [
            "/",
            "/tool",
            "/local",
            "/local/domain",
            "/local/domain/5",
            "/local/domain/5/backend",
            "/local/domain/5/backend/vif",
            "/local/domain/5/device-model",
        ] {
            assert!(has_partitions_below(Path::parse(path.as_bytes()).unwrap()), "{path}");
        }
        for path in [
            "/tool/x",
            "/local/other",
            "/local/domain/5/device",
            "/libxl/5",
            "/local/domain/5/backend/vif/6",
            "/local/domain/5/device-model/6",
            "/local/domain/5/device/vif/0",
        ] {
            assert!(!has_partitions_below(Path::parse(path.as_bytes()).unwrap()), "{path}");
        }
    }
}

//! Where a path lives: a pure function of its bytes.
//!
//! Everything about one guest has one key, so that it lies in one shard. A subtree that has a key
//! of its own is a *home*:
//!
//! | home | key |
//! |---|---|
//! | `/local/domain/<d>` | domain d |
//! | `/local/domain/<b>/backend/<kind>/<d>` | domain d |
//! | `/local/domain/<b>/device-model/<d>` | domain d |
//! | `/libxl/<d>` | domain d |
//! | `/vm/<uuid>` and any other `/<a>/<b>` | the path of the home |
//!
//! What lies above all homes (`/`, `/<a>`, `/local/domain`) and the special paths are the *spine*.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

use super::{Domid, Path};

/// What every domain's home begins with.
pub const DOMAINS: &[u8] = b"/local/domain/";
/// What follows a domain's home where it is the backend of others.
const BACKENDS: &[u8] = b"/backend/";
/// What follows it where it runs the device models of others.
const DEVICE_MODELS: &[u8] = b"/device-model/";

/// The number of a shard; the spine's is one past the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// Where a path lives: in which shard, and below which home there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home<'a> {
    /// The shard that holds the home.
    pub shard: ShardId,
    /// The home's root: the path itself or an ancestor of it.
    pub root: Path<'a>,
}

/// How many shards there are; maps paths to homes.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    shards: u16,
}

impl Layout {
    /// A layout of `shards` shards (at least one) and the spine.
    pub fn new(shards: u16) -> Layout {
        Layout { shards: shards.max(1) }
    }

    /// The shards, the spine last: the order in which locks are taken.
    pub fn all(self) -> impl DoubleEndedIterator<Item = ShardId> + Clone {
        (0..=self.shards).map(ShardId)
    }

    /// The number of shards without the spine.
    pub fn shards(self) -> u16 {
        self.shards
    }

    /// The shard of everything above the homes.
    pub fn spine(self) -> ShardId {
        ShardId(self.shards)
    }

    /// The shard of the key of domain `domid`, which is also the number of its home thread.
    pub fn of_domain(self, domid: Domid) -> ShardId {
        ShardId(domid.0 % self.shards)
    }

    /// Finds the home that `path` lies in. Cost: a few components of the path.
    pub fn home(self, path: Path<'_>) -> Home<'_> {
        if path.is_special() {
            return Home { shard: self.spine(), root: path };
        }
        let bytes = path.bytes();
        if bytes.starts_with(DOMAINS) {
            return self.domain_home(path);
        }
        let spine = Home { shard: self.spine(), root: Path::ROOT };
        let second = component_end(bytes, 1).and_then(|first| component_end(bytes, first + 1));
        let Some(end) = second else { return spine };
        let root = path.prefix(end);
        if root.bytes() == b"/local/domain" {
            return spine;
        }
        let domid = root.bytes().strip_prefix(b"/libxl/").and_then(Domid::parse_canonical);
        Home { shard: domid.map_or_else(|| self.of_bytes(root), |d| self.of_domain(d)), root }
    }

    /// The home of `above`: of an ancestor of a path that lies in `home`, or of that path itself. Cost:
    /// none as long as it is the same home.
    pub fn home_above<'a>(self, home: Home<'a>, above: Path<'a>) -> Home<'a> {
        // A home that `above` lies in is one that the path below it lies in, and the innermost counts.
        if above.bytes().len() >= home.root.bytes().len() { home } else { self.home(above) }
    }

    /// The homes at and below `/local/domain/<b>`. Most requests come here, several times: no
    /// component is looked at that does not matter.
    fn domain_home(self, path: Path<'_>) -> Home<'_> {
        let bytes = path.bytes();
        let end = component_end(bytes, DOMAINS.len()).unwrap_or(bytes.len());
        let below = &bytes[end..];
        let nested = if below.starts_with(BACKENDS) {
            component_end(bytes, end + BACKENDS.len()).map(|kind| kind + 1)
        } else {
            below.starts_with(DEVICE_MODELS).then_some(end + DEVICE_MODELS.len())
        };
        if let Some(start) = nested
            && let Some(end) = component_end(bytes, start)
            && let Some(domid) = Domid::parse_canonical(&bytes[start..end])
        {
            return Home { shard: self.of_domain(domid), root: path.prefix(end) };
        }
        let root = path.prefix(end);
        let domid = Domid::parse_canonical(&bytes[DOMAINS.len()..end]);
        Home { shard: domid.map_or_else(|| self.of_bytes(root), |d| self.of_domain(d)), root }
    }

    fn of_bytes(self, root: Path<'_>) -> ShardId {
        // A fixed seed: that a guest can choose which shard a path of its own falls in gains it
        // nothing, and the same path must fall in the same shard after a restart.
        let mut hasher = FixedState::with_seed(0).build_hasher();
        hasher.write(root.bytes());
        let shard = hasher.finish() % u64::from(self.shards);
        ShardId(u16::try_from(shard).unwrap_or(0))
    }
}

/// Whether homes can lie strictly below `path`: a proper prefix of a home's pattern. Watches on
/// such paths are everybody's concern, and a removal there may reach other shards.
pub fn has_homes_below(path: Path<'_>) -> bool {
    let has_names = |names: &[u8]| names.contains(&b'/');
    let Some(below) = path.bytes().strip_prefix(DOMAINS) else {
        let is_shallow = !path.bytes().iter().skip(1).any(|&byte| byte == b'/');
        return is_shallow || path.bytes() == b"/local/domain";
    };
    let Some(slash) = below.iter().position(|&byte| byte == b'/') else { return true };
    let kind = &below[slash + 1..];
    match kind.strip_prefix(b"backend") {
        Some(class) => {
            class.first().is_none_or(|&byte| byte == b'/')
                && !has_names(class.get(1..).unwrap_or_default())
        }
        None => kind == b"device-model",
    }
}

/// The domain whose key a home has, given the home's root; none if the key is the path itself.
pub fn domain_of_home(root: Path<'_>) -> Option<Domid> {
    let bytes = root.bytes();
    let may = bytes.starts_with(DOMAINS) || bytes.starts_with(b"/libxl/");
    Domid::parse_canonical(root.name()).filter(|_| may)
}

/// Where the component that begins at `start` ends, if there is one.
fn component_end(bytes: &[u8], start: usize) -> Option<usize> {
    let rest = bytes.get(start..).filter(|rest| !rest.is_empty())?;
    Some(start + rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_a_function_of_the_path() {
        let layout = Layout::new(4);
        let spine = layout.spine();
        for (path, root, shard) in [
            ("/", "/", Some(spine)),
            ("/tool", "/", Some(spine)),
            ("/local/domain", "/", Some(spine)),
            ("@releaseDomain", "@releaseDomain", Some(spine)),
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
            let home = layout.home(Path::parse(path.as_bytes()).unwrap());
            assert_eq!(home.root.bytes(), root.as_bytes(), "{path}");
            if let Some(shard) = shard {
                assert_eq!(home.shard, shard, "{path}");
            }
            let path = Path::parse(path.as_bytes()).unwrap();
            for above in std::iter::successors(Some(path), |path| path.parent()) {
                assert_eq!(layout.home_above(home, above), layout.home(above), "{above}");
            }
            let domain = domain_of_home(home.root).map(|domid| layout.of_domain(domid));
            assert_eq!(domain, shard.filter(|&shard| shard != spine && root != "/"), "{path}");
        }
    }

    #[test]
    fn prefixes_of_home_patterns_have_homes_below() {
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
            assert!(has_homes_below(Path::parse(path.as_bytes()).unwrap()), "{path}");
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
            assert!(!has_homes_below(Path::parse(path.as_bytes()).unwrap()), "{path}");
        }
    }
}

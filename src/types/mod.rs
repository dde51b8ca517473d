//! Types that every layer shares: domain ids, error names, paths, permissions.
//!
//! These types do not depend on the store, the wire protocol or threads.

mod births;
mod children;
mod domid;
mod errno;
mod flat_drop;
mod key;
mod name;
mod path;
mod perms;
mod presence;
mod ranges;

pub use births::Births;
pub use children::Children;
pub use domid::Domid;
pub use errno::Errno;
pub use flat_drop::FlatDrop;
pub use key::{DOMAINS, Layout, Partition, ShardId, domain_of_partition, has_partitions_below};
pub use name::Name;
pub use path::{
    ABS_PATH_MAX, INTRODUCE_DOMAIN, Path, PathBuf, PathSpace, REL_PATH_MAX, RELEASE_DOMAIN,
    partition_prefix,
};
pub use perms::{Access, Entry, PermSet, Perms, Subject};
pub use presence::Presence;
pub use ranges::{Logged, ranges};

/// Maximum payload of a reply in bytes. One less than XENSTORE_PAYLOAD_MAX of xs_wire.h, because the Windows driver
/// asserts that a payload is shorter than that.
pub const PAYLOAD_BYTES_MAX: usize = 4095;

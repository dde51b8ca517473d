//! The words that every layer shares: domain ids, error names, paths, and who may do what.
//!
//! Nothing here knows of the store, of the wire or of threads.

mod domid;
mod errno;
mod key;
mod path;
mod perms;

pub use domid::Domid;
pub use errno::Errno;
pub use key::{Home, Layout, ShardId, has_homes_below};
pub use path::{
    ABS_PATH_MAX, INTRODUCE_DOMAIN, Path, PathBuf, PathSpace, REL_PATH_MAX, RELEASE_DOMAIN,
    home_prefix,
};
pub use perms::{Access, Births, Entry, PermSet, Perms, Subject};

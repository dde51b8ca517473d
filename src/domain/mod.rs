//! Domains as the store knows them: incarnations, accounts, quotas, tickets.

mod account;
mod incarnation;
mod quota;
mod registry;
mod reports;
mod ticket;

pub use account::Account;
pub use incarnation::{Domain, Notice, OwnSettings};
pub use quota::{Limits, Quota};
pub use registry::Registry;
use reports::{Report, Reports};
pub use ticket::{Held, Load, Ticket, UNDELIVERED_MAX, UNREAD_BYTES_MAX};

/// The feature bits of this server (xenstore-ring.txt, "Server feature bitmap"): reconnection,
/// error indicator, watch depth, and `DOMID_ANY` in permissions.
pub const SERVER_FEATURES: u32 = 1 | 2 | FEATURE_WATCH_DEPTH | FEATURE_DOMID_ANY;
/// XENSTORE_SERVER_FEATURE_WATCHDEPTH.
pub const FEATURE_WATCH_DEPTH: u32 = 4;
/// XENSTORE_SERVER_FEATURE_DOMID_ANY.
pub const FEATURE_DOMID_ANY: u32 = 8;

//! The types of records.

/// The last record.
pub const END: u32 = 0;
/// Live update only.
pub const GLOBAL_DATA: u32 = 1;
/// A client.
pub const CONNECTION_DATA: u32 = 2;
/// A watch of any depth.
pub const WATCH_DATA: u32 = 3;
/// An open transaction.
pub const TRANSACTION_DATA: u32 = 4;
/// A node.
pub const NODE_DATA: u32 = 5;
/// Live update only.
pub const GLOBAL_QUOTA_DATA: u32 = 6;
/// What belongs to a domain, not to its connection.
pub const DOMAIN_DATA: u32 = 7;
/// A watch with a depth; from version 2 on.
pub const WATCH_DATA_EXTENDED: u32 = 8;

const NAMES: [&str; 9] = [
    "END",
    "GLOBAL_DATA",
    "CONNECTION_DATA",
    "WATCH_DATA",
    "TRANSACTION_DATA",
    "NODE_DATA",
    "GLOBAL_QUOTA_DATA",
    "DOMAIN_DATA",
    "WATCH_DATA_EXTENDED",
];

/// A type's name, if it is known.
pub fn name(kind: u32) -> Option<&'static str> {
    NAMES.get(usize::try_from(kind).ok()?).copied()
}

//! Record types.

/// The last record of every stream.
pub const END: u32 = 0;
/// Global data of the daemon; live update only.
pub const GLOBAL_DATA: u32 = 1;
/// A client connection.
pub const CONNECTION_DATA: u32 = 2;
/// A watch without a depth limit.
pub const WATCH_DATA: u32 = 3;
/// An open transaction.
pub const TRANSACTION_DATA: u32 = 4;
/// A node, committed or part of a transaction.
pub const NODE_DATA: u32 = 5;
/// Default and global quotas; live update only.
pub const GLOBAL_QUOTA_DATA: u32 = 6;
/// Features and quotas of a domain, independent of its connection.
pub const DOMAIN_DATA: u32 = 7;
/// A watch with a depth; version 2 and later.
pub const WATCH_DATA_EXTENDED: u32 = 8;

/// A record of our own: the digest of all bytes before it, header included. Xen's text reserves the number for future
/// use, and readers that do not know it skip it. It differs from each known type in many bits, so that no flipped bit
/// makes one of the other; bit 31 is what libxl's and libxc's streams mark optional records with.
pub const DIGEST: u32 = 0x8064_6967;

/// A record of our own, in the stream of a live update only: a piece of what Xen's records do not have, such as the logs
/// of transactions. Optional like [`DIGEST`].
pub const LIVE: u32 = 0x806c_6976;

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

/// Returns a type's name, `None` if it is unknown.
pub fn name(kind: u32) -> Option<&'static str> {
    match kind {
        DIGEST => Some("DIGEST"),
        LIVE => Some("LIVE"),
        _ => NAMES.get(usize::try_from(kind).ok()?).copied(),
    }
}

//! The "xenstore" stream of docs/designs/xenstore-migration.md (xen.git), versions 1 and 2, in both
//! byte orders: a header, then records, the last one END. Before END comes a record of our own with a digest.
//!
//! ```text
//!         0       1       2       3       4       5       6       7
//!     +-------+-------+-------+-------+-------+-------+-------+-------+
//!     | "xenstore"                                                    |  header, always
//!     +-------------------------------+-------------------------------+  big-endian
//!     | version                       | flags (1: big-endian records) |
//!     +===============================+===============================+
//!     | type                          | len                           |  record,
//!     +-------------------------------+-------------------------------+  repeated
//!     | body ...              | padding to a multiple of 8            |
//!     +-----------------------+---------------------------------------+
//! ```

pub mod digest;
pub mod fields;
pub mod kind;
pub mod libxl_record;
mod read;
mod record;
pub mod state;
#[cfg(test)]
mod tests;
mod write;

pub use read::{ReadError, Reader};
pub use record::{Connection, Domain, Node, QuotaValue, Record, Transport, Watch};
pub use write::{Writer, append};

/// Identifier at the start of the header: "xenstore".
pub const IDENT: [u8; 8] = *b"xenstore";
/// The newest stream version.
pub const VERSION: u32 = 2;
/// Bit of `flags`: records are big-endian.
const FLAG_BIG_ENDIAN: u32 = 1;
/// Maximum length of a record body in bytes: room for a client's pending output. C xenstored queues output for the
/// control domain's clients without a limit, but no event twice: this is the output of a client that reads nothing
/// during a change of several hundred thousand nodes. A node's record has at most 64 KiB each of path, permissions
/// and value.
pub const RECORD_BYTES_MAX: u32 = 64 << 20;

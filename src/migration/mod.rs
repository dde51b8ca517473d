//! Migration of domains to another host, one folder per aspect.
//!
//! ```text
//!   xsctl ---> server ---> shard: each domain's owner thread
//!     |          |
//!     |        store ----> store: partitions, their nodes
//!     |          |
//!     +------> stream
//! ```
//!
//! * [`stream`]: the codec of the stream, independent of the daemon;
//! * [`store`](mod@store): conversion between the store and a stream;
//! * [`server`]: the migration socket and its requests, which owner threads and the store execute.
//!
//! The owner threads' part is in `server/migration`; the tool is [`xsctl`](crate::xsctl).

pub mod server;
pub mod store;
pub mod stream;

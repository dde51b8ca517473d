//! Domains move to another host: a side of it in each folder.
//!
//! ```text
//!   xsctl ---> server ---> shard: each domain's home thread
//!     |          |
//!     |        store ----> store: its homes, their nodes
//!     |          |
//!     +------> stream
//! ```
//!
//! * [`stream`]: the stream's codec, which knows bytes and records and no daemon;
//! * [`store`](mod@store): from the store to a stream, and back;
//! * [`server`]: the migration socket, and what its requests have done by home threads and store.
//!
//! What home threads do for it is in `shard/migration`; the tool is [`xsctl`](crate::xsctl).

pub mod server;
pub mod store;
pub mod stream;

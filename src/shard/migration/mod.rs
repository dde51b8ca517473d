//! The worker's part of a migration: what a domain's home thread does for one that leaves or arrives, and how a
//! thread that may wait asks for it.
//!
//! ```text
//!   migration/server --> owner_threads -- a MoveRequest in a mailbox --> Thread
//!   QUIESCE, UNQUIESCE --> scatter_gather -- a share each ------------> quiesce
//!                                              leaves: saved_connection --> marks
//!                                              arrives: expected_domains --> saved_connection, at INTRODUCE
//! ```

mod domain_watches;
mod expected_domains;
mod marks;
mod owner_threads;
mod quiesce;
mod saved_connection;
mod scatter_gather;

pub use expected_domains::Before;
pub use marks::Mark;
pub use owner_threads::{Expected, ImportEnd, MoveRequest, OwnerThreads};
pub use saved_connection::SavedConnection;
pub use scatter_gather::{Gathered, Share, shares};

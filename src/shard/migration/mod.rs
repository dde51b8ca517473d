//! The worker's part of a migration: what a domain's home thread does for one that leaves or arrives, and how a
//! thread that may wait asks for it.
//!
//! ```text
//!   migration/server --> owner_threads -- a MoveRequest in a mailbox --> serve_move
//!   QUIESCE, UNQUIESCE --> scatter_gather -- a share each ------------> quiesce
//!                                              leaves: saved_connection --> marks
//!                                              arrives: expected_domains --> saved_connection, at INTRODUCE
//! ```

pub mod domain_watches;
pub mod expected_domains;
pub mod marks;
pub mod move_request;
pub mod owner_threads;
pub mod quiesce;
pub mod saved_connection;
pub mod scatter_gather;
pub mod serve_move;

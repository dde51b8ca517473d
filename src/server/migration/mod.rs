//! The worker's part of a migration: the steps that a domain's owner thread executes, and the interface by which
//! threads that may block request them.
//!
//! ```text
//!   migration/server --> owner_threads -- a MoveRequest in a mailbox --> serve_move
//!   QUIESCE, UNQUIESCE --> scatter_gather -- a part each -------------> quiesce
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

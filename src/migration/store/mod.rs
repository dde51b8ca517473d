//! The store's part of a migration: writes the domains' state as records, and places it at the destination.

pub mod place_domain;
mod vm_nodes;
pub mod write_domains;
mod write_store;

pub use place_domain::imported_nodes;
pub use vm_nodes::{left_behind, named_machine};
pub use write_store::write_store;

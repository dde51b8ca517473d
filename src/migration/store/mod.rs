//! The store's part of a migration: what domains have in the store is written as records, and put in place where they
//! arrive.

pub mod place_domain;
mod vm_nodes;
pub mod write_domains;

pub use vm_nodes::left_behind;

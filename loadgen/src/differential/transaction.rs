//! The history of an open transaction, and of changes concurrent with it.

use super::paths::are_related;
use super::step::op;

/// Operations that oxenstored can replay for a transaction, or leaves out of it.
pub const IN_TRANSACTIONS: [u32; 10] = [
    op::DIRECTORY,
    op::READ,
    op::GET_PERMS,
    op::GET_DOMAIN_PATH,
    op::WRITE,
    op::MKDIR,
    op::RM,
    op::SET_PERMS,
    op::WATCH,
    op::UNWATCH,
];

/// An open transaction.
#[derive(Debug, Default)]
pub struct Transaction {
    /// The transaction's own changes with their operations.
    pub own: Vec<(u32, Vec<u8>)>,
    /// Paths changed by other clients since the transaction began.
    pub others: Vec<Vec<u8>>,
    /// Whether other clients made a change that paths cannot describe: a domain was created or died.
    pub everything: bool,
    /// Whether a domain died since the transaction began.
    pub bereft: bool,
    /// Whether one of the transaction's requests hit a quota in any daemon.
    pub refused: bool,
    /// Whether one of the transaction's requests is not about nodes, such as INTRODUCE.
    pub foreign: bool,
}

impl Transaction {
    /// Returns whether other clients changed this node, an ancestor or a descendant.
    pub fn is_touched(&self, path: &[u8]) -> bool {
        self.everything || self.others.iter().any(|other| are_related(other, path))
    }

    /// Returns the paths of the transaction's requests of one operation.
    pub fn own(&self, of: u32) -> impl Iterator<Item = &[u8]> {
        self.own.iter().filter(move |(kind, _)| *kind == of).map(|(_, path)| &**path)
    }
}

//! What a sequence has done in and beside an open transaction.

use super::paths::are_related;
use super::step::op;

/// The requests that oxenstored can do again for a transaction, or leaves out of it.
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

/// One that is open.
#[derive(Debug, Default)]
pub struct Transaction {
    /// What it changed, and by which operation.
    pub own: Vec<(u32, Vec<u8>)>,
    /// What others changed since it began.
    pub others: Vec<Vec<u8>>,
    /// Others changed what cannot be told by paths: a domain came or went.
    pub everything: bool,
    /// A domain died since it began.
    pub bereft: bool,
    /// A request of it met a quota, in whichever daemon.
    pub refused: bool,
    /// A request of it is not of the store, such as INTRODUCE.
    pub foreign: bool,
}

impl Transaction {
    /// Whether others changed this node, or one above or below it.
    pub fn is_touched(&self, path: &[u8]) -> bool {
        self.everything || self.others.iter().any(|other| are_related(other, path))
    }

    /// The paths of its requests of one operation.
    pub fn own(&self, of: u32) -> impl Iterator<Item = &[u8]> {
        self.own.iter().filter(move |(kind, _)| *kind == of).map(|(_, path)| &**path)
    }
}

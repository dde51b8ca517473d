//! The table of operations. A new operation is a row here, a parser, and a request.

use super::parse;
use super::{Form, MigrationRequest, Operation, Request};
use crate::words::Errno;

/// What holds for an operation.
pub struct Row {
    /// Which.
    pub operation: Operation,
    /// Its name in the documents.
    pub name: &'static str,
    /// The domains that may request it.
    pub access: Access,
    /// What a transaction id in its header means.
    pub transaction: TransactionId,
    /// What makes a request of its payload.
    pub parser: Parser,
}

/// The domains that may request an operation; others get EACCES (xenstore.txt: "prevents the use of ... other than
/// by dom0").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every domain.
    Any,
    /// Every domain without arguments, which name another domain; only privileged ones with them.
    OwnOnly,
    /// The control domain and those with its rights.
    Privileged,
}

/// What a transaction id in a header means, if it is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionId {
    /// An open transaction; ENOENT if there is none. Requests other than those on nodes have their effect at once
    /// all the same.
    Open,
    /// Nothing, known or not (xenstore.txt, WATCH).
    Ignored,
}

/// Makes a request of an operation's payload; `EINVAL` if it has not the form that the operation asks for.
#[derive(Clone, Copy)]
pub enum Parser {
    /// From the payload as it is.
    Payload(for<'a> fn(&'a [u8]) -> Result<Request<'a>, Errno>),
    /// From arguments separated by NULs, or by words of CONTROL.
    Arguments(for<'a> fn(&[&'a [u8]], Form) -> Result<Request<'a>, Errno>),
    /// For the migration socket; the store's socket and rings return ENOSYS.
    Migration(fn(&[u8]) -> Result<MigrationRequest, Errno>),
}

use Access::{Any, OwnOnly, Privileged};
use Parser::{Arguments, Migration, Payload};
use TransactionId::{Ignored, Open};

/// The operations, by number.
#[rustfmt::skip]
pub static TABLE: [Row; 35] = [
    row(Operation::Control, "CONTROL", Privileged, Open, Payload(parse::control)),
    row(Operation::Directory, "DIRECTORY", Any, Open, Payload(parse::directory)),
    row(Operation::Read, "READ", Any, Open, Payload(parse::read)),
    row(Operation::GetPerms, "GET_PERMS", Any, Open, Payload(parse::get_perms)),
    row(Operation::Watch, "WATCH", Any, Ignored, Payload(parse::watch)),
    row(Operation::Unwatch, "UNWATCH", Any, Ignored, Payload(parse::unwatch)),
    row(Operation::TransactionStart, "TRANSACTION_START", Any, Open, Payload(|_| Ok(Request::StartTransaction))),
    row(Operation::TransactionEnd, "TRANSACTION_END", Any, Open, Payload(parse::transaction_end)),
    row(Operation::Introduce, "INTRODUCE", Privileged, Open, Payload(parse::introduce)),
    row(Operation::Release, "RELEASE", Privileged, Open, Payload(parse::release)),
    row(Operation::GetDomainPath, "GET_DOMAIN_PATH", Any, Open, Payload(parse::get_domain_path)),
    row(Operation::Write, "WRITE", Any, Open, Payload(parse::write)),
    row(Operation::Mkdir, "MKDIR", Any, Open, Payload(parse::mkdir)),
    row(Operation::Rm, "RM", Any, Open, Payload(parse::rm)),
    row(Operation::SetPerms, "SET_PERMS", Any, Open, Payload(parse::set_perms)),
    row(Operation::IsDomainIntroduced, "IS_DOMAIN_INTRODUCED", Privileged, Open, Payload(parse::is_domain_introduced)),
    row(Operation::Resume, "RESUME", Privileged, Open, Payload(parse::resume)),
    row(Operation::SetTarget, "SET_TARGET", Privileged, Open, Payload(parse::set_target)),
    row(Operation::ResetWatches, "RESET_WATCHES", Any, Open, Payload(|_| Ok(Request::ResetWatches))),
    row(Operation::DirectoryPart, "DIRECTORY_PART", Any, Open, Payload(parse::directory_part)),
    row(Operation::GetFeature, "GET_FEATURE", OwnOnly, Open, Payload(parse::get_feature)),
    row(Operation::SetFeature, "SET_FEATURE", Privileged, Open, Payload(parse::set_feature)),
    row(Operation::GetQuota, "GET_QUOTA", Privileged, Open, Payload(parse::get_quota)),
    row(Operation::SetQuota, "SET_QUOTA", Privileged, Open, Payload(parse::set_quota)),
    // docs/PROTOCOL-EXTENSIONS.md
    row(Operation::Quiesce, "QUIESCE", Privileged, Open, Arguments(parse::quiesce)),
    row(Operation::Unquiesce, "UNQUIESCE", Privileged, Open, Arguments(parse::unquiesce)),
    row(Operation::GetDomainWatches, "GET_DOMAIN_WATCHES", Privileged, Open, Arguments(|arguments, form| parse::get_domain_watches(arguments, form, false))),
    row(Operation::AddDomainWatches, "ADD_DOMAIN_WATCHES", Privileged, Open, Arguments(|arguments, form| parse::add_domain_watches(arguments, form, false))),
    row(Operation::StartDomainTransaction, "START_DOMAIN_TRANSACTION", Privileged, Open, Arguments(parse::start_domain_transaction)),
    row(Operation::GetDomainWatchesDepth, "GET_DOMAIN_WATCHES_DEPTH", Privileged, Open, Arguments(|arguments, form| parse::get_domain_watches(arguments, form, true))),
    row(Operation::AddDomainWatchesDepth, "ADD_DOMAIN_WATCHES_DEPTH", Privileged, Open, Arguments(|arguments, form| parse::add_domain_watches(arguments, form, true))),
    // docs/MIGRATION.md
    row(Operation::ExportDomains, "EXPORT_DOMAINS", Privileged, Ignored, Migration(parse::export_domains)),
    row(Operation::ImportDomains, "IMPORT_DOMAINS", Privileged, Ignored, Migration(parse::import_domains)),
    row(Operation::DiscardDomains, "DISCARD_DOMAINS", Privileged, Ignored, Migration(parse::discard_domains)),
    row(Operation::DomainStates, "DOMAIN_STATES", Privileged, Ignored, Migration(parse::domain_states)),
];

const fn row(
    operation: Operation,
    name: &'static str,
    access: Access,
    transaction: TransactionId,
    parser: Parser,
) -> Row {
    Row { operation, name, access, transaction, parser }
}

/// The numbers of Xen's operations are below this; the extensions follow one another.
const XEN_NUMBERS: usize = Operation::SetQuota as usize + 1;
/// The rows of Xen's numbers, since every request looks one up.
static ROWS: [Option<&Row>; XEN_NUMBERS] = {
    let mut rows = [None; XEN_NUMBERS];
    let mut at = 0;
    while (TABLE[at].operation as usize) < XEN_NUMBERS {
        rows[TABLE[at].operation as usize] = Some(&TABLE[at]);
        at += 1;
    }
    rows
};

impl Row {
    /// Returns the row of a number; `None` for numbers without an operation. Cost: constant for Xen's operations,
    /// a look at each extension for others.
    pub fn of(number: u32) -> Option<&'static Row> {
        match ROWS.get(number as usize) {
            Some(&row) => row,
            None => TABLE.iter().rev().find(|row| row.operation as u32 == number),
        }
    }
}

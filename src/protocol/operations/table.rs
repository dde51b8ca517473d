//! The operations and their table. A new operation is a number and a row here, and a request with its parser.

use super::{Form, MigrationRequest, Request, migration, request};
use crate::words::Errno;

/// An operation that a client may request: those of xs_wire.h (`xsd_sockmsg_type`), this daemon's own
/// (docs/PROTOCOL-EXTENSIONS.md) and those of the migration socket (docs/MIGRATION.md). The value is the number on
/// the wire. xs_wire.h counts up from 0 and keeps 65535 (`XS_INVALID`) for none, so Xen's never reach the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)] // They are the names of xenstore.txt and of the two documents.
pub enum Operation {
    Control = 0,
    Directory = 1,
    Read = 2,
    GetPerms = 3,
    Watch = 4,
    Unwatch = 5,
    TransactionStart = 6,
    TransactionEnd = 7,
    Introduce = 8,
    Release = 9,
    GetDomainPath = 10,
    Write = 11,
    Mkdir = 12,
    Rm = 13,
    SetPerms = 14,
    IsDomainIntroduced = 17,
    Resume = 18,
    SetTarget = 19,
    ResetWatches = 21,
    DirectoryPart = 22,
    GetFeature = 23,
    SetFeature = 24,
    GetQuota = 25,
    SetQuota = 26,
    Quiesce = 0x1_0000,
    Unquiesce,
    GetDomainWatches,
    AddDomainWatches,
    StartDomainTransaction,
    GetDomainWatchesDepth,
    AddDomainWatchesDepth,
    ExportDomains = 0x1_0010,
    ImportDomains,
    DiscardDomains,
    DomainStates,
}

impl Operation {
    /// Returns the operation of a number; `None` for numbers without one. Cost: constant.
    pub fn from_wire(number: u32) -> Option<Operation> {
        Row::of(number).map(|row| row.operation)
    }

    /// Returns what the table says of it.
    pub fn row(self) -> &'static Row {
        // Each operation has a row, as a test checks.
        Row::of(self as u32).unwrap_or(&TABLE[0])
    }

    /// Returns the name in xenstore.txt or in the extensions' documents.
    pub fn name(self) -> &'static str {
        self.row().name
    }
}

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
    row(Operation::Control, "CONTROL", Privileged, Open, Payload(request::control)),
    row(Operation::Directory, "DIRECTORY", Any, Open, Payload(request::directory)),
    row(Operation::Read, "READ", Any, Open, Payload(request::read)),
    row(Operation::GetPerms, "GET_PERMS", Any, Open, Payload(request::get_perms)),
    row(Operation::Watch, "WATCH", Any, Ignored, Payload(request::watch)),
    row(Operation::Unwatch, "UNWATCH", Any, Ignored, Payload(request::unwatch)),
    row(Operation::TransactionStart, "TRANSACTION_START", Any, Open, Payload(|_| Ok(Request::StartTransaction))),
    row(Operation::TransactionEnd, "TRANSACTION_END", Any, Open, Payload(request::transaction_end)),
    row(Operation::Introduce, "INTRODUCE", Privileged, Open, Payload(request::introduce)),
    row(Operation::Release, "RELEASE", Privileged, Open, Payload(request::release)),
    row(Operation::GetDomainPath, "GET_DOMAIN_PATH", Any, Open, Payload(request::get_domain_path)),
    row(Operation::Write, "WRITE", Any, Open, Payload(request::write)),
    row(Operation::Mkdir, "MKDIR", Any, Open, Payload(request::mkdir)),
    row(Operation::Rm, "RM", Any, Open, Payload(request::rm)),
    row(Operation::SetPerms, "SET_PERMS", Any, Open, Payload(request::set_perms)),
    row(Operation::IsDomainIntroduced, "IS_DOMAIN_INTRODUCED", Privileged, Open, Payload(request::is_domain_introduced)),
    row(Operation::Resume, "RESUME", Privileged, Open, Payload(request::resume)),
    row(Operation::SetTarget, "SET_TARGET", Privileged, Open, Payload(request::set_target)),
    row(Operation::ResetWatches, "RESET_WATCHES", Any, Open, Payload(|_| Ok(Request::ResetWatches))),
    row(Operation::DirectoryPart, "DIRECTORY_PART", Any, Open, Payload(request::directory_part)),
    row(Operation::GetFeature, "GET_FEATURE", OwnOnly, Open, Payload(request::get_feature)),
    row(Operation::SetFeature, "SET_FEATURE", Privileged, Open, Payload(request::set_feature)),
    row(Operation::GetQuota, "GET_QUOTA", Privileged, Open, Payload(request::get_quota)),
    row(Operation::SetQuota, "SET_QUOTA", Privileged, Open, Payload(request::set_quota)),
    // docs/PROTOCOL-EXTENSIONS.md
    row(Operation::Quiesce, "QUIESCE", Privileged, Open, Arguments(request::quiesce)),
    row(Operation::Unquiesce, "UNQUIESCE", Privileged, Open, Arguments(request::unquiesce)),
    row(Operation::GetDomainWatches, "GET_DOMAIN_WATCHES", Privileged, Open, Arguments(request::get_domain_watches)),
    row(Operation::AddDomainWatches, "ADD_DOMAIN_WATCHES", Privileged, Open, Arguments(request::add_domain_watches)),
    row(Operation::StartDomainTransaction, "START_DOMAIN_TRANSACTION", Privileged, Open, Arguments(request::start_domain_transaction)),
    row(Operation::GetDomainWatchesDepth, "GET_DOMAIN_WATCHES_DEPTH", Privileged, Open, Arguments(request::get_domain_watches_depth)),
    row(Operation::AddDomainWatchesDepth, "ADD_DOMAIN_WATCHES_DEPTH", Privileged, Open, Arguments(request::add_domain_watches_depth)),
    // docs/MIGRATION.md
    row(Operation::ExportDomains, "EXPORT_DOMAINS", Privileged, Ignored, Migration(migration::export_domains)),
    row(Operation::ImportDomains, "IMPORT_DOMAINS", Privileged, Ignored, Migration(migration::import_domains)),
    row(Operation::DiscardDomains, "DISCARD_DOMAINS", Privileged, Ignored, Migration(migration::discard_domains)),
    row(Operation::DomainStates, "DOMAIN_STATES", Privileged, Ignored, Migration(migration::domain_states)),
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

//! The operations and their table. A new operation needs a number and a row here, and a request with its parser.

use super::{Form, MigrationRequest, Request, migration, request};
use crate::types::Errno;

/// An operation that a client may request: those of xs_wire.h (`xsd_sockmsg_type`), this daemon's own
/// (docs/PROTOCOL-EXTENSIONS.md) and those of the migration socket (docs/MIGRATION.md). The value is the number on the
/// wire. xs_wire.h counts up from 0 and reserves 65535 (`XS_INVALID`), so Xen's numbers never collide with the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)] // The names in xenstore.txt and the two documents.
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
    // 15 and 16 are WATCH_EVENT and ERROR, which no client sends.
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
    /// Returns the operation with a wire number; `None` if there is none. Cost: as [`Row::of`].
    pub fn from_wire(number: u32) -> Option<Operation> {
        Row::of(number).map(|row| row.operation)
    }

    /// Returns the operation's row of the table.
    pub fn row(self) -> &'static Row {
        // Every operation has a row; a test checks it.
        Row::of(self as u32).unwrap_or(&TABLE[0])
    }

    /// Returns the name in xenstore.txt or in the extensions' documents.
    pub fn name(self) -> &'static str {
        self.row().name
    }
}

impl From<Operation> for u32 {
    fn from(operation: Operation) -> u32 {
        operation as u32
    }
}

/// The properties of an operation.
pub struct Row {
    /// The operation that the row describes.
    pub operation: Operation,
    /// The name in xenstore.txt or in the extensions' documents.
    pub name: &'static str,
    /// The domains that may request the operation.
    pub access: Access,
    /// The meaning of a transaction id in the operation's header.
    pub transaction: TransactionId,
    /// The parser of the operation's payload.
    pub parser: Parser,
}

/// The domains that may request an operation. Other domains get EACCES (xenstore.txt: "prevents the use of ... other
/// than by dom0").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every domain.
    Any,
    /// Every domain without arguments; only privileged domains with arguments, which name another domain.
    OwnOnly,
    /// The control domain and domains with its rights.
    Privileged,
}

/// The meaning of a transaction id other than 0 in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionId {
    /// The id of an open transaction; ENOENT if there is none. Requests that are not about nodes still take effect
    /// immediately.
    Open,
    /// Ignored, whether or not such a transaction is open (xenstore.txt, WATCH).
    Ignored,
}

/// A parser from an operation's payload to a request. Returns `EINVAL` for a malformed payload.
#[derive(Clone, Copy)]
pub enum Parser {
    /// Parses the raw payload.
    Payload(for<'a> fn(&'a [u8]) -> Result<Request<'a>, Errno>),
    /// Parses arguments: the payload split at NULs, or the words of a CONTROL command.
    Arguments(for<'a> fn(&[&'a [u8]], Form) -> Result<Request<'a>, Errno>),
    /// For requests of the migration socket; the store's socket and rings return ENOSYS.
    Migration(fn(&[u8]) -> Result<MigrationRequest, Errno>),
}

use Access::{Any, OwnOnly, Privileged};
use Parser::{Arguments, Migration, Payload};
use TransactionId::{Ignored, Open};

/// The rows of all operations, sorted by number.
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

/// Xen's operations have numbers below this; the rows of the extensions follow theirs.
const XEN_NUMBERS: usize = Operation::SetQuota as usize + 1;
/// Rows indexed by Xen's numbers: every request looks one up.
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
    /// Returns the row of a wire number; `None` if there is no such operation. Cost: constant for Xen's operations, a
    /// linear scan of the extensions for others.
    pub fn of(number: u32) -> Option<&'static Row> {
        match ROWS.get(number as usize) {
            Some(&row) => row,
            // From the end, where the extensions are.
            None => TABLE.iter().rev().find(|row| row.operation as u32 == number),
        }
    }
}

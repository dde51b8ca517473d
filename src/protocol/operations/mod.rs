//! The operations of the wire: one [table](TABLE) with the number, name, rights and parser of each, and the typed
//! [`Request`] that its parser returns. Names, numbers and checks are read from here everywhere else.

mod parse;
mod request;
mod table;

pub use request::{
    DomainRequest, Form, MigrationRequest, NewWatch, NodeRequest, Range, Request, WatchListing,
};
pub use table::{Access, Parser, Row, TABLE, TransactionId};

use crate::words::Errno;

/// WATCH_EVENT of xs_wire.h: what a server sends without being asked.
pub const WATCH_EVENT: u32 = 15;
/// ERROR of xs_wire.h: a reply that is an errno's name.
pub const ERROR: u32 = 16;

/// Domains that one request quiesces, exports or discards at most: their pause is shared, the reply that names an
/// error for all but one of them still fits, and all descriptors of an export fit into one message.
pub const DOMAINS_MAX: usize = 256;

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

/// Returns the name of any message, for people: of a request, a reply or an event.
pub fn message_name(number: u32) -> &'static str {
    match number {
        WATCH_EVENT => "WATCH_EVENT",
        ERROR => "ERROR",
        _ => Row::of(number).map_or("unknown", |row| row.name),
    }
}

/// Returns the request that a command of CONTROL stands for, with its arguments read as text; `None` for
/// commands that are no request (`control`). `-d` in front of the arguments asks for watches with their depth.
pub fn command<'a>(words: &[&'a [u8]]) -> Option<Result<Request<'a>, Errno>> {
    let (name, arguments) = words.split_first()?;
    let (operation, arguments) = match (*name, arguments) {
        (b"get-domain-watches", [b"-d", rest @ ..]) => (Operation::GetDomainWatchesDepth, rest),
        (b"add-domain-watches", [b"-d", rest @ ..]) => (Operation::AddDomainWatchesDepth, rest),
        (b"get-domain-watches", _) => (Operation::GetDomainWatches, arguments),
        (b"add-domain-watches", _) => (Operation::AddDomainWatches, arguments),
        (b"quiesce", _) => (Operation::Quiesce, arguments),
        (b"unquiesce", _) => (Operation::Unquiesce, arguments),
        (b"start-domain-transaction", _) => (Operation::StartDomainTransaction, arguments),
        _ => return None,
    };
    match operation.row().parser {
        Parser::Arguments(parse) => Some(parse(arguments, Form::Text)),
        Parser::Payload(_) | Parser::Migration(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_xs_wire_h() {
        for number in (0..100).chain(0x1_0000..0x1_0100) {
            if let Some(operation) = Operation::from_wire(number) {
                assert_eq!(operation as u32, number);
                assert_eq!(operation.row().operation, operation);
            }
        }
        for absent in [15, 16, 20, 27, 65535, 0x1_0007, 0x1_0014, u32::MAX] {
            assert_eq!(Operation::from_wire(absent), None);
        }
        assert_eq!((0..0x2_0000).filter(|&n| Row::of(n).is_some()).count(), TABLE.len());
    }
}

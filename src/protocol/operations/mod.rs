//! The operations of the wire protocol: one [table](TABLE) with the number, name, rights and parser of each, and the
//! typed [`Request`] that the parser returns. This table is the only source of names, numbers and checks.

mod command;
mod migration;
mod request;
mod table;

pub use command::{COMMANDS, command};
pub use migration::{DESTINATION_BYTES_MAX, Import, ImportMode, MigrationRequest, Range};
pub use request::{
    DomainRequest, Form, NewWatch, NodeRequest, Request, TransactionEnd, WatchColumns, WatchListing,
};
pub use table::{Access, Operation, Parser, Row, TABLE, TransactionId};

/// WATCH_EVENT of xs_wire.h: a message that the server sends unsolicited.
pub const WATCH_EVENT: u32 = 15;
/// ERROR of xs_wire.h: a reply whose payload is an errno name.
pub const ERROR: u32 = 16;

/// Maximum number of domains that one request quiesces, exports or discards. The domains of one request share one
/// pause; a reply that names an error for all but one of them still fits; and all descriptors of an export fit into one
/// message.
pub const DOMAINS_MAX: usize = 256;

/// Returns the name of any message type (request, reply or event) for logs; `"unknown"` if there is none.
pub fn message_name(number: u32) -> &'static str {
    match number {
        WATCH_EVENT => "WATCH_EVENT",
        ERROR => "ERROR",
        _ => Row::of(number).map_or("unknown", |row| row.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_numbers_match_xs_wire_h() {
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

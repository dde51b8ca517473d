//! The documents' statements about operations equal the table of operations.

use std::fs;

use xenstored::protocol::operations::{Parser, TABLE};
use xenstored::protocol::{ERROR, Operation, WATCH_EVENT, message_name};

#[test]
fn manual_has_the_number_of_every_xen_operation() {
    let manual = fs::read_to_string("docs/SIM.md").unwrap();
    let cells = manual.lines().filter(|line| line.starts_with('|')).flat_map(|row| row.split('|'));
    let numbered = cells.filter_map(|cell| {
        let (number, name) = cell.trim().split_once(' ')?;
        let is_name = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        Some((number.parse::<u32>().ok().filter(|_| is_name)?, name))
    });
    let mut found: Vec<_> = numbered.collect();
    found.sort_unstable();
    let sent = |&number: &u32| {
        Operation::from_wire(number).is_some() || [WATCH_EVENT, ERROR].contains(&number)
    };
    let expected: Vec<_> =
        (0..100).filter(sent).map(|number| (number, message_name(number))).collect();
    assert_eq!(found, expected);
}

#[test]
fn extensions_match_the_rows_of_their_documents() {
    let documents = ["docs/PROTOCOL-EXTENSIONS.md", "docs/MIGRATION.md"];
    let documents = documents.map(|file| fs::read_to_string(file).unwrap()).concat();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.strip_suffix('`')?.to_owned();
        Some((cells.next()?.trim().parse::<u32>().ok()?, name))
    };
    let mut found: Vec<_> = documents.lines().filter_map(row).collect();
    found.sort_unstable();
    let extensions = TABLE.iter().filter(|row| !matches!(row.parser, Parser::Payload(_)));
    let expected: Vec<_> =
        extensions.map(|row| (row.operation as u32, row.name.to_owned())).collect();
    assert_eq!(found, expected);
}

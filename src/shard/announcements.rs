//! What a toolstack can read of this daemon in the store itself: its extensions, and where it moves domains.

use std::borrow::Cow;

use super::shared::Shared;
use crate::protocol::operations::{Parser, TABLE};
use crate::store::{Generations, Op, Verb};
use crate::words::Path;

/// Holds a node for each extension that the daemon has, whose value is its number. The nodes are the control
/// domain's alone, like the operations.
const OPERATIONS: &str = "/tool/xenstored/operations";

impl Shared {
    /// Announces the extensions that the store's socket and rings serve.
    pub fn announce_extensions(&self) {
        self.announce_rows(|parser| matches!(parser, Parser::Arguments(_)));
    }

    /// Announces a migration socket, with what its clients need to know: the operations that it serves, and how many
    /// shards there are.
    pub fn announce_migration_socket(&self, path: &str) {
        self.announce("migration-socket", path);
        self.announce("shards", &self.store.layout().shards().to_string());
        self.announce_rows(|parser| matches!(parser, Parser::Migration(_)));
    }

    fn announce_rows(&self, is_meant: fn(&Parser) -> bool) {
        for row in TABLE.iter().filter(|row| is_meant(&row.parser)) {
            self.announce(row.name, &(row.operation as u32).to_string());
        }
    }

    fn announce(&self, name: &str, value: &str) {
        let path = format!("{OPERATIONS}/{name}");
        let Ok(path) = Path::parse(path.as_bytes()) else { return };
        let op = Op { path, verb: Verb::Write(Cow::Borrowed(value.as_bytes())) };
        let (caller, mut generations) = (self.daemon_caller(), Generations::default());
        if let Err(error) = self.store.execute(&caller, &op, &mut generations, &mut Vec::new()) {
            tracing::error!(%error, path = %op.path, "it is not announced");
        }
    }
}

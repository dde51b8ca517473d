//! The extensions and the migration socket of this daemon, announced to toolstacks as nodes in the store.

use std::borrow::Cow;

use super::shared::Shared;
use crate::migration::stream::digest::ALGORITHM;
use crate::protocol::operations::{Parser, TABLE};
use crate::store::{Generations, Op, Verb};
use crate::types::Path;

/// The directory of one node for each extension: its name, and its number as the value. Like the operations themselves,
/// the nodes are readable by the control domain only.
const OPERATIONS: &str = "/tool/xenstored/operations";

impl Shared {
    /// Announces the extensions that the client socket and the rings serve.
    pub fn announce_extensions(&self) {
        self.announce_rows(|parser| matches!(parser, Parser::Arguments(_)));
    }

    /// Announces the migration socket with what its clients need: its path, its operations, that EXPORT_DOMAINS takes a
    /// destination and UNQUIESCE force, that IMPORT_DOMAINS introduces, and the number of shards, by which they batch
    /// domains of the same owner thread.
    pub fn announce_migration_socket(&self, path: &str) {
        self.announce("migration-socket", path);
        self.announce("destinations", "1");
        self.announce("import-introduces", "1");
        self.announce("shards", &self.store.layout().shards().to_string());
        self.announce("stream-digest", ALGORITHM);
        self.announce_rows(|parser| matches!(parser, Parser::Migration(_)));
    }

    fn announce_rows(&self, is_meant: fn(&Parser) -> bool) {
        // Derived from the table, so that no extension can be served without being announced.
        for row in TABLE.iter().filter(|row| is_meant(&row.parser)) {
            self.announce(row.name, &(row.operation as u32).to_string());
        }
    }

    fn announce(&self, name: &str, value: &str) {
        let path = format!("{OPERATIONS}/{name}");
        let Ok(path) = Path::parse(path.as_bytes()) else { return };
        let (caller, mut generations) = (self.daemon_caller(), Generations::default());
        // After an update they are there, and watchers must not be notified of what has not changed.
        let (mut present, read) = (Vec::new(), Op { path, verb: Verb::Read });
        let is_there = self.store.execute(&caller, &read, &mut generations, &mut present).is_ok();
        if is_there && present == value.as_bytes() {
            return;
        }
        let op = Op { path, verb: Verb::Write(Cow::Borrowed(value.as_bytes())) };
        // As the control domain, which no quota binds.
        if let Err(error) = self.store.execute(&caller, &op, &mut generations, &mut Vec::new()) {
            tracing::error!(%error, path = %op.path, "cannot write an announcement");
        }
    }
}

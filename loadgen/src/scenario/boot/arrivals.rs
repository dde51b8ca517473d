//! The queue of domains that a console daemon has not seen yet, in place of a hypervisor query.

use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use xenstored::types::Domid;

use crate::trouble::{ClientError, Result};

/// Domids in a file next to the daemon's socket, so that any process can append to them.
pub(super) struct Arrivals {
    file: File,
    /// Number of bytes consumed.
    taken: Cell<u64>,
}

impl Arrivals {
    /// Opens the queue of the daemon with this socket.
    pub(super) fn of(socket: &Path) -> Result<Arrivals> {
        let path = socket.with_file_name("arrivals");
        let opened = File::options().read(true).append(true).create(true).open(path);
        let file = opened.map_err(|error| ClientError::io("cannot record an arrival", error))?;
        Ok(Arrivals { file, taken: Cell::new(0) })
    }

    /// Appends a domain.
    pub(super) fn add(&self, domid: Domid) -> Result<()> {
        Ok((&self.file).write_all(&domid.0.to_le_bytes())?)
    }

    /// Returns the next domain, if there is one.
    pub(super) fn next(&self) -> Option<Domid> {
        let mut bytes = [0; 2];
        self.file.read_exact_at(&mut bytes, self.taken.get()).ok()?;
        self.taken.set(self.taken.get() + 2);
        Some(Domid(u16::from_le_bytes(bytes)))
    }
}

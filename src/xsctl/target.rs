//! The files of an export.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::export_files::Format;
use super::failure::Failure;
use super::libxl_file;
use crate::migration::stream::Reader;
use crate::migration::stream::state::State;
use crate::words::Domid;

/// A file that is to be.
pub struct Target {
    domid: Domid,
    format: Format,
    /// Its name in the end; until then it ends in `.part`.
    path: PathBuf,
    part: PathBuf,
    /// What the daemon writes into: the file, or memory if that is not the form to be kept.
    file: File,
}

impl Target {
    /// That of a domain in a directory.
    ///
    /// # Errors
    /// The file's.
    pub fn create(directory: &Path, format: Format, domid: Domid) -> Result<Target, Failure> {
        let path = directory.join(format!("{domid}.{}", format.suffix()));
        let part = path.with_extension(format!("{}.part", format.suffix()));
        let file = match format {
            Format::Stream => private(&part),
            Format::Libxl => libxl_file::memory(),
        };
        let file = file.map_err(Failure::file(&part))?;
        Ok(Target { domid, format, path, part, file })
    }

    /// Where the daemon writes.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Makes the file safe, and gives it its name; answers what the form had no place for.
    ///
    /// # Errors
    /// The file's; the stream's, if it is to be another form.
    pub fn keep(mut self) -> Result<Vec<String>, Failure> {
        let left_out = match self.format {
            Format::Stream => Vec::new(),
            Format::Libxl => self.convert()?,
        };
        self.file.sync_all().map_err(Failure::file(&self.part))?;
        fs::rename(&self.part, &self.path).map_err(Failure::file(&self.path))?;
        Ok(left_out)
    }

    /// Makes a file of libxl's of what is in memory.
    fn convert(&mut self) -> Result<Vec<String>, Failure> {
        self.file.rewind().map_err(Failure::file(&self.path))?;
        let state = Reader::new(BufReader::new(&self.file))
            .and_then(|mut reader| State::read(&mut reader))
            .map_err(|error| Failure::of(&self.path, error))?;
        let (bytes, left_out) = libxl_file::write(&state, self.domid).map_err(|fault| {
            Failure::Contents { path: self.path.clone(), why: fault.to_string() }
        })?;
        let written =
            private(&self.part).and_then(|mut file| file.write_all(&bytes).map(|()| file));
        self.file = written.map_err(Failure::file(&self.part))?;
        Ok(left_out)
    }

    /// There is nothing to keep.
    pub fn remove(self) {
        // What remains is called `.part`, and nobody reads it.
        let _ = fs::remove_file(self.part);
    }
}

/// A new file, or an old one emptied, for our own eyes: guests write passwords into the store.
pub fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

//! The files of an export.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::container;
use super::error::ToolError;
use super::export_files::Format;
use super::libxl_file;
use super::marks::FileState;
use crate::migration::stream::Reader;
use crate::migration::stream::state::State;
use crate::types::Domid;

/// A file being written.
pub struct Target {
    domid: Domid,
    format: Format,
    /// The file's final name; until the file is complete, `.part` is appended.
    path: PathBuf,
    part: PathBuf,
    /// The target of the daemon's writes: the file, or memory if the stream has to be converted.
    file: File,
}

impl Target {
    /// Creates the file of a domain in a directory.
    ///
    /// # Errors
    /// Those of the file.
    pub fn create(directory: &Path, format: Format, domid: Domid) -> Result<Target, ToolError> {
        let path = directory.join(format!("{domid}.{}", format.suffix()));
        let part = path.with_extension(format!("{}.part", format.suffix()));
        let file = match format {
            Format::Stream => private(&part),
            Format::Libxl => libxl_file::memory(),
        };
        let file = file.map_err(ToolError::file(&part))?;
        Ok(Target { domid, format, path, part, file })
    }

    /// Creates a target that is only in memory, for a container.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn in_memory(domid: Domid) -> Result<Target, ToolError> {
        let path = PathBuf::from(container::name(domid));
        let file = libxl_file::memory().map_err(ToolError::file(&path))?;
        Ok(Target { domid, format: Format::Stream, part: path.clone(), path, file })
    }

    /// Returns the descriptor to which the daemon writes.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Returns the final name.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Completes the file. Returns descriptions of what the format cannot represent.
    ///
    /// # Errors
    /// Those of the file and of the stream, if it is converted.
    pub fn complete(&mut self) -> Result<Vec<String>, ToolError> {
        match self.format {
            Format::Stream => Ok(Vec::new()),
            Format::Libxl => self.convert(),
        }
    }

    /// Renames the file, which the caller has synced to disk, to its final name. Cost: reads it.
    ///
    /// # Errors
    /// Those of the file.
    pub fn keep(mut self) -> Result<FileState, ToolError> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let read = self.file.rewind().and_then(|()| FileState::of(name, &self.file));
        let state = read.map_err(ToolError::file(&self.part))?;
        fs::rename(&self.part, &self.path).map_err(ToolError::file(&self.path))?;
        Ok(state)
    }

    /// Appends the stream to a container. Cost: reads it twice.
    ///
    /// # Errors
    /// Those of the file and of the output.
    pub fn write_to(mut self, out: &mut impl Write) -> Result<FileState, ToolError> {
        let state = self.file.rewind().and_then(|()| FileState::of(self.name(), &self.file));
        let state = state.map_err(ToolError::file(&self.path))?;
        let copied = self
            .file
            .rewind()
            .and_then(|()| container::write_stream(out, self.domid, state.bytes, &self.file));
        copied.map_err(ToolError::file("-".as_ref()))?;
        Ok(state)
    }

    /// Converts the stream in memory to a file in libxl's format.
    fn convert(&mut self) -> Result<Vec<String>, ToolError> {
        self.file.rewind().map_err(ToolError::file(&self.path))?;
        let state = Reader::new(BufReader::new(&self.file))
            .and_then(|mut reader| State::read(&mut reader))
            .map_err(|error| ToolError::of(&self.path, error))?;
        let (bytes, left_out) = libxl_file::write(&state, self.domid).map_err(|fault| {
            ToolError::Contents { path: self.path.clone(), why: fault.to_string() }
        })?;
        let written =
            private(&self.part).and_then(|mut file| file.write_all(&bytes).map(|()| file));
        self.file = written.map_err(ToolError::file(&self.part))?;
        Ok(left_out)
    }

    /// Discards the file, if it is one of a directory.
    pub fn remove(self) {
        // A leftover is called `.part` and is not read again.
        if self.part != self.path {
            let _ = fs::remove_file(self.part);
        }
    }
}

/// Creates or truncates a file with mode 0600: guests write passwords into the store.
pub fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

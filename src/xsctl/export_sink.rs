//! Where an export goes: files of a directory, or one container on standard output.

use std::fs::{self, File};
use std::io::{self, BufWriter, Stdout, Write};
use std::path::{Path, PathBuf};

use rustix::fs::syncfs;

use super::container;
use super::error::ToolError;
use super::export_files::Format;
use super::marks::{FileState, Marks};
use super::target::Target;
use crate::types::Domid;

/// The destination of an export.
pub enum Sink {
    /// A directory, with its path for the names of files and an open handle for its syncs.
    Directory(PathBuf, File),
    /// Standard output, which has the beginning of a container, and whether all that was written is whole.
    Output(BufWriter<Stdout>, bool),
}

impl Sink {
    /// Opens the output: a directory, which is made, or standard output for `-`. Returns the marks that it has.
    ///
    /// # Errors
    /// Those of the output; a directory already has streams, unless `force` allows to replace them.
    pub fn open(output: &Path, force: bool) -> Result<(Sink, Marks), ToolError> {
        if container::is_pipe(output) {
            let mut out = BufWriter::new(io::stdout());
            container::write_start(&mut out).map_err(ToolError::file(output))?;
            return Ok((Sink::Output(out, true), Marks::none(output.to_path_buf())));
        }
        fs::create_dir_all(output).map_err(ToolError::file(output))?;
        if !force && has_streams(output).map_err(ToolError::file(output))? {
            let why =
                "it already contains streams; use --force to replace those of the same domains";
            return Err(ToolError::Contents { path: output.to_path_buf(), why: why.into() });
        }
        let handle = File::open(output).map_err(ToolError::file(output))?;
        Ok((Sink::Directory(output.to_path_buf(), handle), Marks::open(output)?))
    }

    /// Makes the target of a domain's stream.
    ///
    /// # Errors
    /// Those of the file.
    pub fn target(&self, format: Format, domid: Domid) -> Result<Target, ToolError> {
        match self {
            Sink::Directory(directory, _) => Target::create(directory, format, domid),
            Sink::Output(..) => Target::in_memory(domid),
        }
    }

    /// Makes the complete targets of a batch permanent. One sync of the file system serves them all: one for each of a
    /// thousand files would make the pause several times as long.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn sync(&self) -> rustix::io::Result<()> {
        match self {
            Sink::Directory(_, handle) => syncfs(handle),
            Sink::Output(..) => Ok(()),
        }
    }

    /// Gives a target, which is synced, its place. Cost: reads it.
    ///
    /// # Errors
    /// Those of the file or the output.
    pub fn keep(&mut self, target: Target) -> Result<FileState, ToolError> {
        match self {
            Sink::Directory(..) => target.keep(),
            Sink::Output(_, false) => Err(cut_off()),
            Sink::Output(out, is_whole) => {
                let written = target.write_to(out);
                *is_whole = written.is_ok();
                written
            }
        }
    }

    /// Ends a batch.
    ///
    /// # Errors
    /// Those of the directory or the output.
    pub fn end_batch(&mut self, marks: &Marks) -> Result<(), ToolError> {
        match self {
            Sink::Directory(path, handle) => {
                let safe = handle.sync_all().map_err(ToolError::file(path));
                let written = marks.write();
                safe.and(written)
            }
            Sink::Output(_, false) => Err(cut_off()),
            Sink::Output(out, true) => out.flush().map_err(ToolError::file("-".as_ref())),
        }
    }

    /// Ends an export that had no error: a container gets its marks, without which it is refused.
    ///
    /// # Errors
    /// Those of the output.
    pub fn end(self, marks: &Marks) -> Result<(), ToolError> {
        match self {
            Sink::Directory(..) => Ok(()),
            Sink::Output(mut out, _) => {
                container::write_end(&mut out, marks).map_err(ToolError::file("-".as_ref()))
            }
        }
    }
}

fn cut_off() -> ToolError {
    let why = "the output could not be written, and is incomplete".into();
    ToolError::Contents { path: "-".into(), why }
}

/// Returns whether the directory has files of an export.
fn has_streams(directory: &Path) -> io::Result<bool> {
    let is_one = |entry: io::Result<fs::DirEntry>| {
        let path = PathBuf::from(entry?.file_name());
        let ends = [Format::Stream, Format::Libxl].map(Format::suffix);
        Ok(path.extension().is_some_and(|end| ends.iter().any(|known| end == *known)))
    };
    let found: io::Result<Vec<bool>> = fs::read_dir(directory)?.map(is_one).collect();
    Ok(found?.contains(&true))
}

//! The files of an import: which they are, and whether they are those that were exported.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::container::Container;
use super::error::ToolError;
use super::export_files::Format;
use super::libxl_file;
use super::marks::{FILE, FileState, Marks};
use crate::migration::stream::digest::{TAIL_BYTES, ends_with_digest};

/// Files to import.
#[derive(Default)]
pub struct StreamFiles {
    pub paths: Vec<PathBuf>,
    /// Files that were exported into one of the named directories and are not there.
    pub missing: Vec<PathBuf>,
    /// The marks in the files' directories and of containers.
    marks: BTreeMap<PathBuf, Marks>,
    /// The streams of containers, as if these were directories.
    contained: BTreeMap<PathBuf, Vec<u8>>,
}

impl StreamFiles {
    /// Finds the named files, and those of the named directories and containers sorted by domain. Cost: reads the
    /// containers.
    ///
    /// # Errors
    /// A directory, a container or its marks cannot be read, or it has no streams.
    pub fn find(paths: &[PathBuf]) -> Result<StreamFiles, ToolError> {
        let mut files = StreamFiles::default();
        for path in paths {
            if path.is_dir() {
                files.add_directory(path)?;
            } else if let Some(Container { marks, streams }) = Container::at(path)? {
                let streams = streams.into_iter().map(|(name, bytes)| (path.join(name), bytes));
                let streams: BTreeMap<_, _> = streams.collect();
                files.add(path, streams.keys().cloned().collect(), marks)?;
                files.contained.extend(streams);
            } else {
                let directory = directory_of(path).to_path_buf();
                files.marks.insert(directory.clone(), Marks::open(&directory)?);
                files.paths.push(path.clone());
            }
        }
        Ok(files)
    }

    fn add_directory(&mut self, directory: &Path) -> Result<(), ToolError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).map_err(ToolError::file(directory))? {
            let file = entry.map_err(ToolError::file(directory))?.path();
            if is_stream(&file) {
                found.push(file);
            }
        }
        self.add(directory, found, Marks::open(directory)?)
    }

    /// Adds the streams that were found in a directory or a container.
    fn add(
        &mut self,
        directory: &Path,
        mut found: Vec<PathBuf>,
        marks: Marks,
    ) -> Result<(), ToolError> {
        if found.is_empty() {
            let why = format!("it contains no file *.{}", Format::Stream.suffix());
            return Err(ToolError::Contents { path: directory.to_path_buf(), why });
        }
        found.sort_by_cached_key(|file| {
            let number = file.file_stem().and_then(|stem| stem.to_str()?.parse::<u16>().ok());
            (number, file.clone())
        });
        let exported = marks.files().map(|file| directory.join(&file.name));
        self.missing.extend(exported.filter(|file| is_stream(file) && !found.contains(file)));
        self.paths.extend(found);
        self.marks.insert(directory.to_path_buf(), marks);
        Ok(())
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// Those of the file.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        match self.contained.get(path) {
            Some(bytes) => libxl_file::filled(bytes),
            None => File::open(path),
        }
    }

    /// Returns warnings about marks that say nothing of files.
    pub fn warnings(&self) -> Vec<String> {
        self.marks.values().filter(|marks| marks.are_old()).map(Marks::warning).collect()
    }

    /// Compares a file with its directory's marks. Returns warnings about what cannot be compared. Cost: reads it.
    ///
    /// # Errors
    /// It is not the file that was exported; those of the file.
    pub fn check(
        &self,
        path: &Path,
        file: &mut File,
        format: Format,
    ) -> Result<Vec<&'static str>, ToolError> {
        let mut warnings = Vec::new();
        // A pipe can be read only once.
        if !file.metadata().map_err(ToolError::file(path))?.is_file() {
            return Ok(warnings);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(marks) = self.marks.get(directory_of(path))
            && marks.files().next().is_some()
        {
            if marks.files().any(|file| file.name == name) {
                let found = FileState::of(name, &*file).map_err(ToolError::file(path))?;
                file.rewind().map_err(ToolError::file(path))?;
                if let Some(why) = marks.difference(&found) {
                    return Err(ToolError::Contents { path: path.to_path_buf(), why });
                }
            } else {
                warnings.push("marks.json does not list it");
            }
        }
        let has_digest = has_digest(file).map_err(ToolError::file(path))?;
        if format == Format::Stream && !has_digest {
            warnings.push("it has no digest: damage to it is not noticed");
        }
        Ok(warnings)
    }
}

/// Returns the reason why a missing file is an error.
pub fn missing() -> String {
    format!("it is missing: {FILE} lists it")
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn is_stream(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == Format::Stream.suffix())
}

/// Returns whether a stream ends with a digest. Only the daemon compares it with the stream.
fn has_digest(file: &File) -> io::Result<bool> {
    let mut tail = [0; TAIL_BYTES];
    match file.metadata()?.len().checked_sub(TAIL_BYTES as u64) {
        Some(at) => file.read_exact_at(&mut tail, at).map(|()| ends_with_digest(&tail)),
        None => Ok(false),
    }
}

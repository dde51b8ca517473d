//! A stream named on the command line.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use super::error::ToolError;
use crate::migration::stream::{ReadError, Reader};

/// Opens a file. Rejects directories, which open but fail only when they are read.
fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    match file.metadata()?.is_dir() {
        true => Err(io::Error::other("it is a directory; name a stream in it, such as 5.xenstore")),
        false => Ok(file),
    }
}

/// A stream opened for reading, with its path for error messages.
pub struct Input {
    path: PathBuf,
    reader: Reader<Box<dyn io::Read>>,
}

impl Input {
    /// Opens a file, `-` for standard input, and reads the header.
    ///
    /// # Errors
    /// Those of the file and the header.
    pub fn open(path: PathBuf) -> Result<Input, ToolError> {
        let input: Box<dyn io::Read> = if path.as_os_str() == "-" {
            Box::new(io::stdin())
        } else {
            Box::new(open(&path).map_err(ToolError::file(&path))?)
        };
        match Reader::new(Box::new(BufReader::new(input)) as Box<dyn io::Read>) {
            Ok(reader) => Ok(Input { path, reader }),
            Err(error) => Err(ToolError::of(&path, error)),
        }
    }

    /// Lets `work` read from the stream.
    ///
    /// # Errors
    /// Those of `work`, with the file's name.
    pub fn read<R>(
        &mut self,
        work: impl FnOnce(&mut Reader<Box<dyn io::Read>>) -> Result<R, ReadError>,
    ) -> Result<R, ToolError> {
        work(&mut self.reader).map_err(|error| ToolError::of(&self.path, error))
    }
}

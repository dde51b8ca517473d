//! A stream of the command line.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;

use super::failure::Failure;
use crate::migrate::stream::{ReadError, Reader};

/// The stream.
pub struct Input {
    path: PathBuf,
    reader: Reader<Box<dyn io::Read>>,
}

impl Input {
    /// Opens a file, `-` for standard input, and reads the header.
    ///
    /// # Errors
    /// The file's, the header's.
    pub fn open(path: PathBuf) -> Result<Input, Failure> {
        let input: Box<dyn io::Read> = if path.as_os_str() == "-" {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(&path).map_err(Failure::file(&path))?)
        };
        match Reader::new(Box::new(BufReader::new(input)) as Box<dyn io::Read>) {
            Ok(reader) => Ok(Input { path, reader }),
            Err(error) => Err(Failure::of(&path, error)),
        }
    }

    /// Has `work` read it.
    ///
    /// # Errors
    /// Those of the work, with the file's name.
    pub fn read<R>(
        &mut self,
        work: impl FnOnce(&mut Reader<Box<dyn io::Read>>) -> Result<R, ReadError>,
    ) -> Result<R, Failure> {
        work(&mut self.reader).map_err(|error| Failure::of(&self.path, error))
    }
}

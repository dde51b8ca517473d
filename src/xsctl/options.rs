//! The command line, and how the process ends.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{ArgAction, Parser, Subcommand};
use thiserror::Error;

use super::{diff, inspect};
use crate::migrate::stream::{ReadError, Reader};

/// Look at what is carried when the state of a xenstore moves.
///
/// Exit codes: 0 done, of diff: no difference; 1 differences; 2 wrong usage; 3 a file cannot be
/// read, or the output not written; 4 a stream is not as it should be.
#[derive(Debug, Parser)]
#[command(name = "xsctl", version, disable_help_subcommand = true)]
#[command(disable_help_flag = true, disable_version_flag = true)]
struct Options {
    /// Print this message
    #[arg(short = 'h', long, global = true, action = ArgAction::Help)]
    help: Option<bool>,
    /// Print the version
    #[arg(long, action = ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a "xenstore" stream, a line for each record, with its offset in bytes
    Inspect {
        /// Print an object of JSON for each record
        #[arg(long)]
        json: bool,
        /// The stream; - for standard input
        file: PathBuf,
    },
    /// Show what differs between the states of two streams: nodes, permissions, watches,
    /// transactions, quotas, bytes on the way
    Diff {
        /// Print an object of JSON for each difference
        #[arg(long)]
        json: bool,
        /// The stream to begin with; - for standard input
        a: PathBuf,
        /// The stream to compare with it; - for standard input
        b: PathBuf,
    },
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// All is well.
    Well,
    /// The streams differ.
    Differs,
}

/// Why it could not be done. The exit codes are documented in xsctl(8).
#[derive(Debug, Error)]
pub enum Failure {
    /// Wrong usage; or help was asked for, which ends it in the same way.
    #[error("{0}")]
    Usage(#[from] clap::Error),
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A stream is not as it should be.
    #[error("{}: {error}", path.display())]
    Stream {
        /// The file.
        path: PathBuf,
        /// In which record, and why.
        error: ReadError,
    },
    /// The output cannot be written.
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// The exit code of the process.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Usage(error) => u8::try_from(error.exit_code()).unwrap_or(2),
            // Who has read enough closes the pipe.
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Failure::Input { .. } | Failure::Output(_) => 3,
            Failure::Stream { .. } => 4,
        }
    }

    /// What is to be said of it, if anything.
    pub fn message(&self) -> Option<String> {
        (self.code() > 2).then(|| self.to_string())
    }

    fn of(path: &Path, error: ReadError) -> Failure {
        let path = path.to_path_buf();
        match error {
            ReadError::Io(error) => Failure::Input { path, error },
            error @ ReadError::Stream { .. } => Failure::Stream { path, error },
        }
    }
}

/// A stream of the command line.
pub(super) struct Input {
    path: PathBuf,
    reader: Reader<Box<dyn io::Read>>,
}

impl Input {
    fn open(path: PathBuf) -> Result<Input, Failure> {
        let input: Box<dyn io::Read> = if path.as_os_str() == "-" {
            Box::new(io::stdin())
        } else {
            match File::open(&path) {
                Ok(file) => Box::new(file),
                Err(error) => return Err(Failure::Input { path, error }),
            }
        };
        match Reader::new(Box::new(BufReader::new(input)) as Box<dyn io::Read>) {
            Ok(reader) => Ok(Input { path, reader }),
            Err(error) => Err(Failure::of(&path, error)),
        }
    }

    /// Has `work` read it.
    pub(super) fn read<R>(
        &mut self,
        work: impl FnOnce(&mut Reader<Box<dyn io::Read>>) -> Result<R, ReadError>,
    ) -> Result<R, Failure> {
        work(&mut self.reader).map_err(|error| Failure::of(&self.path, error))
    }
}

/// Does what the arguments ask, the first of which is the program's name.
///
/// # Errors
/// Why it could not be done. What was found until then is written.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<Done, Failure> {
    let options = match Options::try_parse_from(arguments) {
        Ok(options) => options,
        Err(error) => {
            // There is nowhere to say that this failed.
            let _ = error.print();
            return Err(error.into());
        }
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let done = match options.command {
        Command::Inspect { json, file } => {
            let mut input = Input::open(file)?;
            inspect::inspect(&mut input, json, &mut out).map(|()| Done::Well)
        }
        Command::Diff { json, a, b } => {
            let (mut a, mut b) = (Input::open(a)?, Input::open(b)?);
            diff::diff(&mut a, &mut b, json, &mut out)
        }
    };
    out.flush()?;
    done
}

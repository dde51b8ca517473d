//! How the process ends.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::migration::stream::ReadError;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// All is well.
    Well,
    /// The streams differ.
    Differs,
    /// Some domains did not work out, or were not come to; each was reported.
    Partly,
    /// Some domains were changed since they were exported; each was reported.
    Changed,
    /// The reply to a command says that it failed.
    Refused,
}

impl Done {
    /// The exit code of the process.
    pub fn code(self) -> u8 {
        match self {
            Done::Well => 0,
            Done::Differs => 1,
            Done::Partly => 6,
            Done::Changed => 7,
            Done::Refused => 8,
        }
    }
}

/// Why it could not be done. The exit codes are documented in xsctl(8).
#[derive(Debug, Error)]
pub enum Failure {
    /// Wrong usage; or help was asked for, which ends it in the same way.
    #[error("{0}")]
    Usage(#[from] clap::Error),
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
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
    /// A file is not what it should be.
    #[error("{}: {why}", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing can be asked of the daemon.
    #[error("the daemon at {}: {why}", socket.display())]
    Daemon {
        /// Where it was looked for.
        socket: PathBuf,
        /// Why not.
        why: String,
    },
    /// The daemon refuses a command.
    #[error("the daemon at {} refuses {command}: {why}", socket.display())]
    Refused {
        /// The daemon's socket.
        socket: PathBuf,
        /// The command's name.
        command: String,
        /// The error, and what it means.
        why: String,
    },
    /// There is nothing to do.
    #[error("the daemon at {}: none of these domains is introduced", .0.display())]
    NoDomain(PathBuf),
    /// There is nothing to move.
    #[error(
        "the daemons at {} and {}: none of these domains is at the first, or came to the second",
        .0.display(), .1.display()
    )]
    NothingToMove(PathBuf, PathBuf),
    /// There is nothing to introduce.
    #[error(
        "the daemon at {}: each of these domains is introduced, or has no store/port below its home",
        .0.display()
    )]
    NothingLeft(PathBuf),
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
            Failure::File { .. } | Failure::Output(_) => 3,
            Failure::Stream { .. } | Failure::Contents { .. } => 4,
            Failure::Daemon { .. } => 5,
            Failure::NoDomain(_) | Failure::NothingLeft(_) | Failure::NothingToMove(..) => 6,
            Failure::Refused { .. } => 8,
        }
    }

    /// What is to be said of it, if anything.
    pub fn message(&self) -> Option<String> {
        (self.code() > 2).then(|| self.to_string())
    }

    /// What is wrong with a file.
    pub fn file(path: &Path) -> impl FnOnce(io::Error) -> Failure {
        move |error| Failure::File { path: path.to_path_buf(), error }
    }

    /// What is wrong with a stream.
    pub fn of(path: &Path, error: ReadError) -> Failure {
        let path = path.to_path_buf();
        match error {
            ReadError::Io(error) => Failure::File { path, error },
            error @ ReadError::Stream { .. } => Failure::Stream { path, error },
        }
    }
}

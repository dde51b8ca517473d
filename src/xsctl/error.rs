//! Outcomes and errors of the process.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::migration::stream::ReadError;

/// The outcome of a command that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Success.
    Well,
    /// The streams differ.
    Differs,
    /// Some domains failed or were not started; each is reported.
    Partly,
    /// Some domains changed since their export; each is reported.
    Changed,
    /// The reply to a CONTROL command reports a failure.
    Refused,
    /// Some domains are not simply running; each is shown.
    Unsettled,
}

impl Done {
    /// Returns the process exit code.
    pub fn code(self) -> u8 {
        match self {
            Done::Well => 0,
            Done::Differs => 1,
            Done::Partly => 6,
            Done::Changed => 7,
            Done::Refused => 8,
            Done::Unsettled => 9,
        }
    }
}

/// An error that ends a command. xsctl(8) documents the exit codes.
#[derive(Debug, Error)]
pub enum ToolError {
    /// Wrong usage, or a request for help, which clap also returns as an error.
    #[error("{0}")]
    Usage(#[from] clap::Error),
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// A stream is malformed.
    #[error("{}: {error}", path.display())]
    Stream {
        /// The file.
        path: PathBuf,
        /// The record and the reason.
        error: ReadError,
    },
    /// A file has unexpected contents.
    #[error("{}: {why}", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// The defect found.
        why: String,
    },
    /// The daemon cannot be reached or does not reply.
    #[error("the daemon at {}: {why}", socket.display())]
    Daemon {
        /// The client socket that was tried.
        socket: PathBuf,
        /// The reason.
        why: String,
    },
    /// The daemon refuses a command.
    #[error("the daemon at {} refuses {command}: {why}", socket.display())]
    Refused {
        /// The daemon's socket.
        socket: PathBuf,
        /// The command's name.
        command: String,
        /// The errno name and its meaning.
        why: String,
    },
    /// None of the domains is introduced.
    #[error("the daemon at {}: none of these domains is introduced", .0.display())]
    NoDomain(PathBuf),
    /// None of the domains can be moved.
    #[error(
        "the daemons at {} and {}: none of these domains is at the source or was imported at the \
         destination",
        .0.display(), .1.display()
    )]
    NothingToMove(PathBuf, PathBuf),
    /// None of the domains can be introduced.
    #[error(
        "the daemon at {}: each of these domains is already introduced, or has no node store/port",
        .0.display()
    )]
    NothingLeft(PathBuf),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl ToolError {
    /// Returns the process exit code.
    pub fn code(&self) -> u8 {
        match self {
            ToolError::Usage(error) => u8::try_from(error.exit_code()).unwrap_or(2),
            // The reader closes the pipe once it has read enough, as `head` does.
            ToolError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            ToolError::File { .. } | ToolError::Output(_) => 3,
            ToolError::Stream { .. } | ToolError::Contents { .. } => 4,
            ToolError::Daemon { .. } => 5,
            ToolError::NoDomain(_) | ToolError::NothingLeft(_) | ToolError::NothingToMove(..) => 6,
            ToolError::Refused { .. } => 8,
        }
    }

    /// Returns the message for the user; `None` for usage errors, which clap prints, and for a closed pipe.
    pub fn message(&self) -> Option<String> {
        (self.code() > 2).then(|| self.to_string())
    }

    /// Returns a conversion of I/O errors on `path`.
    pub fn file(path: &Path) -> impl FnOnce(io::Error) -> ToolError {
        move |error| ToolError::File { path: path.to_path_buf(), error }
    }

    /// Converts the error of reading a stream from `path`.
    pub fn of(path: &Path, error: ReadError) -> ToolError {
        let path = path.to_path_buf();
        match error {
            ReadError::Io(error) => ToolError::File { path, error },
            error @ ReadError::Stream { .. } => ToolError::Stream { path, error },
        }
    }
}

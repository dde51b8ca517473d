//! Errors that end a run.

use std::io;

/// An error of the daemon under test, or of the run itself.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A reply or an event that no correct daemon sends, or a missing one. Exit code 1.
    #[error("wrong: {0}")]
    Wrong(String),
    /// The run is impossible, for example because a binary is missing or descriptors are exhausted. Exit code 3.
    #[error("{what}: {error}")]
    Io {
        /// The attempted operation.
        what: String,
        /// The system's error.
        error: io::Error,
    },
}

/// The result type of most functions of this crate.
pub type Result<T> = std::result::Result<T, ClientError>;

impl ClientError {
    /// Wraps a system error with the attempted operation.
    pub fn io(what: impl Into<String>, error: io::Error) -> ClientError {
        ClientError::Io { what: what.into(), error }
    }

    /// Returns the program's exit code.
    pub fn code(&self) -> u8 {
        match self {
            ClientError::Wrong(_) => 1,
            ClientError::Io { .. } => 3,
        }
    }
}

/// Errors of a connection: a daemon that closes or breaks it is wrong.
impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> ClientError {
        ClientError::Wrong(format!("a connection failed: {error}"))
    }
}

/// Returns early with [`ClientError::Wrong`].
#[macro_export]
macro_rules! wrong {
    ($($text:tt)*) => {
        return Err($crate::trouble::ClientError::Wrong(format!($($text)*)))
    };
}

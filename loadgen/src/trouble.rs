//! Why a run ends early.

use std::io;

/// What went wrong: with the daemon under test, or with the run itself.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A reply or an event that no correct daemon sends, or one that is missing. Exit code 1.
    #[error("wrong: {0}")]
    Wrong(String),
    /// The run cannot be done: no such binary, no more descriptors. Exit code 3.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        error: io::Error,
    },
}

/// What most functions here answer.
pub type Result<T> = std::result::Result<T, Trouble>;

impl Trouble {
    /// An error of the system, with what was tried.
    pub fn io(what: impl Into<String>, error: io::Error) -> Trouble {
        Trouble::Io { what: what.into(), error }
    }

    /// The exit code of the program.
    pub fn code(&self) -> u8 {
        match self {
            Trouble::Wrong(_) => 1,
            Trouble::Io { .. } => 3,
        }
    }
}

/// Errors of a connection: a daemon that closes it, or breaks it, is wrong.
impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Wrong(format!("a connection failed: {error}"))
    }
}

/// Fails the run with [`Trouble::Wrong`].
#[macro_export]
macro_rules! wrong {
    ($($text:tt)*) => {
        return Err($crate::trouble::Trouble::Wrong(format!($($text)*)))
    };
}

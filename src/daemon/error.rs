//! Errors of the daemon's start and run: a message that says what to do, and an exit code.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::host::xen::StartError;

/// Maximum length of a Unix socket's path in bytes (unix(7): `sun_path` without its NUL).
pub const SOCKET_PATH_MAX: usize = 107;

/// An error that keeps the daemon from starting or running. xenstored(8) documents the exit codes.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// An option or configuration file is invalid.
    #[error("{0}")]
    Usage(String),
    /// Another instance holds the lock.
    #[error("another xenstored{} holds {}; stop it first, or choose another --socket and --pid-file",
            pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(), lock.display())]
    Running {
        /// The other instance's process id, if it could be read.
        pid: Option<u32>,
        /// The file that the other instance holds locked.
        lock: PathBuf,
    },
    /// Permission denied by the system.
    #[error("permission denied: {}; run as root, or choose another path with --socket, --pid-file \
             or --trace-file", path.display())]
    Permission {
        /// The file or directory concerned.
        path: PathBuf,
    },
    /// A directory does not exist.
    #[error("{} does not exist; create it with: mkdir -p {}", path.display(), path.display())]
    NoDirectory {
        /// The missing directory.
        path: PathBuf,
    },
    /// A socket's path does not fit into a socket address.
    #[error("the socket path {} has {} bytes, and the system allows {SOCKET_PATH_MAX}; choose a \
             shorter one with --socket or XENSTORED_PATH", path.display(), path.as_os_str().len())]
    PathTooLong {
        /// The path that is too long.
        path: PathBuf,
    },
    /// The socket's path is occupied: by a socket that another daemon serves, or by another kind of file.
    #[error("{} {what}", path.display())]
    AddressInUse {
        /// The socket's path.
        path: PathBuf,
        /// The obstacle and its remedy; the text ends the sentence.
        what: &'static str,
    },
    /// There is a simulated host already, which the text describes.
    #[error("{0}")]
    HostExists(String),
    /// The hypervisor's interface is unusable.
    #[error("{0}")]
    Host(String),
    /// This machine is not a host that the daemon can serve.
    #[error(transparent)]
    Xen(#[from] StartError),
    /// A signal ended the serving process, which its keeper reports.
    #[error("the serving process was ended by signal {signal}")]
    Killed {
        /// The signal.
        signal: i32,
    },
    /// Any other error.
    #[error("{what}: {error}")]
    Other {
        /// The operation that failed.
        what: String,
        /// The system's error.
        error: io::Error,
    },
}

impl DaemonError {
    /// Returns the process exit code.
    pub fn code(&self) -> u8 {
        match self {
            DaemonError::Other { .. } => 1,
            DaemonError::Usage(_) => 2,
            DaemonError::Running { .. } => 3,
            DaemonError::Permission { .. } => 4,
            DaemonError::NoDirectory { .. } => 5,
            DaemonError::PathTooLong { .. } => 6,
            DaemonError::AddressInUse { .. } | DaemonError::HostExists(_) => 7,
            // Found by the VIRQ instead of the lock, but the same mistake, and the same code.
            DaemonError::Xen(StartError::Taken) => 3,
            DaemonError::Xen(StartError::Permission { .. }) => 4,
            DaemonError::Host(_) | DaemonError::Xen(_) => 8,
            // As in a shell.
            DaemonError::Killed { signal } => 128 | u8::try_from(*signal).unwrap_or(0),
        }
    }

    /// Converts the error of making `path` or opening it for writing.
    pub(super) fn of_path(path: &Path, error: io::Error) -> DaemonError {
        let directory = path.parent().unwrap_or(path);
        match error.kind() {
            // In both cases another path is the remedy.
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                DaemonError::Permission { path: path.to_path_buf() }
            }
            io::ErrorKind::NotFound => DaemonError::NoDirectory { path: directory.to_path_buf() },
            _ => DaemonError::Other { what: path.display().to_string(), error },
        }
    }
}

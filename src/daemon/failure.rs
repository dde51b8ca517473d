//! Why the daemon could not start or go on: a sentence that tells what to do, and an exit code.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::host::xen::StartError;

/// The longest path of a Unix socket in bytes (unix(7): `sun_path` without its NUL).
pub const SOCKET_PATH_MAX: usize = 107;

/// Why the daemon could not start or go on. The exit codes are documented in xenstored(8).
#[derive(Debug, Error)]
pub enum Failure {
    /// An option or a configuration file is wrong.
    #[error("{0}")]
    Usage(String),
    /// Another instance holds the lock.
    #[error("another xenstored{} holds {}; stop it first, or choose another --socket and --pid-file",
            pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(), lock.display())]
    Running {
        /// Its process id, if it could be read.
        pid: Option<u32>,
        /// The file that it holds locked.
        lock: PathBuf,
    },
    /// The system does not allow it.
    #[error("no permission for {}; run as root, or choose another place with --socket, \
             --pid-file or --trace-file", path.display())]
    Permission {
        /// The file or directory concerned.
        path: PathBuf,
    },
    /// A directory does not exist.
    #[error("{} does not exist; make it with: mkdir -p {}", path.display(), path.display())]
    NoDirectory {
        /// The missing directory.
        path: PathBuf,
    },
    /// The path of a socket does not fit into an address.
    #[error("the socket path {} has {} bytes, and the system allows {SOCKET_PATH_MAX}; choose a \
             shorter one with --socket or XENSTORED_PATH", path.display(), path.as_os_str().len())]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// Something that is no xenstored of this kind has the socket's place.
    #[error("{} {what}", path.display())]
    AddressInUse {
        /// The socket's path.
        path: PathBuf,
        /// What is there and what to do about it.
        what: &'static str,
    },
    /// The hypervisor's interface cannot be used.
    #[error("{0}")]
    Host(String),
    /// This machine is no host that can be served.
    #[error(transparent)]
    Xen(#[from] StartError),
    /// Anything else.
    #[error("{what}: {error}")]
    Other {
        /// What was tried.
        what: String,
        /// What the system said.
        error: io::Error,
    },
}

impl Failure {
    /// The exit code of the process.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Other { .. } => 1,
            Failure::Usage(_) => 2,
            Failure::Running { .. } => 3,
            Failure::Permission { .. } => 4,
            Failure::NoDirectory { .. } => 5,
            Failure::PathTooLong { .. } => 6,
            Failure::AddressInUse { .. } => 7,
            Failure::Xen(StartError::Taken) => 3,
            Failure::Xen(StartError::Permission { .. }) => 4,
            Failure::Host(_) | Failure::Xen(_) => 8,
        }
    }

    /// What it means that `path` could not be made or opened for writing.
    pub(super) fn of_path(path: &Path, error: io::Error) -> Failure {
        let directory = path.parent().unwrap_or(path);
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Failure::Permission { path: path.to_path_buf() }
            }
            io::ErrorKind::NotFound => Failure::NoDirectory { path: directory.to_path_buf() },
            _ => Failure::Other { what: path.display().to_string(), error },
        }
    }
}

//! The resources that only one daemon can hold: lock, sockets, pid file.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::error::{DaemonError, SOCKET_PATH_MAX};
use super::running;
use super::settings::{HostKind, Settings};

/// A claim to be the only daemon of a socket. Dropping the claim removes sockets and pid file. The lock file stays: if
/// it were removed, two other processes could lock two files of the same name.
pub(super) struct Instance {
    sockets: Vec<PathBuf>,
    pid_file: Option<(PathBuf, File)>,
    /// The socket passed by the service manager, until it is served.
    handed_over: Option<(PathBuf, UnixListener)>,
    _lock: File,
}

impl Instance {
    /// Claims the resources that the settings name. Only removes stale sockets; that of the simulated host belongs to
    /// the host, which may be another daemon's.
    /// A client socket that was passed by the service manager belongs to it and is left alone.
    /// `pid` is the process that others know as the daemon.
    pub(super) fn claim(
        settings: &Settings,
        handed_over: Option<&UnixListener>,
        pid: u32,
    ) -> Result<Instance, DaemonError> {
        let migration = migration_path(&settings.socket);
        let sockets: Vec<&PathBuf> = [&settings.socket].into_iter().chain(&migration).collect();
        let of_host = (settings.host == HostKind::Sim).then_some(&settings.sim_socket);
        // All paths are checked before anything is created, so that a refused start leaves nothing behind.
        for &socket in sockets.iter().chain(&of_host) {
            if socket.as_os_str().len() > SOCKET_PATH_MAX {
                return Err(DaemonError::PathTooLong { path: socket.to_path_buf() });
            }
        }
        if settings.make_directory {
            make_directory(&settings.socket)?;
        }
        // Named after the socket, so that daemons with different sockets run at the same time.
        let lock = lock(&lock_path(&settings.socket), &running::lock_text(settings, pid))?;
        // The lock is taken before the pid file is touched: that file may belong to a daemon of another socket, which
        // has another lock.
        let is_made = |socket: &&PathBuf| handed_over.is_none() || **socket != settings.socket;
        for socket in sockets.into_iter().filter(is_made) {
            make_free(socket)?;
        }
        of_host.map_or(Ok(false), |socket| is_socket(socket))?;
        let (sockets, handed_over) = (Vec::new(), None);
        let mut instance = Instance { sockets, pid_file: None, handed_over, _lock: lock };
        if let Some(path) = &settings.pid_file {
            instance.pid_file = Some((path.clone(), claim_pid_file(path, pid)?));
        }
        Ok(instance)
    }

    /// Makes [`Instance::listen`] return a socket passed by the service manager. The service manager removes such a
    /// socket.
    pub(super) fn hand_over(&mut self, path: &Path, listener: UnixListener) {
        self.handed_over = Some((path.to_path_buf(), listener));
    }

    /// Creates a socket with mode 0600, or returns the one that was passed. Clients can connect from now on, so the
    /// host must already be up: a client that finds this socket also finds the host's.
    pub(super) fn listen(&mut self, path: &Path) -> Result<UnixListener, DaemonError> {
        if let Some((_, listener)) = self.handed_over.take_if(|(at, _)| at == path) {
            return Ok(listener);
        }
        let listener = UnixListener::bind(path).map_err(|e| DaemonError::of_path(path, e))?;
        self.sockets.push(path.to_path_buf()); // From here on the socket is removed when the daemon ends.
        // Until here the umask of `daemon::run` keeps other users out.
        std::fs::set_permissions(path, Permissions::from_mode(0o600))
            .map_err(|e| DaemonError::of_path(path, e))?;
        Ok(listener)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // The lock is released after this, with the fields, so no other daemon can have bound these paths yet.
        for path in self.sockets.iter().chain(self.pid_file.iter().map(|(path, _)| path)) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Returns the path of the lock file of the daemon with this client socket.
pub(super) fn lock_path(socket: &Path) -> PathBuf {
    beside(socket, ".lock")
}

/// Returns the path of the migration socket (docs/MIGRATION.md) of the daemon with this client socket; `None` if it
/// would exceed the maximum length.
pub(super) fn migration_path(socket: &Path) -> Option<PathBuf> {
    let path = beside(socket, ".migration");
    (path.as_os_str().len() <= SOCKET_PATH_MAX).then_some(path)
}

fn beside(socket: &Path, ending: &str) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Creates the directory of a default socket, with mode 0700 and without its parents.
pub(super) fn make_directory(socket: &Path) -> Result<(), DaemonError> {
    let Some(directory) = socket.parent() else { return Ok(()) };
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(DaemonError::of_path(directory, e))
        }
        _ => Ok(()),
    }
}

/// Opens and locks a file, and replaces its contents with `text`, which starts with the process id.
fn lock(path: &Path, text: &str) -> Result<File, DaemonError> {
    let failed = |e: io::Error| DaemonError::of_path(path, e);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        // Not truncated before the lock is held: the contents may be those of a running daemon.
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(DaemonError::Running { pid: running::pid_in(path), lock: path.into() });
        }
        Err(e) => return Err(failed(e.into())),
    }
    // A process that reads the file in between finds no process id, and looks again (`claim_or_find`).
    file.set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| file.write_all(text.as_bytes()))
        .map_err(failed)?;
    Ok(file)
}

/// Locks and writes the pid file, which is world-readable.
fn claim_pid_file(path: &Path, pid: u32) -> Result<File, DaemonError> {
    let file = lock(path, &format!("{pid}\n"))?;
    file.set_permissions(Permissions::from_mode(0o644))
        .map_err(|e| DaemonError::of_path(path, e))?;
    Ok(file)
}

/// Removes a stale socket. The lock only detects other instances of this daemon; C xenstored does not take it, so this
/// also tries to connect.
fn make_free(path: &Path) -> Result<(), DaemonError> {
    if !is_socket(path)? {
        return Ok(());
    }
    match try_connect(path) {
        // No process listens: the daemon that bound the socket was killed before it could remove it.
        Err(Errno::CONNREFUSED) => {
            std::fs::remove_file(path).map_err(|e| DaemonError::of_path(path, e))
        }
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::ACCESS) => Err(DaemonError::Permission { path: path.to_path_buf() }),
        // Connected, the backlog is full, or the socket type differs: a process is listening.
        _ => in_use(path, "is served by another daemon; stop it, or choose another path"),
    }
}

/// Returns whether a socket exists at `path`; fails if another file does.
fn is_socket(path: &Path) -> Result<bool, DaemonError> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(DaemonError::of_path(path, e)),
        Ok(about) if about.file_type().is_socket() => Ok(true),
        Ok(_) => in_use(path, "exists and is not a socket; remove it, or choose another path"),
    }
}

fn in_use<T>(path: &Path, what: &'static str) -> Result<T, DaemonError> {
    Err(DaemonError::AddressInUse { path: path.to_path_buf(), what })
}

/// Connects without blocking: a hung daemon does not accept.
pub(super) fn try_connect(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path.as_os_str().as_bytes())?)?;
    Ok(socket)
}

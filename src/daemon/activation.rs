//! Socket activation: the listening socket that a service manager passes (sd_listen_fds(3)).

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;
use tracing::warn;

use super::error::DaemonError;

const PID: &str = "LISTEN_PID";
const DESCRIPTORS: &str = "LISTEN_FDS";

/// Returns the socket that was passed for `socket`, if any. Closes the others with a warning. Changes the environment,
/// so no other thread may read it meanwhile: only the log's thread runs yet, which does not.
///
/// # Errors
/// [`DaemonError::Usage`]: sockets were passed, but clients of `socket` would reach none of them, or unprivileged users
/// could connect to it.
pub(super) fn take(socket: &Path) -> Result<Option<UnixListener>, DaemonError> {
    let mut descriptors = ListenFd::from_env();
    let (mut found, mut others) = (None, Vec::new());
    for index in 0..descriptors.len() {
        let taken = descriptors.take_unix_listener(index);
        let Some(listener) = taken.map_err(|error| unusable(&error.to_string()))? else { continue };
        let path = path_of(&listener)?;
        if found.is_none() && is_same(&path, socket) {
            found = Some(listener);
        } else {
            others.push(path.display().to_string());
        }
    }
    // An error, not a warning: clients that connect there would wait forever, as no process accepts them.
    if found.is_none() && !others.is_empty() {
        let (wanted, others) = (socket.display(), others.join(", "));
        return Err(unusable(&format!(
            "it listens at {others}, and clients connect to {wanted}; set ListenStream={wanted}, \
             or choose the same path with --socket"
        )));
    }
    for path in others {
        warn!("socket of the service manager ignored: {path}");
    }
    found.map(|listener| checked(listener, socket)).transpose()
}

/// Passes the inherited sockets of this process on to the process that `command` starts.
pub(super) fn pass_on(command: &mut Command) {
    // The new process has another pid, so LISTEN_PID is removed if it names this process. Without LISTEN_PID, the
    // sockets belong to any process that reads LISTEN_FDS: if they were meant for another process, LISTEN_FDS is removed
    // instead.
    match std::env::var(PID) {
        Err(_) => {}
        Ok(pid) if pid == std::process::id().to_string() => {
            command.env_remove(PID);
        }
        Ok(_) => {
            command.env_remove(DESCRIPTORS);
        }
    }
}

fn path_of(listener: &UnixListener) -> Result<PathBuf, DaemonError> {
    if !socket_acceptconn(listener).unwrap_or(false) {
        return Err(unusable("it is not listening"));
    }
    let address = listener.local_addr().map_err(|error| unusable(&error.to_string()))?;
    let path = address.as_pathname().map(Path::to_path_buf);
    path.ok_or_else(|| unusable("it has no path in the file system"))
}

/// Compares device and inode as well, because systemd writes /run for /var/run.
fn is_same(a: &Path, b: &Path) -> bool {
    let file =
        |path| std::fs::metadata(path).map(|about: Metadata| (about.dev(), about.ino())).ok();
    a == b || (file(a).is_some() && file(a) == file(b))
}

/// Rejects a socket that every local user can connect to, as systemd's default SocketMode=0666 allows: each of them
/// would be the control domain.
fn checked(listener: UnixListener, socket: &Path) -> Result<UnixListener, DaemonError> {
    let about = std::fs::metadata(socket).map_err(|error| DaemonError::of_path(socket, error))?;
    // connect(2) needs write permission on the socket's file. Whether a group has it is the administrator's decision.
    if about.permissions().mode() & 0o002 != 0 {
        return Err(unusable(
            "every local user may connect to it; set SocketMode=0600 in its unit",
        ));
    }
    Ok(listener)
}

fn unusable(why: &str) -> DaemonError {
    DaemonError::Usage(format!("the socket passed by the service manager cannot be used: {why}"))
}

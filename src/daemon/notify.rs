//! Notifications to the service manager (sd_notify(3)).
//!
//! Implemented here because the crate `sd-notify` lacks abstract socket addresses, which systemd uses in containers and
//! older releases of it use everywhere.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// A service manager that does not read must not delay the store's clients longer than this.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Sends `state` to the socket that `NOTIFY_SOCKET` names. Does nothing if it is unset or empty.
///
/// # Errors
/// The name is not an address, or the message cannot be sent.
pub(super) fn notify(state: &str) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(name) if !name.is_empty() => send(&name, state),
        _ => Ok(()),
    }
}

fn send(name: &OsStr, state: &str) -> io::Result<()> {
    let address = match name.as_bytes().split_first() {
        // sd_notify(3): `@` stands for the NUL of an abstract address.
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    socket.send_to_addr(state.as_bytes(), &address).map(|_| ())
}

//! Where the server begins.

use std::os::unix::net::UnixListener;

use super::failure::Failure;
use super::settings::Settings;
use super::stop::Stop;

/// Serves `listener` until `stop`; calls `ready` once requests are answered.
///
/// A stand-in: connections wait in the socket's queue.
pub(super) fn serve(
    _settings: &Settings,
    listener: UnixListener,
    ready: impl FnOnce(),
    stop: &Stop,
) -> Result<(), Failure> {
    ready();
    stop.wait();
    drop(listener);
    Ok(())
}

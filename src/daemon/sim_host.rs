//! `xenstored sim host`: the process of a simulated host; and the daemon's connection to it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{info, warn};

use super::background;
use super::error::{DaemonError, SOCKET_PATH_MAX};
use super::instance::make_directory;
use super::settings::{HostAction, HostSettings};
use super::stop;
use crate::host::Host;
use crate::host::sim::{Lifetime, SimClient, SimHost, SimServer, Status};
use crate::types::Domid;

/// Open files of a host: two for each domid, and room for its clients.
const FILES: u64 = 2 * Domid::FIRST_RESERVED as u64 + 8192;

/// Runs, stops or describes a simulated host. Returns the exit code.
///
/// # Errors
/// The host cannot be started, or there is none to stop or describe.
pub(super) fn run(settings: &HostSettings) -> Result<u8, DaemonError> {
    let socket = &settings.sim_socket;
    if socket.as_os_str().len() > SOCKET_PATH_MAX {
        return Err(DaemonError::PathTooLong { path: socket.clone() });
    }
    match settings.action {
        HostAction::Serve(lifetime) => serve(settings, lifetime)?,
        HostAction::Stop => with(socket, SimClient::stop)?,
        HostAction::Status => println!("{}", sentence(socket, &with(socket, SimClient::status)?)),
    }
    Ok(0)
}

fn serve(settings: &HostSettings, lifetime: Lifetime) -> Result<(), DaemonError> {
    let socket = &settings.sim_socket;
    if settings.make_directory {
        make_directory(socket)?;
    }
    // It must outlive the daemon that started it, whose terminal ends the processes of its session.
    if lifetime != Lifetime::UntilStopped {
        background::detach()?;
    }
    super::allow_many_files(FILES);
    let (server, handle) =
        SimServer::new(socket, lifetime).map_err(|error| not_served(socket, error))?;
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error| DaemonError::Other { what, error }
    };
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])
        .map_err(failed("cannot register the signal handlers"))?;
    let stop_at_signal = move || {
        if signals.forever().next().is_some() {
            handle.stop();
        }
    };
    thread::Builder::new()
        .name("signals".into())
        .spawn(stop_at_signal)
        .map_err(failed("cannot start a thread"))?;
    if lifetime == Lifetime::UntilStopped {
        println!("{}", sentence(socket, &server.status()));
    } else {
        background::report_ready(std::process::id())
            .map_err(failed("cannot notify the daemon that its host is ready"))?;
    }
    server.run();
    Ok(())
}

/// Converts an error of starting a host; if one serves the socket already, says which.
fn not_served(socket: &Path, error: io::Error) -> DaemonError {
    match error.kind() {
        io::ErrorKind::AddrInUse => match with(socket, SimClient::status) {
            Ok(status) => {
                let there = sentence(socket, &status);
                DaemonError::HostExists(format!("a simulated host is there already: {there}"))
            }
            Err(failure) => failure,
        },
        io::ErrorKind::AlreadyExists => {
            let what = "exists and is not a socket; remove it, or choose another path";
            DaemonError::AddressInUse { path: socket.to_path_buf(), what }
        }
        _ => DaemonError::of_path(socket, error),
    }
}

/// Sends a request to the host at `socket`.
fn with<T>(
    socket: &Path,
    request: impl FnOnce(&mut SimClient) -> io::Result<T>,
) -> Result<T, DaemonError> {
    SimClient::connect(socket).and_then(|mut host| request(&mut host)).map_err(|error| {
        let socket = socket.display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                DaemonError::Host(format!("there is no simulated host at {socket}"))
            }
            _ => DaemonError::Host(format!("{socket}: {error}")),
        }
    })
}

/// Describes a host.
fn sentence(socket: &Path, status: &Status) -> String {
    let Status { pid, guests, is_served, until_unused } = *status;
    let socket = socket.display();
    let served = if is_served { "a daemon" } else { "no daemon" };
    let ends =
        if until_unused { "it ends with its daemon" } else { "it stays until it is stopped" };
    format!("process {pid} is the simulated host at {socket}: guests {guests}, {served}; {ends}")
}

/// The daemon's connection to its host, which ends a host that a daemon started when the daemon stops.
pub(super) struct Connection {
    host: Arc<SimHost>,
    socket: PathBuf,
    stop: stop::Stop,
}

impl Connection {
    /// Finds or starts the host at `socket`. If the host ends before the daemon, requests the daemon's stop.
    ///
    /// # Errors
    /// Another daemon serves the host, or none can be started.
    pub(super) fn open(socket: &Path, stop: &stop::Stop) -> Result<Connection, DaemonError> {
        let program = std::env::current_exe().map_err(|error| DaemonError::Other {
            what: "cannot find this program".into(),
            error,
        })?;
        let host = SimHost::find_or_start(socket, &program).map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => DaemonError::AddressInUse {
                path: socket.to_path_buf(),
                what: "is a simulated host that another daemon serves; stop that daemon, or choose \
                       another --sim-socket",
            },
            io::ErrorKind::PermissionDenied => DaemonError::of_path(socket, error),
            _ => DaemonError::Host(format!("{}: {error}", socket.display())),
        })?;
        let guests = host.guests();
        match host.is_new() {
            true => info!(socket = %socket.display(), "simulated host started"),
            false => info!(
                guests,
                socket = %socket.display(),
                "simulated host found; the store is empty, and a guest is served again once it is introduced"
            ),
        }
        Connection::of(Arc::new(host), socket, stop)
    }

    /// Watches a host to which this process is connected. If the host ends before the daemon, requests the daemon's stop.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn of(
        host: Arc<SimHost>,
        socket: &Path,
        stop: &stop::Stop,
    ) -> Result<Connection, DaemonError> {
        let (end, ended) = (host.end(), stop.clone());
        let watch = move || {
            end();
            ended.request();
        };
        thread::Builder::new()
            .name("sim-host".into())
            .spawn(watch)
            .map_err(|error| DaemonError::Other { what: "cannot start a thread".into(), error })?;
        Ok(Connection { host, socket: socket.to_path_buf(), stop: stop.clone() })
    }

    /// Returns the host.
    pub(super) fn host(&self) -> Arc<SimHost> {
        self.host.clone()
    }

    /// Fails if the host has ended, which ends all its domains.
    pub(super) fn check(&self) -> Result<(), DaemonError> {
        if self.host.has_ended() {
            let socket = self.socket.display();
            return Err(DaemonError::Host(format!("the simulated host at {socket} has ended")));
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.host.has_ended() {
            return;
        }
        if self.stop.is_abandoned() {
            self.host.let_go();
        }
        if let Err(error) = self.host.leave() {
            warn!(%error, socket = %self.socket.display(), "cannot take leave of the simulated host");
        }
    }
}

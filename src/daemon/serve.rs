//! The server's life cycle: from host and sockets to the stop.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Waker;
use tracing::{info, warn};

use super::error::DaemonError;
use super::instance::{Instance, migration_path};
use super::keeper::Link;
use super::settings::{HostKind, Settings};
use super::sim_host::Connection;
use super::stop::Stop;
use super::update::{HandedOver, Orders, Process, Resumed};
use crate::control::Served;
use crate::domain::{Limits, Registry};
use crate::host::Host;
use crate::host::xen::{StartError, XenHost};
use crate::listener::Listener;
use crate::live_update::SavedFiles;
use crate::migration::server;
use crate::server::{Server, Times};

/// Starts the host and the threads, creates the sockets through `instance`, and serves them until `stop`. Calls `ready`
/// once requests are served.
pub(super) fn serve(
    settings: &Settings,
    instance: &mut Instance,
    link: Option<&Link>,
    ready: impl FnOnce(Arc<dyn Served>),
    stop: &Stop,
) -> Result<(), DaemonError> {
    // Dropped last, when nothing uses the host any more.
    let (host, sim) = host(settings, stop)?;
    let limits = Limits::defaults();
    for &(quota, value) in &settings.limits {
        limits.set(quota, value);
    }
    limits.set_soft_memory(settings.soft_memory);
    let registry = Registry::new(limits, settings.priv_domid);
    let registry = if settings.keep_orphans { registry.keeping_orphans() } else { registry };
    let server = Server::start(settings.shards, registry, Arc::clone(&host), times(settings))
        .map_err(|error| unserved(settings.host, error))?;
    // Before the client socket, so that a client that can connect finds the announcement of this one.
    let migration = match migration_path(&settings.socket) {
        Some(path) => Some(instance.listen(&path)?),
        None => {
            warn!(
                "no migration socket: its path would be too long; choose a shorter one with --socket"
            );
            None
        }
    };
    let migration = serve_migration(settings, migration, &server)?;
    let listener = instance.listen(&settings.socket)?;
    serve_clients(Serving { server, host, listener, migration }, instance, link, ready, stop)?;
    sim.map_or(Ok(()), |sim| sim.check())
}

/// Goes on with the state of another process until `stop`. Calls `ready` once requests are served.
pub(super) fn resume(
    settings: &Settings,
    handed_over: HandedOver,
    link: Option<&Link>,
    ready: impl FnOnce(Arc<dyn Served>),
    stop: &Stop,
) -> Result<(), DaemonError> {
    let resumed = handed_over.resume(settings, times(settings));
    let Resumed { server, host, sim, listener, migration, locks, sockets } =
        resumed.map_err(DaemonError::Update)?;
    let sim = sim.map(|host| Connection::of(host, &settings.sim_socket, stop)).transpose()?;
    let instance = Instance::adopt(settings, sockets, locks);
    let migration = serve_migration(settings, migration, &server)?;
    serve_clients(Serving { server, host, listener, migration }, &instance, link, ready, stop)?;
    // Before the last line: from that on another daemon can start.
    drop(instance);
    sim.map_or(Ok(()), |sim| sim.check())
}

/// Returns the clock and the timeouts.
pub(super) fn times(settings: &Settings) -> Times {
    Times {
        clock: Instant::now,
        watch_event_timeout: settings.watch_event_timeout.unwrap_or(Duration::ZERO),
        ring_scan_interval: settings.ring_scan_interval.unwrap_or(Duration::ZERO),
    }
}

/// The parts of a daemon that serves.
struct Serving {
    server: Server,
    host: Arc<dyn Host>,
    listener: UnixListener,
    /// A descriptor of the listening migration socket.
    migration: Option<UnixListener>,
}

/// Serves clients that connect until `stop`. The parts of updates that pause the server are performed here: the thread
/// that accepts clients accepts none meanwhile.
fn serve_clients(
    serving: Serving,
    instance: &Instance,
    link: Option<&Link>,
    ready: impl FnOnce(Arc<dyn Served>),
    stop: &Stop,
) -> Result<(), DaemonError> {
    let Serving { mut server, host, listener, migration } = serving;
    let descriptor = listener.as_raw_fd();
    let mut listener = Listener::new(listener).map_err(other("cannot poll the socket"))?;
    let waker = listener.stopper();
    stop_listener(stop, Arc::clone(&waker)).map_err(other("cannot start a thread"))?;
    let (updates, performer) = Orders::new(waker, link.is_some());
    server.served().state().live_update.perform_with(performer);
    let files = || {
        let (locks, sockets) = instance.save();
        let migration = migration.as_ref().map(AsRawFd::as_raw_fd);
        SavedFiles { listener: descriptor, migration, locks, sockets }
    };
    let process = Process { host, stop, link, files: &files };
    ready(server.served());
    let served = loop {
        let served = listener.run(|client| {
            if let Err(error) = server.serve(client) {
                warn!("cannot serve a client: {error}");
            }
        });
        if served.is_err() {
            break served;
        }
        let performed = updates.perform(server, &process);
        match performed.map_err(other("cannot go on after an update that failed"))? {
            Ok(resumed) => server = resumed,
            // Nothing else wakes the listener but the stop.
            Err(unchanged) => {
                server = unchanged;
                break served;
            }
        }
    };
    let lost = server.census();
    server.stop();
    info!(
        domains = lost.domains,
        nodes = lost.nodes,
        clients = lost.clients,
        "store discarded, it is kept in memory only"
    );
    served.map_err(other("polling the socket failed"))
}

/// Wakes the listener at the stop: the main thread blocks in its poll, so another one waits.
fn stop_listener(stop: &Stop, waker: Arc<Waker>) -> io::Result<()> {
    let stop = stop.clone();
    let wait = move || {
        stop.wait();
        // If this fails, the process can only be killed, and there is no way to report it.
        let _ = waker.wake();
    };
    std::thread::Builder::new().name("stop".into()).spawn(wait).map(drop)
}

fn other(what: &str) -> impl FnOnce(io::Error) -> DaemonError + use<> {
    let what = what.to_owned();
    move |error| DaemonError::Other { what, error }
}

/// Serves the migration socket. Returns a descriptor of it, for another process that goes on with it.
fn serve_migration(
    settings: &Settings,
    listener: Option<UnixListener>,
    server: &Server,
) -> Result<Option<UnixListener>, DaemonError> {
    let (Some(listener), Some(path)) = (listener, migration_path(&settings.socket)) else {
        return Ok(None);
    };
    let owners = server.owner_threads();
    owners.announce_migration_socket(&path.to_string_lossy());
    let served = listener.try_clone().and_then(|kept| {
        server::serve(listener, owners)?;
        Ok(kept)
    });
    served.map(Some).map_err(other("cannot serve the migration socket"))
}

/// Opens the host, and the connection to its process if it is simulated.
fn host(
    settings: &Settings,
    stop: &Stop,
) -> Result<(Arc<dyn Host>, Option<Connection>), DaemonError> {
    match settings.host {
        HostKind::Sim => {
            let connection = Connection::open(&settings.sim_socket, stop)?;
            Ok((connection.host(), Some(connection)))
        }
        HostKind::Xen => Ok((Arc::new(XenHost::open()?), None)),
    }
}

/// Converts an error that occurred when the threads were started.
fn unserved(host: HostKind, error: io::Error) -> DaemonError {
    match (host, error.kind()) {
        (HostKind::Xen, io::ErrorKind::AlreadyExists) => DaemonError::Xen(StartError::Taken),
        _ => DaemonError::Host(format!("cannot serve the host: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_daemon_on_a_xen_host_fails_with_exit_code_3() {
        let exists = || io::ErrorKind::AlreadyExists.into();
        let failure = unserved(HostKind::Xen, exists());
        assert_eq!(failure.code(), 3);
        let text = failure.to_string();
        assert!(text.contains("VIRQ_DOM_EXC; stop it first"), "{text}");
        assert_eq!(unserved(HostKind::Xen, io::ErrorKind::NotFound.into()).code(), 8);
        assert_eq!(unserved(HostKind::Sim, exists()).code(), 8);
    }
}

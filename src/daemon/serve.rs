//! The server's life cycle: from host and sockets to the stop.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::error::DaemonError;
use super::instance::{Instance, migration_path};
use super::settings::{HostKind, Settings};
use super::sim_host::Connection;
use super::stop::Stop;
use crate::control::Served;
use crate::domain::{Limits, Registry};
use crate::host::Host;
use crate::host::xen::{StartError, XenHost};
use crate::listener::Listener;
use crate::migration::server;
use crate::server::{OwnerThreads, Server, Times};

/// Starts the host and the threads, creates the sockets through `instance`, and serves them until `stop`. Calls `ready`
/// once requests are served.
pub(super) fn serve(
    settings: &Settings,
    instance: &mut Instance,
    ready: impl FnOnce(Arc<dyn Served>),
    stop: &Stop,
) -> Result<(), DaemonError> {
    let other = |what: &str| {
        let what = what.to_owned();
        move |error| DaemonError::Other { what, error }
    };
    // Dropped last, when nothing uses the host any more.
    let (host, sim) = host(settings, stop)?;
    let limits = Limits::defaults();
    for &(quota, value) in &settings.limits {
        limits.set(quota, value);
    }
    limits.set_soft_memory(settings.soft_memory);
    let registry = Registry::new(limits, settings.priv_domid);
    let registry = if settings.keep_orphans { registry.keeping_orphans() } else { registry };
    let times = Times {
        clock: Instant::now,
        watch_event_timeout: settings.watch_event_timeout.unwrap_or(Duration::ZERO),
        ring_scan_interval: settings.ring_scan_interval.unwrap_or(Duration::ZERO),
    };
    let mut server = Server::start(settings.shards, registry, host, times)
        .map_err(|error| unserved(settings.host, error))?;
    // Before the client socket, so that a client that can connect finds the announcement of this one.
    match migration_path(&settings.socket) {
        Some(path) => {
            let served = serve_migration(&path, instance.listen(&path)?, server.owner_threads());
            served.map_err(other("cannot serve the migration socket"))?;
        }
        None => warn!(
            "no migration socket: its path would be too long; choose a shorter one with --socket"
        ),
    }
    let listener = Listener::new(instance.listen(&settings.socket)?)
        .map_err(other("cannot poll the socket"))?;
    let waker = listener.stopper();
    let stop = stop.clone();
    // The main thread blocks in the listener's poll, so another one waits for the stop.
    std::thread::Builder::new()
        .name("stop".into())
        .spawn(move || {
            stop.wait();
            // If this fails, the process can only be killed, and there is no way to report it.
            let _ = waker.wake();
        })
        .map_err(other("cannot start a thread"))?;
    ready(server.served());
    let served = listener.run(|client| {
        if let Err(error) = server.serve(client) {
            warn!("cannot serve a client: {error}");
        }
    });
    let lost = server.census();
    server.stop();
    info!(
        domains = lost.domains,
        nodes = lost.nodes,
        clients = lost.clients,
        "store discarded, it is kept in memory only"
    );
    served.map_err(other("polling the socket failed"))?;
    sim.map_or(Ok(()), |sim| sim.check())
}

fn serve_migration(path: &Path, listener: UnixListener, owners: OwnerThreads) -> io::Result<()> {
    owners.announce_migration_socket(&path.to_string_lossy());
    server::serve(listener, owners)
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

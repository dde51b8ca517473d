//! The new program: it checks a state and ends, or goes on with it.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::thread::set_name;

use super::performer::now_ns;
use super::{CHECKED, FAILED, MARK, RESTORED, UNDERSTANDS, numbers};
use crate::daemon::settings::{HostKind, Settings};
use crate::domain::{Limits, Registry};
use crate::host::inherited::{Kind, take};
use crate::host::sim::SimHost;
use crate::host::xen::XenHost;
use crate::host::{Channels, Host, NoHost, SavedHost};
use crate::live_update::{LiveState, SavedFiles, SavedProcess, Written, read};
use crate::server::{Server, Setup, Times};
use crate::types::Domid;

/// The pipes and the state that this program was started with.
pub struct HandedOver {
    state: File,
    report: File,
    go: Option<File>,
}

/// What goes on.
pub struct Resumed {
    /// The server, which serves.
    pub server: Server,
    /// Its host.
    pub host: Arc<dyn Host>,
    /// The simulated host, if it is one.
    pub sim: Option<Arc<SimHost>>,
    /// The listening socket of clients.
    pub listener: UnixListener,
    /// The listening migration socket.
    pub migration: Option<UnixListener>,
    /// The lock file and the pid file.
    pub locks: (File, Option<File>),
    /// The sockets' files.
    pub sockets: Vec<PathBuf>,
}

impl HandedOver {
    /// Returns what this program was started with; `None` if it was started to serve an empty store.
    ///
    /// # Errors
    /// The environment names descriptors that were not inherited.
    pub fn detect() -> io::Result<Option<HandedOver>> {
        let Some(mark) = std::env::var_os(MARK) else { return Ok(None) };
        let wrong = || io::Error::other(format!("{MARK} is set, but names no descriptors"));
        let numbers = mark.to_str().ok_or_else(wrong)?.split(' ').map(str::parse);
        let numbers: Vec<RawFd> = numbers.collect::<Result<_, _>>().map_err(|_| wrong())?;
        let [state, report, ref go @ ..] = numbers[..] else { return Err(wrong()) };
        let go = go.first().map(|&go| take(go, Kind::Pipe)).transpose()?;
        Ok(Some(HandedOver {
            state: take(state, Kind::File)?.into(),
            report: take(report, Kind::Pipe)?.into(),
            go: go.map(File::from),
        }))
    }

    /// Returns whether the state is only to be checked.
    pub fn is_check(&self) -> bool {
        self.go.is_none()
    }

    /// Reads the state, restores its domains and nodes, and reports their numbers. Returns the exit code.
    pub fn check(&self, times: Times) -> u8 {
        let setup = Setup { registry: registry(None), host: Arc::new(NoHost), times };
        let checked = read(BufReader::new(&self.state)).and_then(|state| state.check(setup));
        let (line, code) = match checked {
            Ok(written) => (format!("{CHECKED}{}\n", numbers(&written)), 0),
            Err(error) => (format!("{FAILED}{error}\n"), 1),
        };
        // Nothing reads it if the other program has ended meanwhile.
        let _ = (&self.report).write_all(line.as_bytes());
        code
    }

    /// Goes on with the state, once the other program lets this one.
    ///
    /// # Errors
    /// A sentence, which the other program has, too: it goes on.
    pub fn resume(mut self, settings: &Settings, times: Times) -> Result<Resumed, String> {
        // It was started by descriptor, whose number would be the process's name.
        let _ = set_name(c"xenstored");
        let prepared = self.prepare(settings, times);
        let line = match &prepared {
            Ok(_) => format!("{RESTORED}\n"),
            Err(error) => format!("{FAILED}{}\n", error.replace('\n', " ")),
        };
        let reported = self.report.write_all(line.as_bytes());
        let resumed = prepared?;
        let gone = |error: io::Error| format!("the other program has ended: {error}");
        reported.map_err(gone)?;
        let mut word = [0; 2];
        let mut go = self.go.take().ok_or("no pipe")?;
        go.read_exact(&mut word).map_err(gone)?;
        resumed()
    }

    /// Restores everything, and returns the function that starts the server.
    fn prepare(
        &mut self,
        settings: &Settings,
        times: Times,
    ) -> Result<impl FnOnce() -> Result<Resumed, String> + use<>, String> {
        let text = |error: io::Error| error.to_string();
        let state: LiveState =
            read(BufReader::new(&self.state)).map_err(|error| error.to_string())?;
        let process = state.live.process.clone().ok_or("the state is one to be checked only")?;
        let SavedProcess { host, channels, files, paused_at } = process;
        let SavedFiles { listener, migration, locks, sockets } = files;
        let AdoptedHost { host, sim } = adopt_host(settings, host)?;
        let handles = channels.into_iter().map(|saved| host.adopt_channels(saved));
        let handles: Vec<Box<dyn Channels>> = handles.collect::<Result<_, _>>().map_err(text)?;
        let socket = |number, kind| take(number, kind).map_err(text);
        let listener = UnixListener::from(socket(listener, Kind::Listener)?);
        let migration = migration.map(|it| socket(it, Kind::Listener)).transpose()?;
        let migration = migration.map(UnixListener::from);
        let lock = File::from(socket(locks.0, Kind::File)?);
        let pid_file = locks.1.map(|it| socket(it, Kind::File)).transpose()?.map(File::from);
        let adopt = &mut |number: u32| {
            let number = RawFd::try_from(number).map_err(io::Error::other)?;
            take(number, Kind::Stream).map(UnixStream::from)
        };
        let registry = registry(settings.priv_domid);
        let registry = if settings.keep_orphans { registry.keeping_orphans() } else { registry };
        let written = state.numbers();
        let setup = Setup { registry, host: Arc::clone(&host), times };
        let parts = state.restore(setup, handles, adopt);
        let parts = parts.map_err(|error| error.to_string())?;
        let sockets = sockets.into_iter().map(PathBuf::from).collect();
        Ok(move || {
            // Just before: a client that asks has the result.
            let pause_us = now_ns().saturating_sub(paused_at) / 1000;
            let result = format!("pause_us={pause_us} {}", numbers(&written));
            parts.shared.control.live_update.set_result(result);
            let server = parts.start().map_err(|error| error.to_string())?;
            let Written { nodes, clients, domains, transactions } = written;
            tracing::info!(
                pause_us,
                domains,
                nodes,
                clients,
                transactions,
                state = UNDERSTANDS,
                "serving after a live update"
            );
            let locks = (lock, pid_file);
            Ok(Resumed { server, host, sim, listener, migration, locks, sockets })
        })
    }
}

/// A registry that knows the control domain only; the state has the quotas.
fn registry(privileged: Option<Domid>) -> Registry {
    Registry::new(Limits::defaults(), privileged)
}

/// A host, and the same as a simulated one if it is one.
struct AdoptedHost {
    host: Arc<dyn Host>,
    sim: Option<Arc<SimHost>>,
}

fn adopt_host(settings: &Settings, saved: SavedHost) -> Result<AdoptedHost, String> {
    match (settings.host, &saved) {
        (HostKind::Sim, SavedHost::Sim(_)) => {
            let host = Arc::new(SimHost::adopt(saved).map_err(|error| error.to_string())?);
            Ok(AdoptedHost { host: Arc::<SimHost>::clone(&host), sim: Some(host) })
        }
        (HostKind::Xen, SavedHost::Xen) => {
            let host = XenHost::adopt(&saved).map_err(|error| error.to_string())?;
            Ok(AdoptedHost { host: Arc::new(host), sim: None })
        }
        _ => Err("the state is of another kind of host (--host)".into()),
    }
}

//! The configuration layers (command line and file), and the settings resolved from them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::cli::{FleetOptions, GuestOptions, HostOptions};
use super::error::DaemonError;
use super::settings::{Fleet, Guest, HostAction, HostKind, HostSettings, Settings};
use crate::domain::Quota;
use crate::host::sim::Lifetime;
use crate::log::{self, Destination, SwitchChange};
use crate::types::{Domid, REL_PATH_MAX};

/// The directory of a Xen host's devices.
const XEN_DEVICES: &str = "/dev/xen";
/// The directory in which C xenstored has its socket and clients look for it.
const RUN_DIRECTORY: &str = "/var/run/xenstored";
/// The name of the simulated host's socket, which is in the same directory as the clients' one.
const SIM_SOCKET: &str = "sim";
/// Default timeout of an event that its domain does not read, in seconds (C xenstored's default).
const WATCH_EVENT_TIMEOUT: u32 = 20;
/// Default interval at which rings are scanned for missed notifications, in seconds (oxenstored's default).
const RING_SCAN_INTERVAL: u32 = 20;
/// Maximum number of shards. Each shard has a thread, no host has more cores, and further threads only cost memory.
const MAX_SHARDS: u16 = 1024;

/// A configuration layer: the options of the command line, or the keys of a configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ConfigLayer {
    pub host: Option<HostKind>,
    /// 0: one per core.
    pub shards: Option<u16>,
    pub socket: Option<PathBuf>,
    pub sim_socket: Option<PathBuf>,
    /// In order; a later value of a quota overrides an earlier one.
    pub limits: Vec<(Quota, u32)>,
    pub soft_memory: Option<u32>,
    /// Seconds; 0: no timeout.
    pub watch_event_timeout: Option<u32>,
    /// Seconds; 0: never.
    pub ring_scan_interval: Option<u32>,
    pub priv_domid: Option<u16>,
    pub master_domid: Option<u16>,
    pub keep_orphans: bool,
    pub pid_file: Option<PathBuf>,
    pub foreground: Option<bool>,
    pub keeper: Option<bool>,
    pub print_pid: bool,
    pub log_file: Option<PathBuf>,
    pub log_level: Option<LevelFilter>,
    pub switches: Vec<SwitchChange>,
    pub notes: Vec<String>,
}

/// The environment on which the settings depend besides the configuration layers.
pub(super) struct Environment {
    pub root: bool,
    /// Whether this is a Xen host.
    pub xen: bool,
    pub cores: usize,
    /// `XENSTORED_PATH`, `XENSTORED_RUNDIR` and `XDG_RUNTIME_DIR`; `None` if unset or empty.
    pub socket: Option<PathBuf>,
    pub run_directory: Option<PathBuf>,
    pub user_directory: Option<PathBuf>,
}

impl Environment {
    /// Reads the environment of this process.
    pub(super) fn detect() -> Environment {
        let path = |name: &str| {
            std::env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from)
        };
        Environment {
            root: rustix::process::geteuid().is_root(),
            xen: Path::new(XEN_DEVICES).exists(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            socket: path("XENSTORED_PATH"),
            run_directory: path("XENSTORED_RUNDIR"),
            user_directory: path("XDG_RUNTIME_DIR"),
        }
    }

    /// Returns the default socket, and whether its directory may be created.
    fn socket(&self) -> (PathBuf, bool) {
        // The order of libxenstore, so that a daemon and its clients with the same environment meet.
        match self {
            Environment { socket: Some(path), .. } => (path.clone(), false),
            Environment { run_directory: Some(path), .. } => (path.join("socket"), false),
            Environment { root: false, user_directory: Some(path), .. } => {
                (path.join("xenstored/socket"), true)
            }
            _ => (Path::new(RUN_DIRECTORY).join("socket"), true),
        }
    }
}

impl ConfigLayer {
    /// Merges two layers: `self` overrides `under`.
    pub(super) fn over(self, mut under: ConfigLayer) -> ConfigLayer {
        // Appended, since the last value of a quota or switch wins.
        under.limits.extend(self.limits);
        under.switches.extend(self.switches);
        under.notes.extend(self.notes);
        ConfigLayer {
            host: self.host.or(under.host),
            shards: self.shards.or(under.shards),
            socket: self.socket.or(under.socket),
            sim_socket: self.sim_socket.or(under.sim_socket),
            limits: under.limits,
            soft_memory: self.soft_memory.or(under.soft_memory),
            watch_event_timeout: self.watch_event_timeout.or(under.watch_event_timeout),
            ring_scan_interval: self.ring_scan_interval.or(under.ring_scan_interval),
            priv_domid: self.priv_domid.or(under.priv_domid),
            master_domid: self.master_domid.or(under.master_domid),
            // Flags without a negation, so either layer may set them.
            keep_orphans: self.keep_orphans || under.keep_orphans,
            pid_file: self.pid_file.or(under.pid_file),
            foreground: self.foreground.or(under.foreground),
            keeper: self.keeper.or(under.keeper),
            print_pid: self.print_pid || under.print_pid,
            log_file: self.log_file.or(under.log_file),
            log_level: self.log_level.or(under.log_level),
            switches: under.switches,
            notes: under.notes,
        }
    }

    /// Resolves the layer to settings, with defaults filled in.
    pub(super) fn resolve(self, environment: &Environment) -> Result<Settings, DaemonError> {
        let host = self.host.unwrap_or(if environment.xen { HostKind::Xen } else { HostKind::Sim });
        let (default_socket, default_made) = environment.socket();
        // A directory that was named is not created: with a misspelt one, no client would look there.
        let make_directory = self.socket.is_none() && default_made;
        let socket = absolute(self.socket.unwrap_or(default_socket))?;
        let sim_socket = match self.sim_socket {
            Some(path) => absolute(path)?,
            None => socket.with_file_name(SIM_SOCKET),
        };
        if sim_socket == socket {
            let text = format!(
                "socket and sim-socket are the same; choose another path for one of them: {}",
                socket.display()
            );
            return Err(DaemonError::Usage(text));
        }
        if let Some(domid @ 1..) = self.master_domid {
            let text = format!(
                "master-domid is {domid}: this daemon runs only in the control domain, 0, not in a \
                 stub domain"
            );
            return Err(DaemonError::Usage(text));
        }
        let foreground = self.foreground.unwrap_or(host == HostKind::Sim);
        let destination = match self.log_file {
            Some(path) => Destination::File(absolute(path)?),
            None if foreground => Destination::Stderr,
            // In the background standard error is /dev/null.
            None => Destination::Syslog,
        };
        let seconds = |number: u32| (number != 0).then(|| Duration::from_secs(number.into()));
        Ok(Settings {
            host,
            shards: shards(self.shards.unwrap_or(0), environment.cores)?,
            sim_socket,
            make_directory,
            socket,
            limits: changed_limits(&self.limits),
            soft_memory: self.soft_memory.unwrap_or(Quota::SOFT_MEMORY_DEFAULT),
            watch_event_timeout: seconds(self.watch_event_timeout.unwrap_or(WATCH_EVENT_TIMEOUT)),
            ring_scan_interval: seconds(self.ring_scan_interval.unwrap_or(RING_SCAN_INTERVAL)),
            priv_domid: self.priv_domid.map(|domid| real(domid, "priv-domid")).transpose()?,
            keep_orphans: self.keep_orphans,
            pid_file: self.pid_file.map(absolute).transpose()?,
            foreground,
            keeper: self.keeper.unwrap_or(true),
            print_pid: self.print_pid,
            welcome: self.host.is_none() && host == HostKind::Sim,
            log: log::Settings {
                destination,
                level: self.log_level.unwrap_or(LevelFilter::INFO),
                switches: self.switches,
            },
            notes: self.notes,
        })
    }
}

/// Resolves the settings of a simulated guest. The guest expects the daemon's sockets where a daemon with the same
/// environment would create them.
pub(super) fn guest(
    options: GuestOptions,
    environment: &Environment,
) -> Result<Guest, DaemonError> {
    let default = || environment.socket().0.with_file_name(SIM_SOCKET);
    // If only the simulated host's socket is named, the daemon's socket is expected in the same directory.
    let socket = match (&environment.socket, &options.sim_socket) {
        (None, Some(sim_socket)) => sim_socket.with_file_name("socket"),
        _ => environment.socket().0,
    };
    Ok(Guest {
        socket,
        domid: options.domid.map(|domid| real(domid, "domid")).transpose()?,
        sim_socket: options.sim_socket.unwrap_or_else(default),
        other_host: options.other_host,
        works: options.work,
    })
}

/// Resolves the settings of a fleet.
pub(super) fn fleet(
    options: FleetOptions,
    environment: &Environment,
) -> Result<Fleet, DaemonError> {
    let default = || {
        let own = environment.user_directory.as_deref().unwrap_or(Path::new("/tmp"));
        own.join("xenstored-fleet")
    };
    let directory = absolute(options.directory.unwrap_or_else(default))?;
    Ok(Fleet { guests: options.guests, directory })
}

/// Resolves the settings of a simulated host, whose socket is where a daemon with the same environment looks for it.
pub(super) fn sim_host(
    options: HostOptions,
    environment: &Environment,
) -> Result<HostSettings, DaemonError> {
    let action = match options {
        HostOptions { stop: true, .. } => HostAction::Stop,
        HostOptions { status: true, .. } => HostAction::Status,
        HostOptions { until_unused: Some(seconds), .. } => {
            let time = Duration::from_secs(seconds.into());
            HostAction::Serve(Lifetime::UntilUnused(time))
        }
        _ => HostAction::Serve(Lifetime::UntilStopped),
    };
    let (default, default_made) = environment.socket();
    let make_directory = options.sim_socket.is_none() && default_made;
    let given = options.sim_socket.unwrap_or_else(|| default.with_file_name(SIM_SOCKET));
    Ok(HostSettings { action, sim_socket: absolute(given)?, make_directory })
}

fn absolute(path: PathBuf) -> Result<PathBuf, DaemonError> {
    std::path::absolute(&path).map_err(|e| DaemonError::Usage(format!("{}: {e}", path.display())))
}

fn real(domid: u16, option: &str) -> Result<Domid, DaemonError> {
    let domid = Domid(domid);
    if domid.is_real() {
        return Ok(domid);
    }
    Err(DaemonError::Usage(format!("{option}: {domid} is not a valid domid; the largest is 32751")))
}

fn shards(given: u16, cores: usize) -> Result<u16, DaemonError> {
    match given {
        0 => Ok(u16::try_from(cores).unwrap_or(MAX_SHARDS).clamp(1, MAX_SHARDS)),
        1..=MAX_SHARDS => Ok(given),
        _ => Err(DaemonError::Usage(format!(
            "shards: {given} is too many; the maximum is {MAX_SHARDS}"
        ))),
    }
}

/// Returns the last value of each quota, unless it is the default.
fn changed_limits(given: &[(Quota, u32)]) -> Vec<(Quota, u32)> {
    let last = |quota: Quota| {
        let (_, value) = *given.iter().rev().find(|(other, _)| *other == quota)?;
        // The wire protocol does not allow longer paths anyway.
        let ceiling = if quota == Quota::PathMax { REL_PATH_MAX } else { usize::MAX };
        let value = value.min(u32::try_from(ceiling).unwrap_or(u32::MAX));
        (value != quota.default_value()).then_some((quota, value))
    };
    Quota::all().filter_map(last).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::daemon) fn bare() -> Environment {
        Environment {
            root: true,
            xen: true,
            cores: 4,
            socket: None,
            run_directory: None,
            user_directory: None,
        }
    }

    #[test]
    fn socket_path_is_where_clients_look() {
        let path = |text: &str| Some(PathBuf::from(text));
        let user = || Environment { user_directory: path("/run/user/1"), ..bare() };
        for (environment, socket, made) in [
            (bare(), "/var/run/xenstored/socket", true),
            (Environment { root: false, ..bare() }, "/var/run/xenstored/socket", true),
            (user(), "/var/run/xenstored/socket", true),
            (Environment { root: false, ..user() }, "/run/user/1/xenstored/socket", true),
            (Environment { run_directory: path("/r"), ..user() }, "/r/socket", false),
            (
                Environment { run_directory: path("/r"), socket: path("/p/s"), ..user() },
                "/p/s",
                false,
            ),
        ] {
            let settings = ConfigLayer::default().resolve(&environment).unwrap();
            assert_eq!(settings.socket, Path::new(socket));
            assert_eq!(settings.make_directory, made, "{socket}");
            assert_eq!(settings.sim_socket, Path::new(socket).with_file_name("sim"));
        }
        let given = ConfigLayer { socket: path("/given"), ..ConfigLayer::default() };
        let environment = Environment { socket: path("/p/s"), ..bare() };
        assert_eq!(given.resolve(&environment).unwrap().socket, Path::new("/given"));
    }

    #[test]
    fn without_xen_the_host_is_simulated_in_the_foreground() {
        let environment = Environment { xen: false, ..bare() };
        let settings = ConfigLayer::default().resolve(&environment).unwrap();
        assert_eq!(settings.host, HostKind::Sim);
        assert!(settings.foreground && settings.welcome);
        assert_eq!(settings.log.destination, Destination::Stderr);

        let chosen = ConfigLayer { host: Some(HostKind::Sim), ..ConfigLayer::default() };
        let settings = chosen.resolve(&bare()).unwrap();
        assert!(settings.foreground && !settings.welcome);

        let settings = ConfigLayer::default().resolve(&bare()).unwrap();
        assert_eq!(settings.host, HostKind::Xen);
        assert!(!settings.foreground && !settings.welcome);
        assert_eq!(settings.log.destination, Destination::Syslog);
        assert_eq!(settings.shards, 4);
    }

    #[test]
    fn upper_config_layer_and_last_limit_win() {
        let file = ConfigLayer {
            shards: Some(2),
            pid_file: Some("/f".into()),
            limits: vec![(Quota::Nodes, 5), (Quota::Watches, 6)],
            ..ConfigLayer::default()
        };
        let line = ConfigLayer {
            shards: Some(3),
            limits: vec![
                (Quota::Nodes, 7),
                (Quota::Watches, Quota::Watches.default_value()),
                (Quota::PathMax, 9999),
            ],
            ..ConfigLayer::default()
        };
        let settings = line.over(file).resolve(&bare()).unwrap();
        assert_eq!(settings.shards, 3);
        assert_eq!(settings.pid_file, Some("/f".into()));
        assert_eq!(settings.limits, [(Quota::Nodes, 7)]);
    }

    #[test]
    fn sim_guest_finds_the_sockets_of_its_daemon() {
        let environment = Environment { run_directory: Some("/r".into()), ..bare() };
        let guest_of = |domid, path: Option<&str>| {
            let sim_socket = path.map(PathBuf::from);
            guest(GuestOptions { domid, sim_socket, other_host: None, work: false }, &environment)
        };
        let expected = |domid, path: &str, socket: &str| Guest {
            domid,
            sim_socket: path.into(),
            other_host: None,
            works: false,
            socket: socket.into(),
        };
        assert_eq!(guest_of(None, None).unwrap(), expected(None, "/r/sim", "/r/socket"));
        let beside = expected(Some(Domid(7)), "/a/sim", "/a/socket");
        assert_eq!(guest_of(Some(7), Some("/a/sim")).unwrap(), beside);
        assert!(guest_of(Some(0x7FF0), None).is_err());
    }

    #[test]
    fn invalid_settings_are_refused() {
        for given in [
            ConfigLayer { shards: Some(MAX_SHARDS + 1), ..ConfigLayer::default() },
            ConfigLayer { priv_domid: Some(0x7FF0), ..ConfigLayer::default() },
            ConfigLayer { master_domid: Some(1), ..ConfigLayer::default() },
            ConfigLayer { socket: Some("".into()), ..ConfigLayer::default() },
            ConfigLayer { socket: Some("/sim".into()), ..ConfigLayer::default() },
        ] {
            assert!(matches!(given.resolve(&bare()), Err(DaemonError::Usage(_))));
        }
    }
}

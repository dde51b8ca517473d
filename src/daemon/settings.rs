//! The resolved settings, as plain data: the interface between this module and the server.

use std::path::PathBuf;
use std::time::Duration;

use crate::domain::Quota;
use crate::host::sim::Lifetime;
use crate::log;
use crate::types::Domid;

/// The hypervisor interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostKind {
    /// Xen, through the devices in /dev/xen
    Xen,
    /// Simulated: guests are processes on this machine
    Sim,
}

/// The resolved settings of the daemon. All paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The hypervisor interface.
    pub host: HostKind,
    /// The number of shards, at least one.
    pub shards: u16,
    /// The socket for local clients.
    pub socket: PathBuf,
    /// The socket for guests of the simulated host; unused on Xen.
    pub sim_socket: PathBuf,
    /// Whether to create the socket's directory if it is missing: only if neither an option nor the environment names
    /// the socket.
    pub make_directory: bool,
    /// Quotas that differ from their default, each at most once; 0 means unlimited.
    pub limits: Vec<(Quota, u32)>,
    /// The soft memory quota in bytes, above which a domain is reported; 0 means unlimited.
    pub soft_memory: u32,
    /// Timeout of an event that its domain does not read; `None` for no timeout.
    pub watch_event_timeout: Option<Duration>,
    /// The interval at which every ring is scanned, notified or not; `None` for never.
    pub ring_scan_interval: Option<Duration>,
    /// A domain with the rights of the control domain.
    pub priv_domid: Option<Domid>,
    /// Whether a dead domain's nodes are given to the control domain instead of being removed.
    pub keep_orphans: bool,
    /// The file to which the process id is written.
    pub pid_file: Option<PathBuf>,
    /// Whether to stay in the foreground.
    pub foreground: bool,
    /// Whether a keeper starts the serving process and waits for it.
    pub keeper: bool,
    /// Whether to print the process id once the daemon serves.
    pub print_pid: bool,
    /// Whether to print an introduction for new users: the host is simulated only because there is no Xen, not because
    /// of `--host`.
    pub welcome: bool,
    /// The log's destination, level and switches.
    pub log: log::Settings,
    /// Settings that were given but have no effect, to be logged as warnings.
    pub notes: Vec<String>,
}

/// The resolved settings of `xenstored sim host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSettings {
    /// What is asked for.
    pub action: HostAction,
    /// The host's socket.
    pub sim_socket: PathBuf,
    /// Whether to create the socket's directory if it is missing, as for a daemon.
    pub make_directory: bool,
}

/// What is asked of `xenstored sim host`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAction {
    /// To run a host.
    Serve(Lifetime),
    /// To stop a running host.
    Stop,
    /// To describe a running host.
    Status,
}

/// The resolved settings of `xenstored sim guest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The guest's domain id; `None` for a new domain.
    pub domid: Option<Domid>,
    /// The daemon's socket for guests.
    pub sim_socket: PathBuf,
    /// The socket of another host of which the domain becomes one, too, so that it can be moved there.
    pub other_host: Option<PathBuf>,
    /// Whether the guest works and checks itself instead of reading commands.
    pub works: bool,
    /// The daemon's socket for clients, over which the guest introduces its domain as a toolstack would.
    pub socket: PathBuf,
}

/// The resolved settings of `xenstored sim fleet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// The number of guests, whose domids begin at 1.
    pub guests: u16,
    /// The directory of the hosts.
    pub directory: PathBuf,
}

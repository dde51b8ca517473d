//! What the daemon runs with, as plain data: the boundary between this folder and the server.

use std::path::PathBuf;
use std::time::Duration;

use crate::domain::Quota;
use crate::log;
use crate::words::Domid;

/// Which hypervisor there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostKind {
    /// Xen, through the devices in /dev/xen
    Xen,
    /// None: guests are processes of this machine
    Sim,
}

/// Everything that the server is told. All paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which hypervisor there is.
    pub host: HostKind,
    /// The number of shards, at least one.
    pub shards: u16,
    /// The socket for clients of this machine.
    pub socket: PathBuf,
    /// The socket through which the simulated host's guests come; unused on Xen.
    pub sim_socket: PathBuf,
    /// Whether the socket's directory is to be made if it is missing: only if nobody named it.
    pub make_directory: bool,
    /// Quotas that are not at their default, each at most once; 0 means no limit.
    pub limits: Vec<(Quota, u32)>,
    /// The soft memory quota in bytes, above which a domain is reported; 0 means no limit.
    pub soft_memory: u32,
    /// How long an event may wait for its domain to take it; `None`: for ever.
    pub watch_event_timeout: Option<Duration>,
    /// In which time each ring is looked at once, whether it is notified or not; `None`: never.
    pub ring_scan_interval: Option<Duration>,
    /// A domain besides the control domain that may do everything.
    pub priv_domid: Option<Domid>,
    /// Whether a dead domain's nodes become the control domain's instead of being removed.
    pub keep_orphans: bool,
    /// Where the process id is written.
    pub pid_file: Option<PathBuf>,
    /// Whether to stay in the foreground.
    pub foreground: bool,
    /// Whether the process id is printed once the daemon serves.
    pub print_pid: bool,
    /// Whether a newcomer should be told what runs here: neither Xen nor `--host` decided the host.
    pub welcome: bool,
    /// Where the log goes and what is in it.
    pub log: log::Settings,
    /// What was given but has no effect; to be logged as warnings.
    pub notes: Vec<String>,
}

/// What `xenstored sim guest` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The domain to be; `None`: a new one.
    pub domid: Option<Domid>,
    /// The daemon's socket for guests.
    pub sim_socket: PathBuf,
    /// The daemon's socket for clients, through which a toolstack connects the domain.
    pub socket: PathBuf,
}

//! The command line: the options of C xenstored as far as they apply, and this daemon's own.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::RangedI64ValueParser;
use clap::{ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::config_layer::ConfigLayer;
use super::error::DaemonError;
use super::settings::HostKind;
use crate::domain::Quota;
use crate::log::{SwitchChange, UnknownSwitch};

const NO_LIVE_UPDATE: &str = "live update is not supported yet; start without -U to serve an empty \
                              store, but running guests and the running toolstack do not recover \
                              from that";

/// The configuration and event daemon of a Xen host.
///
/// Without /dev/xen and without --host it simulates a host in the foreground, and prints how to
/// connect to it.
#[derive(Debug, Parser)]
// C xenstored parses its options with getopt_long(3), which accepts unambiguous prefixes.
#[command(name = "xenstored", version, infer_long_args = true)]
#[command(disable_help_flag = true, disable_version_flag = true)]
// Start scripts append options to those of a configuration file: the last one wins, as in C xenstored.
#[command(args_override_self = true)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(super) struct Options {
    /// Configuration file: TOML, or oxenstored's syntax if the name ends in .conf
    /// [default: /etc/xen/xenstored.toml if it exists]
    #[arg(long, visible_alias = "config-file", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the options and the configuration file, report errors, and exit
    #[arg(long)]
    pub check_config: bool,
    /// Hypervisor interface [default: xen if /dev/xen exists, else sim]
    #[arg(long, value_enum)]
    host: Option<HostKind>,
    /// Number of shards, each with a worker thread; 0 means one per core [default: 0]
    #[arg(long, value_name = "N")]
    shards: Option<u16>,
    /// Socket for clients [default: $XENSTORED_PATH, $XENSTORED_RUNDIR/socket, or
    /// /var/run/xenstored/socket]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Socket for guests of the simulated host [default: sim, beside the socket]
    #[arg(long, value_name = "PATH")]
    sim_socket: Option<PathBuf>,

    /// Stay in the foreground
    #[arg(short = 'N', long)]
    no_fork: bool,
    /// Serve in the process that is started, without a keeper
    #[arg(long)]
    no_keeper: bool,
    /// Write the process id to this file
    #[arg(short = 'F', long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Log to this file, with the traces obj and io
    #[arg(short = 'T', long, value_name = "FILE")]
    trace_file: Option<PathBuf>,
    // `-io` turns a switch off: it is no option.
    /// Enable (+) or disable (-) a trace: obj, io, wrl, acc, conflict; tdb is accepted without effect
    #[arg(long, value_name = "+|-SWITCH", allow_hyphen_values = true)]
    #[arg(value_parser = parse_switch)]
    trace_control: Vec<SwitchChange>,
    /// Maximum number of nodes that a domain owns
    #[arg(short = 'E', long, value_name = "N", value_parser = number())]
    entry_nb: Option<u32>,
    /// Maximum size of a node in bytes
    #[arg(short = 'S', long, value_name = "BYTES", value_parser = number())]
    entry_size: Option<u32>,
    /// Maximum number of watches of a domain
    #[arg(short = 'W', long, value_name = "N", value_parser = number())]
    watch_nb: Option<u32>,
    /// Maximum number of open transactions of a domain
    #[arg(short = 't', long, value_name = "N", value_parser = number())]
    transaction: Option<u32>,
    /// Maximum number of permission entries of a node
    #[arg(short = 'A', long, value_name = "N", value_parser = number())]
    perm_nb: Option<u32>,
    /// Maximum length of a path below /local/domain/<domid>/
    #[arg(short = 'M', long, value_name = "CHARS", value_parser = number())]
    path_max: Option<u32>,
    /// Set a quota: nodes, watches, outstanding, memory, transactions, transaction-nodes,
    /// node-permissions, path-max, node-size
    #[arg(short = 'Q', long, value_name = "WHAT=N", value_parser = parse_quota)]
    quota: Vec<(Quota, u32)>,
    // Set by `read`, since clap's derived values lose the order among different options.
    #[arg(skip)]
    limits: Vec<(Quota, u32)>,
    /// Log a warning when a domain uses more than this: memory
    #[arg(short = 'q', long, value_name = "memory=BYTES", value_parser = parse_soft_quota)]
    quota_soft: Option<u32>,
    /// Time after which unread events of a guest are dropped; 0 means never
    #[arg(short = 'w', long, value_name = "watch-event=SECONDS", value_parser = parse_timeout)]
    timeout: Option<u32>,
    /// Domain in which this daemon runs; only 0 is supported
    #[arg(short = 'm', long, value_name = "DOMID")]
    master_domid: Option<u16>,
    /// Additional domain with full privileges
    #[arg(short = 'p', long, value_name = "DOMID")]
    priv_domid: Option<u16>,
    /// Print the process id once the daemon is ready
    #[arg(short = 'P', long)]
    output_pid: bool,
    /// Keep the nodes of dead domains; the control domain becomes their owner
    #[arg(short = 'K', long)]
    keep_orphans: bool,
    // The next options mean nothing here. They are accepted, since start scripts of C xenstored and oxenstored pass
    // them, and a refused start would leave the host without a store.
    /// Ignored: the host provides the event channel
    #[arg(short = 'e', long, value_name = "PORT", value_parser = number())]
    event: Option<u32>,
    /// Ignored: the control domain's ring is always served
    #[arg(short = 'D', long)]
    no_domain_init: bool,
    /// Ignored: the store is always kept in memory
    #[arg(short = 'I', long, value_name = "on|off", num_args = 0..=1)]
    #[arg(value_parser = ["on", "off"], default_missing_value = "on")]
    internal_db: Option<String>,
    /// Ignored: the store is empty at start
    #[arg(short = 'L', long)]
    preserve_local: bool,
    /// Ignored: there is no database to recover
    #[arg(short = 'R', long)]
    no_recovery: bool,
    /// Ignored: --trace-control=+io traces requests
    #[arg(short = 'V', long)]
    verbose: bool,
    /// Ignored: there is no access log
    #[arg(long)]
    no_access_log: bool,
    /// Not supported yet: live update
    #[arg(short = 'U', long)]
    live_update: bool,
    /// Print this message
    #[arg(short = 'H', visible_short_alias = 'h', long, global = true)]
    #[arg(action = ArgAction::Help)]
    help: Option<bool>,
    /// Print the version
    #[arg(long, action = ArgAction::Version)]
    version: Option<bool>,

    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Clone, Debug, Subcommand)]
pub(super) enum Command {
    /// Tools for the simulated host
    #[command(subcommand)]
    Sim(SimCommand),
}

#[derive(Clone, Debug, Subcommand)]
pub(super) enum SimCommand {
    /// Run as a guest of a simulated host: read, write and watch nodes
    Guest(GuestOptions),
    /// Run a simulated host, which outlives the daemons that serve it; or stop or describe a running one
    Host(HostOptions),
    /// Run two daemons, each with a simulated host, and guests that work and check themselves, to move them between the
    /// two; Ctrl-C ends all
    Fleet(FleetOptions),
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct HostOptions {
    /// Socket of the host [default: as for xenstored]
    #[arg(long, value_name = "PATH")]
    pub sim_socket: Option<PathBuf>,
    /// Stop the host at the socket, and end its domains
    #[arg(long, conflicts_with_all = ["status", "until_unused"])]
    pub stop: bool,
    /// Describe the host at the socket
    #[arg(long, conflicts_with = "until_unused")]
    pub status: bool,
    /// In the background: end with the daemon, or after this time without a daemon, a client and a living guest, as a
    /// host does that a daemon starts [default: 60]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "60", value_parser = number())]
    pub until_unused: Option<u32>,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct GuestOptions {
    /// Domain id of the guest [default: an unused one]
    #[arg(long, value_name = "N")]
    pub domid: Option<u16>,
    /// Socket of the daemon for guests [default: as for xenstored]
    #[arg(long, value_name = "PATH")]
    pub sim_socket: Option<PathBuf>,
    /// Socket of another simulated host: the domain can be moved there, and goes on there
    #[arg(long, value_name = "PATH")]
    pub other_host: Option<PathBuf>,
    /// Work, and report each change that was lost or repeated, until the end of the input
    #[arg(long)]
    pub work: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct FleetOptions {
    /// Number of guests
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub guests: u16,
    /// Directory of the two hosts, which is made if it is missing
    /// [default: xenstored-fleet in $XDG_RUNTIME_DIR, or in /tmp]
    #[arg(long, value_name = "PATH")]
    pub directory: Option<PathBuf>,
}

impl Options {
    /// Parses a command line. `--help` and `--version` are `Err` too, with the text to print.
    pub(super) fn read(line: impl IntoIterator<Item = OsString>) -> Result<Options, clap::Error> {
        let matches = Options::command().try_get_matches_from(line)?;
        let mut options = Options::from_arg_matches(&matches)?;
        options.limits = options.limits_in_order(&matches);
        Ok(options)
    }

    /// Returns the limits in command-line order, so that the last one for a quota wins, whichever of its two options
    /// sets it.
    fn limits_in_order(&self, matches: &ArgMatches) -> Vec<(Quota, u32)> {
        let own = [
            ("entry_nb", Quota::Nodes, self.entry_nb),
            ("entry_size", Quota::NodeSize, self.entry_size),
            ("watch_nb", Quota::Watches, self.watch_nb),
            ("transaction", Quota::Transactions, self.transaction),
            ("perm_nb", Quota::NodePermissions, self.perm_nb),
            ("path_max", Quota::PathMax, self.path_max),
        ];
        let last = |(id, quota, value): (&str, Quota, Option<u32>)| {
            // clap numbers the values over the whole command line.
            Some((matches.indices_of(id)?.next_back()?, (quota, value?)))
        };
        let places = matches.indices_of("quota").into_iter().flatten();
        let mut placed: Vec<_> = places.zip(self.quota.iter().copied()).collect();
        placed.extend(own.into_iter().filter_map(last));
        placed.sort_by_key(|&(place, _)| place);
        placed.into_iter().map(|(_, limit)| limit).collect()
    }

    /// Returns the configuration layer that the options set.
    pub(super) fn given(self) -> Result<ConfigLayer, DaemonError> {
        if self.live_update {
            return Err(DaemonError::Usage(NO_LIVE_UPDATE.into()));
        }
        let notes = self.notes();
        // These switches come first, so that --trace-control can turn them off again.
        let mut switches: Vec<_> = match self.trace_file {
            Some(_) => SwitchChange::of_a_trace_file().collect(),
            None => Vec::new(),
        };
        switches.extend(self.trace_control);
        Ok(ConfigLayer {
            host: self.host,
            shards: self.shards,
            socket: self.socket,
            sim_socket: self.sim_socket,
            limits: self.limits,
            soft_memory: self.quota_soft,
            watch_event_timeout: self.timeout,
            // C xenstored has no such option, as it scans at each wake-up; the configuration file has the key.
            ring_scan_interval: None,
            priv_domid: self.priv_domid,
            master_domid: self.master_domid,
            keep_orphans: self.keep_orphans,
            pid_file: self.pid_file,
            foreground: self.no_fork.then_some(true),
            keeper: self.no_keeper.then_some(false),
            print_pid: self.output_pid,
            log_file: self.trace_file,
            log_level: None,
            switches,
            notes,
        })
    }

    /// Returns a note for each option that was given but has no effect.
    fn notes(&self) -> Vec<String> {
        [
            (self.event.is_some(), "--event is ignored: the host provides the event channel"),
            (self.no_domain_init, "-D is ignored: the control domain's ring is always served"),
            (self.internal_db.is_some(), "-I is ignored: the store is always kept in memory"),
            (self.preserve_local, "-L is ignored: the store is empty at start"),
            (self.no_recovery, "-R is ignored: there is no database to recover"),
            (self.verbose, "-V is ignored: --trace-control=+io traces requests"),
            (
                self.no_access_log,
                "--no-access-log is ignored: there is no access log; \
                                  --trace-control=+io traces requests",
            ),
        ]
        .into_iter()
        .filter(|(is_given, _)| *is_given)
        .map(|(_, note)| note.to_owned())
        .collect()
    }
}

/// Parses numbers with the upper bound of C xenstored, `INT_MAX`.
fn number() -> RangedI64ValueParser<u32> {
    RangedI64ValueParser::new().range(0..=i64::from(i32::MAX))
}

fn parse_switch(text: &str) -> Result<SwitchChange, UnknownSwitch> {
    SwitchChange::parse(text)
}

/// Parses `<what>=<number>`.
fn parse_pair(text: &str) -> Result<(&str, u32), String> {
    let (what, number) = text.split_once('=').ok_or("expected <what>=<number>")?;
    let value = number.parse().ok().filter(|&value| value <= i32::MAX.unsigned_abs());
    Ok((what, value.ok_or_else(|| format!("{number:?} is not a number from 0 to {}", i32::MAX))?))
}

fn parse_quota(text: &str) -> Result<(Quota, u32), String> {
    let (name, value) = parse_pair(text)?;
    let quota = Quota::from_name(name);
    Ok((
        quota.ok_or_else(|| format!("unknown quota {name:?}; expected one of {}", names()))?,
        value,
    ))
}

/// Returns the names of all quotas, separated by commas.
pub(super) fn names() -> String {
    Quota::all().map(Quota::name).collect::<Vec<_>>().join(", ")
}

fn parse_soft_quota(text: &str) -> Result<u32, String> {
    match parse_pair(text)? {
        ("memory", value) => Ok(value),
        (name, _) => Err(format!("unknown soft quota {name:?}; expected memory")),
    }
}

fn parse_timeout(text: &str) -> Result<u32, String> {
    match parse_pair(text)? {
        ("watch-event", value) => Ok(value),
        (name, _) => Err(format!("unknown timeout {name:?}; expected watch-event")),
    }
}

#[cfg(test)]
mod tests;

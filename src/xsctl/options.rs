//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, Parser, Subcommand};

use super::domids::Domids;
use super::evacuate::HOSTS_AT_ONCE_MAX;
use super::evacuate::spread::By;
use super::export_files::Format;
use super::pace;
use super::report::Form;
use super::upgrade::Upgrade;
use crate::types::Domid;

/// The directory in which C xenstored has its socket and clients look for it.
const RUN_DIRECTORY: &str = "/var/run/xenstored";

/// Default number of hosts to which domains are moved in parallel: half of the connections that the source's migration
/// socket serves at once, so that other tools have room.
const HOSTS_AT_ONCE: u8 = 4;
/// Default number of files per batch. A larger batch saves no time, and a faulty file in a smaller batch delays fewer
/// others.
const FILES_TOGETHER: u8 = 50;

/// Move running domains between xenstored daemons, show and compare migration streams, and send
/// commands to a daemon.
///
/// Exit codes: 0 success, of diff: no differences; 1 diff: differences; 2 wrong usage; 3 a file
/// cannot be read or written; 4 a file or directory has invalid contents; 5 a daemon cannot be
/// reached or cannot move domains; 6 some domains failed; 7 release: some domains were changed since
/// their export; 8 control: the command failed; 9 status: some domains are not
/// simply running.
#[derive(Debug, Parser)]
#[command(name = "xsctl", version, disable_help_subcommand = true)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct Options {
    /// Print this message
    #[arg(short = 'h', long, global = true, action = ArgAction::Help)]
    help: Option<bool>,
    /// Print the version
    #[arg(long, action = ArgAction::Version)]
    version: Option<bool>,
    /// Socket of the daemon, as after the command
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

impl Options {
    /// Passes a `--socket` given before the command on to the command.
    ///
    /// # Errors
    /// A message: the command takes no socket, or already has one.
    pub fn place_socket(&mut self) -> Result<(), &'static str> {
        let Some(before) = self.socket.take() else { return Ok(()) };
        let socket = self.command.socket().ok_or("--socket: this command uses no daemon")?;
        match socket.replace(before) {
            None => Ok(()),
            Some(_) => Err("--socket is given both before and after the command"),
        }
    }
}

/// The command to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Move domains to another daemon, of this or another host
    Move {
        #[command(flatten)]
        how: MoveOptions,
        /// Destination daemon: a socket, ssh://[user@]host[:port][/socket], or exec:COMMAND for a command that runs
        /// xsctl receive there
        #[arg(long, value_name = "SOCKET|URL")]
        to: PathBuf,
    },
    /// Move domains to the daemon of an xsctl receive at the other end of standard input and output
    Send {
        #[command(flatten)]
        how: MoveOptions,
    },
    /// Move domains to several hosts by a plan, or make such a plan
    Evacuate {
        #[command(flatten)]
        common: Common,
        /// Plan, in TOML or JSON: the domains of each host. The same plan again goes on
        #[arg(long, value_name = "FILE", required_unless_present = "spread")]
        plan: Option<PathBuf>,
        /// Make a plan from the domains that are here, and move nothing: destinations as of move --to, separated by
        /// commas
        #[arg(long, value_name = "SOCKET|URL", value_delimiter = ',', conflicts_with = "plan")]
        spread: Vec<String>,
        /// What each host of --spread gets an equal part of
        #[arg(long, value_enum, default_value_t = By::Nodes, conflicts_with = "plan")]
        by: By,
        /// File of the plan, which must not exist; JSON if it ends in .json [default: standard output]
        #[arg(short = 'o', long = "output", value_name = "FILE", conflicts_with = "plan")]
        output: Option<PathBuf>,
        /// Connect to all hosts and report which domains would be moved; move nothing
        #[arg(long, short = 'n', conflicts_with = "spread")]
        dry_run: bool,
        #[command(flatten)]
        batch: Batch<1>,
        /// Hosts in parallel
        #[arg(long, default_value_t = HOSTS_AT_ONCE, value_parser = clap::value_parser!(u8).range(1..=HOSTS_AT_ONCE_MAX))]
        jobs: u8,
        /// Maximum number of transfers of a domain that changes during its move
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        tries: u32,
    },
    /// Quiesce domains and write each to a file; they stay quiesced
    Export {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        domains: Domains,
        /// Directory of the files, created if it does not exist; - for all of them on standard output
        #[arg(short = 'o', long, value_name = "DIR")]
        output: PathBuf,
        #[command(flatten)]
        batch: Batch<FILES_TOGETHER>,
        /// Format of the files
        #[arg(long, value_enum, default_value_t = Format::Stream)]
        format: Format,
        /// Replace streams in the directory
        #[arg(long)]
        force: bool,
    },
    /// Import domains from files; they stay quiesced
    Import {
        #[command(flatten)]
        common: Common,
        /// Directory of an export, or files; - for standard input
        #[arg(required = true, value_name = "DIR|FILE")]
        paths: Vec<PathBuf>,
        /// Change nothing; report the outcome for each domain
        #[arg(long, short = 'n')]
        dry_run: bool,
        /// Introduce the domains, each with its former event channel
        #[arg(long, conflicts_with = "dry_run")]
        introduce: bool,
        #[command(flatten)]
        batch: Batch<FILES_TOGETHER>,
        /// Format of the files
        #[arg(long, value_enum, default_value_t = Format::Stream)]
        format: Format,
        /// Domain of the single file, with --format libxl
        #[arg(long, value_name = "N", value_parser = domid)]
        domain: Option<Domid>,
    },
    /// Release the domains of an export that were not changed since
    Release {
        #[command(flatten)]
        common: Common,
        /// Release only these domains
        #[arg(long, value_name = "LIST")]
        domains: Option<Domids>,
        /// Directory of the export, or a copy of its output; - for standard input
        #[arg(value_name = "DIR|FILE")]
        directory: PathBuf,
    },
    /// Introduce domains that were released or imported here; they stay quiesced
    Introduce {
        #[command(flatten)]
        common: Common,
        /// Domains, such as 1-1000,1005; a range selects those that are not introduced and have a port
        #[arg(long, value_name = "LIST")]
        domains: Domids,
        /// Event channel, for a single domain [default: its node store/port]
        #[arg(long, value_name = "N")]
        port: Option<u32>,
    },
    /// Quiesce domains: stop serving their requests
    Quiesce {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        domains: Domains,
    },
    /// Serve quiesced or imported domains, unless another daemon may serve them
    Unquiesce {
        #[command(flatten)]
        common: Common,
        /// Domains, such as 1-1000,1005; a range selects those that the daemon knows in any state
        #[arg(long, value_name = "LIST")]
        domains: Domids,
        /// Socket of the other daemon of their move, which is asked first [default: as noted at their export]
        #[arg(long, value_name = "SOCKET")]
        to: Option<String>,
        /// Serve them whatever another daemon does: only if none serves them or ever will
        #[arg(long)]
        force: bool,
    },
    /// Show the domains that are not simply running, by whom, since when, and how to continue
    Status {
        #[command(flatten)]
        common: Common,
        /// Domains, such as 1-1000,1005 [default: all]; a range selects those that are not simply running
        #[arg(long, value_name = "LIST")]
        domains: Option<Domids>,
        /// Socket of the other daemon of a move, whose states are shown too
        #[arg(long, value_name = "SOCKET")]
        to: Option<PathBuf>,
    },
    /// Discard domains that were imported and not served since
    Discard {
        #[command(flatten)]
        common: Common,
        /// Domains, such as 1-1000,1005; a range selects those imported and not served since
        #[arg(long, value_name = "LIST")]
        domains: Domids,
    },
    /// Connect a tunnel of another host's xsctl, on standard input and output, to the daemon; move --to ssh://...
    /// starts it
    Receive {
        /// Socket of the daemon [default: as for xenstored in the same environment]
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
    /// Replace the program of the running daemon; its clients and domains go on
    Upgrade(Upgrade),
    /// Send a command to the daemon, as xenstore-control does: check, quota, log, memreport, help, ...
    Control {
        /// Socket of the daemon [default: as for xenstored in the same environment]
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// Command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        #[arg(value_name = "WORD")]
        words: Vec<OsString>,
    },
    /// Show a "xenstore" stream, one line per record, with the offset in bytes
    Inspect {
        /// Print a JSON object per record
        #[arg(long)]
        json: bool,
        /// Stream file; - for standard input
        file: PathBuf,
    },
    /// Show the differences between the states of two streams: nodes, permissions, watches,
    /// transactions, quotas, pending bytes
    Diff {
        /// Print a JSON object per difference
        #[arg(long)]
        json: bool,
        /// First stream; - for standard input
        a: PathBuf,
        /// Second stream; - for standard input
        b: PathBuf,
    },
}

impl Command {
    /// Returns the `--socket` given after the command, if the command takes one.
    fn socket(&mut self) -> Option<&mut Option<PathBuf>> {
        match self {
            Command::Move { how: MoveOptions { common, .. }, .. }
            | Command::Send { how: MoveOptions { common, .. } }
            | Command::Evacuate { common, .. }
            | Command::Export { common, .. }
            | Command::Import { common, .. }
            | Command::Release { common, .. }
            | Command::Introduce { common, .. }
            | Command::Quiesce { common, .. }
            | Command::Unquiesce { common, .. }
            | Command::Status { common, .. }
            | Command::Upgrade(Upgrade { common, .. })
            | Command::Discard { common, .. } => Some(&mut common.socket),
            Command::Control { socket, .. } | Command::Receive { socket } => Some(socket),
            Command::Inspect { .. } | Command::Diff { .. } => None,
        }
    }
}

/// The options of all commands that use a daemon.
#[derive(Debug, Args)]
pub struct Common {
    /// Socket of the daemon [default: as for xenstored in the same environment]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print a JSON object per domain, then a summary
    #[arg(long)]
    json: bool,
    /// Print only errors
    #[arg(long, short = 'q')]
    quiet: bool,
}

impl Common {
    /// Returns the daemon's socket.
    pub fn socket(&self) -> PathBuf {
        socket(self.socket.clone())
    }

    /// Returns the form of the output.
    pub fn form(&self) -> Form {
        Form { json: self.json, quiet: self.quiet, aside: false }
    }
}

/// The options of a move to any destination.
#[derive(Debug, Args)]
pub struct MoveOptions {
    #[command(flatten)]
    pub common: Common,
    /// Domains, such as 1-1000,1005; a range selects those in any state here or imported there; - for a domid on
    /// each line of standard input, which gets a line as its reply
    #[arg(long, value_name = "LIST", required_unless_present = "resume")]
    pub domains: Option<Moved>,
    /// Finish or take back what earlier moves left, of all domains by default; move no other domain
    #[arg(long)]
    pub resume: bool,
    /// Show what the move would do with each domain, and its estimated pause; change nothing
    #[arg(long, conflicts_with = "resume")]
    pub plan: bool,
    /// Make batches as large as a pause of this many milliseconds allows, by the estimate of --plan
    #[arg(long, value_name = "MS", conflicts_with_all = ["batch", "resume"], value_parser = clap::value_parser!(u32).range(1..))]
    pub pause_max: Option<u32>,
    /// Maximum number of bytes of streams per second, such as 10M
    #[arg(long, value_name = "N", value_parser = pace::parse)]
    pub rate: Option<u64>,
    /// Domains per request, which are quiesced together [default: 1; more if the other host is far, by its round trip]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=253))]
    pub batch: Option<u8>,
    /// Batches moved in parallel [default: 1; 4 if the other host is far]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub jobs: Option<u8>,
    /// Maximum number of transfers of a domain that changes during its move
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub tries: u32,
}

/// The domains of a move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Those of a list.
    Domids(Domids),
    /// Those that arrive on standard input.
    Lines,
}

impl FromStr for Moved {
    type Err = String;

    fn from_str(text: &str) -> Result<Moved, String> {
        if text == "-" { Ok(Moved::Lines) } else { text.parse().map(Moved::Domids) }
    }
}

/// Which domains.
#[derive(Debug, Args)]
pub struct Domains {
    /// Domains, such as 1-1000,1005; a range selects those that are introduced
    #[arg(long, value_name = "LIST")]
    pub domains: Domids,
}

/// The batch size of a command.
#[derive(Debug, Args)]
pub struct Batch<const DEFAULT: u8> {
    /// Domains per request, which are quiesced together
    #[arg(long, value_name = "N", default_value_t = DEFAULT, value_parser = clap::value_parser!(u8).range(1..=253))]
    batch: u8,
}

impl<const DEFAULT: u8> Batch<DEFAULT> {
    /// Returns the batch size.
    pub fn size(&self) -> usize {
        self.batch.into()
    }
}

fn domid(text: &str) -> Result<Domid, String> {
    text.parse::<Domids>()?.one().ok_or_else(|| "expected a single domain".into())
}

/// Returns `given`, or else the default socket in this environment.
pub fn socket(given: Option<PathBuf>) -> PathBuf {
    given.unwrap_or_else(default_socket)
}

/// Returns the socket of a daemon started in the same environment.
fn default_socket() -> PathBuf {
    let path = |name: &str| {
        std::env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from)
    };
    let of_user = || {
        let is_root = rustix::process::geteuid().is_root();
        path("XDG_RUNTIME_DIR").filter(|_| !is_root).map(|path| path.join("xenstored"))
    };
    path("XENSTORED_PATH").unwrap_or_else(|| {
        let directory = path("XENSTORED_RUNDIR").or_else(of_user);
        directory.unwrap_or_else(|| RUN_DIRECTORY.into()).join("socket")
    })
}

//! The process around the server: options, start, daemonization, signals, stop.
//!
//! [`parse`] resolves the command line and the configuration file to plain [`Settings`]. [`run`] claims the resources
//! that only one daemon can hold, runs the server, and cleans up afterwards.

mod activation;
mod background;
mod cli;
mod config;
mod config_layer;
mod error;
mod instance;
mod keeper;
mod notify;
mod oxenstored;
mod running;
mod serve;
mod settings;
mod sim_host;
mod stop;
mod update;
mod welcome;

use std::ffi::OsString;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use tracing::{error, info, warn};

use crate::control::Served;
use crate::log;

pub use error::{DaemonError, SOCKET_PATH_MAX};
pub use settings::{Fleet, Guest, HostAction, HostKind, HostSettings, Settings};
pub use stop::Stop;

use cli::{Command, Options, SimCommand};
use config_layer::Environment;
use instance::Instance;
use keeper::Link;
use running::{Claim, Running};
use update::HandedOver;

/// Timeout of the log flush at a stop: the log's destination may be stuck.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(1);

const NO_PARENT: &str = "cannot notify the parent process that the daemon is ready";

/// The action that a command line selects.
#[derive(Debug)]
pub enum Task {
    /// Runs the daemon.
    Serve(Box<Settings>),
    /// Runs a guest of a simulated host.
    Guest(Guest),
    /// Runs a simulated host, or stops or describes one.
    Host(HostSettings),
    /// Runs two daemons and guests to be moved between them.
    Fleet(Fleet),
    /// Prints this text and exits.
    Print(String),
}

/// Parses a command line (`argv[0]` included) and the configuration file.
///
/// # Errors
/// [`DaemonError::Usage`], with file and line if the error is in a file.
pub fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Task, DaemonError> {
    let options = match Options::read(line) {
        Ok(options) => options,
        // clap reports --help and --version as errors, too.
        Err(answer) if !answer.use_stderr() => return Ok(Task::Print(answer.to_string())),
        Err(error) => {
            let text = error.to_string();
            return Err(DaemonError::Usage(text.trim_start_matches("error: ").trim_end().into()));
        }
    };
    if let Some(Command::Sim(command)) = options.command {
        let environment = Environment::detect();
        return match command {
            SimCommand::Guest(guest) => config_layer::guest(guest, &environment).map(Task::Guest),
            SimCommand::Host(host) => config_layer::sim_host(host, &environment).map(Task::Host),
            SimCommand::Fleet(fleet) => config_layer::fleet(fleet, &environment).map(Task::Fleet),
        };
    }
    let check_only = options.check_config;
    let (file, from_file) = config::read(options.config.as_deref(), check_only)?;
    let settings = options.given()?.over(from_file).resolve(&Environment::detect())?;
    if !check_only {
        return Ok(Task::Serve(Box::new(settings)));
    }
    let mut text = match file {
        Some(file) => format!("{}: no errors found\n", file.display()),
        None => "no configuration file; no errors found in the options\n".into(),
    };
    for note in &settings.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    Ok(Task::Print(text))
}

/// Runs, stops or describes a simulated host. Returns the exit code.
///
/// # Errors
/// The host cannot be started, or there is none to stop or describe.
pub fn run_sim_host(settings: &HostSettings) -> Result<u8, DaemonError> {
    sim_host::run(settings)
}

/// Runs the daemon until it is asked to stop and returns the exit code. For a start in the background, returns once the
/// background process serves. Unless the settings say otherwise, the process becomes the keeper of another one that
/// serves.
///
/// # Errors
/// The daemon cannot start or cannot continue.
pub fn run(settings: &Settings) -> Result<u8, DaemonError> {
    let update = HandedOver::detect().map_err(|error| DaemonError::Update(error.to_string()))?;
    if let Some(check) = update.as_ref().filter(|update| update.is_check()) {
        return Ok(check.check(serve::times(settings)));
    }
    let process = Process { in_background: !settings.foreground, link: Link::detect()? };
    if process.link.is_none() {
        let second = process.in_background && background::is_second();
        if process.in_background && !second {
            return background::start_second(settings.print_pid);
        }
        if settings.keeper {
            return keeper::keep(settings, second);
        }
        if second {
            background::detach()?;
        }
    }
    // Files are private by default; those that others may read are given wider modes explicitly.
    umask(Mode::RWXG | Mode::RWXO);
    start_log(settings)?;
    let done = match update {
        Some(update) => run_updated(settings, &process, update),
        None => run_logged(settings, &process),
    };
    // The writer's thread ends with the process.
    log::flush(FLUSH_TIME_MAX);
    done
}

/// The serving process, as the processes around it see it.
struct Process {
    in_background: bool,
    /// `None` if this process has no keeper.
    link: Option<Link>,
}

impl Process {
    /// Returns the id of the process that others know as the daemon.
    fn pid(&self) -> u32 {
        self.link.as_ref().map_or_else(std::process::id, Link::pid)
    }
}

/// Runs the daemon after the log has started.
fn run_logged(settings: &Settings, process: &Process) -> Result<u8, DaemonError> {
    let handed_over = activation::take(&settings.socket)?;
    // From here on SIGTERM ends the daemon in order, so sockets and pid file that are claimed are also removed.
    let (stop, served) = prepare(process)?;
    let mut instance = match process.in_background {
        true => match running::claim_or_find(settings, handed_over.as_ref(), process.pid())? {
            Claim::Ours(instance) => instance,
            Claim::Served(running) => return Ok(is_served(&running, settings)),
        },
        // In the foreground a second start fails: its caller wants this process to be the daemon.
        false => Instance::claim(settings, handed_over.as_ref(), process.pid())?,
    };
    let ready = |threads| {
        let _ = served.set(threads); // Set only here.
        announce(settings, process);
    };
    if let Some(listener) = handed_over {
        instance.hand_over(&settings.socket, listener);
    }
    let end = serve::serve(settings, &mut instance, process.link.as_ref(), ready, &stop);
    // Before the last line: from that on another daemon can start.
    drop(instance);
    conclude(process, end)
}

/// Goes on with the state of another process after the log has started.
fn run_updated(
    settings: &Settings,
    process: &Process,
    update: HandedOver,
) -> Result<u8, DaemonError> {
    let (stop, served) = prepare(process)?;
    let ready = |threads| {
        let _ = served.set(threads); // Set only here.
    };
    conclude(process, serve::resume(settings, update, process.link.as_ref(), ready, &stop))
}

/// The server, for the thread that handles signals, once it serves.
type Announced = Arc<OnceLock<Arc<dyn Served>>>;

/// Begins to handle signals and the end of the keeper, and returns what these request, and where they find the server.
fn prepare(process: &Process) -> Result<(Stop, Announced), DaemonError> {
    let stop = Stop::default();
    let served = Arc::<OnceLock<_>>::default();
    let keeper = process.link.as_ref().map(Link::pid);
    stop::take_signals(stop.clone(), Arc::clone(&served), keeper).map_err(|error| {
        DaemonError::Other { what: "cannot register the signal handlers".into(), error }
    })?;
    if let Some(link) = &process.link {
        link.stop_without_keeper(stop.clone())
            .map_err(|error| DaemonError::Other { what: "cannot start a thread".into(), error })?;
    }
    allow_many_files(0);
    Ok((stop, served))
}

/// Logs how the daemon ended, and returns the exit code.
fn conclude(process: &Process, end: Result<(), DaemonError>) -> Result<u8, DaemonError> {
    match &end {
        Ok(()) => info!("stopped"),
        // Standard error may be closed by now.
        Err(failure) if process.in_background => error!("{failure}"),
        Err(_) => {}
    }
    end.map(|()| 0)
}

/// Reports that another daemon already serves, and ends a background start successfully.
fn is_served(running: &Running, settings: &Settings) -> u8 {
    let sentence = running.sentence(settings);
    info!("not started: {sentence}");
    eprintln!("xenstored: {sentence}");
    if let Err(error) = background::report_ready(running.pid) {
        warn!(%error, "{NO_PARENT}");
    }
    0
}

fn start_log(settings: &Settings) -> Result<(), DaemonError> {
    log::init(&settings.log).map_err(|error| match &settings.log.destination {
        log::Destination::File(path) => DaemonError::of_path(path, error),
        _ => DaemonError::Other { what: "cannot start the log".into(), error },
    })?;
    log::abort_on_panic();
    for note in &settings.notes {
        warn!("{note}");
    }
    Ok(())
}

/// Reports that this process serves: to its keeper, which reports it further, or without one to the service manager and
/// to the first process of a background start.
fn announce(settings: &Settings, process: &Process) {
    let socket = settings.socket.display();
    info!(host = ?settings.host, shards = settings.shards, %socket, "serving");
    match &process.link {
        Some(link) => {
            // If this fails, the keeper has ended, and this process stops.
            let _ = link.report_serving(std::process::id());
            if process.in_background
                && let Err(error) = background::leave_terminal()
            {
                warn!(%error, "cannot close the standard streams");
            }
        }
        None => report_ready(settings, process.in_background, |what, error| {
            warn!(%error, "{what}");
        }),
    }
    if settings.welcome {
        eprint!("{}", welcome::text(settings));
    }
}

/// Reports that the daemon whose known process is this one serves: to the service manager, and to the first process of a
/// background start or, with the option `-P`, on the standard output. Calls `failed` with what failed.
fn report_ready(
    settings: &Settings,
    in_background: bool,
    mut failed: impl FnMut(&'static str, io::Error),
) {
    let pid = std::process::id();
    // After the sockets listen: units that are ordered after this one connect at once. In the background this is not the
    // process that the service manager started, hence MAINPID.
    if let Err(error) = notify::notify(&format!("READY=1\nMAINPID={pid}\n")) {
        failed("cannot notify the service manager that the daemon is ready", error);
    }
    if !in_background {
        if settings.print_pid {
            println!("{pid}");
        }
    } else if let Err(error) = background::report_ready(pid) {
        failed(NO_PARENT, error);
    }
}

/// Raises the soft limit of open files to the hard limit, since each client and each guest needs a descriptor; and that,
/// if it is lower, to `wanted`, which only root may.
pub fn allow_many_files(wanted: u64) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = maximum.map(|maximum| maximum.max(wanted));
    let set = |limit| setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit });
    // A failure is ignored: with fewer descriptors fewer clients are served, and `Unaccepted` says so.
    let _ = set(raised).or_else(|_| set(maximum));
}

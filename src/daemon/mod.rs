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
mod notify;
mod oxenstored;
mod running;
mod serve;
mod settings;
mod sim_host;
mod stop;
mod welcome;

use std::ffi::OsString;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use tracing::{error, info, warn};

use crate::log;

pub use error::{DaemonError, SOCKET_PATH_MAX};
pub use settings::{Fleet, Guest, HostAction, HostKind, HostSettings, Settings};
pub use stop::Stop;

use cli::{Command, Options, SimCommand};
use config_layer::Environment;
use instance::Instance;
use running::{Claim, Running};

/// Timeout of the log flush at a stop: the log's destination may be stuck.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(1);

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
/// background process serves.
///
/// # Errors
/// The daemon cannot start or cannot continue.
pub fn run(settings: &Settings) -> Result<u8, DaemonError> {
    let second = !settings.foreground && background::is_second();
    if !settings.foreground && !second {
        return background::start_second(settings.print_pid);
    }
    if second {
        background::detach()?;
    }
    // Files are private by default; those that others may read are given wider modes explicitly.
    umask(Mode::RWXG | Mode::RWXO);
    start_log(settings)?;
    let done = run_logged(settings, second);
    // The writer's thread ends with the process.
    log::flush(FLUSH_TIME_MAX);
    done
}

/// Runs the daemon after the log has started.
fn run_logged(settings: &Settings, second: bool) -> Result<u8, DaemonError> {
    let handed_over = activation::take(&settings.socket)?;
    // From here on SIGTERM ends the daemon in order, so sockets and pid file that are claimed are also removed.
    let stop = Stop::default();
    let served = Arc::<OnceLock<_>>::default();
    stop::take_signals(stop.clone(), Arc::clone(&served)).map_err(|error| DaemonError::Other {
        what: "cannot register the signal handlers".into(),
        error,
    })?;
    allow_many_files(0);
    let mut instance = match second {
        true => match running::claim_or_find(settings, handed_over.as_ref())? {
            Claim::Ours(instance) => instance,
            Claim::Served(running) => return Ok(is_served(&running, settings)),
        },
        // In the foreground a second start fails: its caller wants this process to be the daemon.
        false => Instance::claim(settings, handed_over.as_ref())?,
    };
    let ready = |threads| {
        let _ = served.set(threads); // Set only here.
        announce(settings, second);
    };
    if let Some(listener) = handed_over {
        instance.hand_over(&settings.socket, listener);
    }
    let end = serve::serve(settings, &mut instance, ready, &stop);
    // Before the last line: from that on another daemon can start.
    drop(instance);
    match &end {
        Ok(()) => info!("stopped"),
        Err(failure) if second => error!("{failure}"), // Standard error may be closed by now.
        Err(_) => {}
    }
    end.map(|()| 0)
}

/// Reports that another daemon already serves, and ends a background start successfully.
fn is_served(running: &Running, settings: &Settings) -> u8 {
    let sentence = running.sentence(settings);
    info!("not started: {sentence}");
    eprintln!("xenstored: {sentence}");
    report_ready(running.pid);
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

/// Reports to the first process and the service manager that the daemon serves.
fn announce(settings: &Settings, second: bool) {
    let socket = settings.socket.display();
    info!(host = ?settings.host, shards = settings.shards, %socket, "serving");
    // In the background this is not the process that the service manager started, hence MAINPID.
    let pid = std::process::id();
    // After the sockets listen: units that are ordered after this one connect at once.
    if let Err(error) = notify::notify(&format!("READY=1\nMAINPID={pid}\n")) {
        warn!(%error, "cannot notify the service manager that the daemon is ready");
    }
    if second {
        report_ready(pid);
    } else if settings.print_pid {
        println!("{pid}");
    }
    if settings.welcome {
        eprint!("{}", welcome::text(settings));
    }
}

fn report_ready(pid: u32) {
    if let Err(error) = background::report_ready(pid) {
        warn!(%error, "cannot notify the parent process that the daemon is ready");
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

//! The process around the server: options, start, background, signals, stop.
//!
//! [`parse`] turns the command line and the configuration file into plain [`Settings`]; [`run`]
//! claims what only one daemon can have, hands over to the server, and cleans up behind it.

mod activation;
mod background;
mod cli;
mod config;
mod failure;
mod given;
mod instance;
mod notify;
mod oxenstored;
mod running;
mod serve;
mod settings;
mod stop;
mod welcome;

use std::ffi::OsString;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use tracing::{error, info, warn};

use crate::log;

pub use failure::{Failure, SOCKET_PATH_MAX};
pub use settings::{Guest, HostKind, Settings};
pub use stop::Stop;

use cli::{Command, Options, SimCommand};
use given::Surroundings;
use instance::Instance;
use running::{Claim, Running};

/// How long a stop waits until its last lines are written: the log's destination may be stuck.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(1);

/// What a command line asks for.
#[derive(Debug)]
pub enum Task {
    /// To be the daemon.
    Serve(Box<Settings>),
    /// To be a guest of a simulated host.
    Guest(Guest),
    /// To print this text and nothing else.
    Print(String),
}

/// Reads a command line (with the program's name first) and the configuration file.
///
/// # Errors
/// [`Failure::Usage`], with file and line where it is about a file.
pub fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Task, Failure> {
    let options = match Options::read(line) {
        Ok(options) => options,
        Err(answer) if !answer.use_stderr() => return Ok(Task::Print(answer.to_string())),
        Err(error) => {
            let text = error.to_string();
            return Err(Failure::Usage(text.trim_start_matches("error: ").trim_end().into()));
        }
    };
    if let Some(Command::Sim(SimCommand::Guest(guest))) = options.command {
        return given::guest(guest, &Surroundings::look()).map(Task::Guest);
    }
    let check_only = options.check_config;
    let (file, from_file) = config::read(options.config.as_deref(), check_only)?;
    let settings = options.given()?.over(from_file).settle(&Surroundings::look())?;
    if !check_only {
        return Ok(Task::Serve(Box::new(settings)));
    }
    let mut text = match file {
        Some(file) => format!("{}: nothing is wrong with it\n", file.display()),
        None => "there is no configuration file; nothing is wrong with the options\n".into(),
    };
    for note in &settings.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    Ok(Task::Print(text))
}

/// Runs the daemon until it is asked to stop; in the background, until it serves there.
///
/// # Errors
/// It could not start or not go on. The answer otherwise is the exit code.
pub fn run(settings: &Settings) -> Result<u8, Failure> {
    let second = !settings.foreground && background::is_second();
    if !settings.foreground && !second {
        return background::start_second(settings.print_pid);
    }
    if second {
        background::detach()?;
    }
    // Nothing that the daemon makes is anybody else's to write or, unless it says so, to read.
    umask(Mode::RWXG | Mode::RWXO);
    start_log(settings)?;
    let done = run_logged(settings, second);
    log::flush(FLUSH_TIME_MAX);
    done
}

/// Runs the daemon, whose log has begun.
fn run_logged(settings: &Settings, second: bool) -> Result<u8, Failure> {
    let handed_over = activation::take(&settings.socket)?;
    let stop = Stop::default();
    let served = Arc::<OnceLock<_>>::default();
    stop::take_signals(stop.clone(), Arc::clone(&served))
        .map_err(|error| Failure::Other { what: "cannot take signals".into(), error })?;
    allow_many_files();
    let mut instance = match second {
        true => match running::claim_or_find(settings, handed_over.as_ref())? {
            Claim::Ours(instance) => instance,
            Claim::Served(running) => return Ok(is_served(&running, settings)),
        },
        false => Instance::claim(settings, handed_over.as_ref())?,
    };
    let ready = |threads| {
        let _ = served.set(threads); // It is the first.
        announce(settings, second);
    };
    if let Some(listener) = handed_over {
        instance.hand_over(&settings.socket, listener);
    }
    let end = serve::serve(settings, &mut instance, ready, &stop);
    drop(instance);
    match &end {
        Ok(()) => info!("stopped"),
        Err(failure) if second => error!("{failure}"), // Nobody reads our standard error any more.
        Err(_) => {}
    }
    end.map(|()| 0)
}

/// The end of a start to the background that another daemon makes needless.
fn is_served(running: &Running, settings: &Settings) -> u8 {
    let sentence = running.sentence(settings);
    info!("not started: {sentence}");
    eprintln!("xenstored: {sentence}");
    report_ready(running.pid);
    0
}

fn start_log(settings: &Settings) -> Result<(), Failure> {
    log::init(&settings.log).map_err(|error| match &settings.log.destination {
        log::Destination::File(path) => Failure::of_path(path, error),
        _ => Failure::Other { what: "cannot start the log".into(), error },
    })?;
    log::abort_on_panic();
    for note in &settings.notes {
        warn!("{note}");
    }
    Ok(())
}

/// Notifies the starter and the service manager that the daemon serves.
fn announce(settings: &Settings, second: bool) {
    let socket = settings.socket.display();
    info!(host = ?settings.host, shards = settings.shards, %socket, "serving");
    let pid = std::process::id();
    if let Err(error) = notify::notify(&format!("READY=1\nMAINPID={pid}\n")) {
        warn!(%error, "the service manager cannot be notified that the daemon serves");
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
        warn!(%error, "the process that started the daemon cannot be notified that it serves");
    }
}

/// Allows as many open files as the system lets us: each client is one, and so is each guest of
/// the simulated host.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

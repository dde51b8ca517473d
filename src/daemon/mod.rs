//! The process around the server: options, start, background, signals, stop.
//!
//! [`parse`] turns the command line and the configuration file into plain [`Settings`]; [`run`]
//! claims what only one daemon can have, hands over to the server, and cleans up behind it.

mod background;
mod cli;
mod config;
mod failure;
mod given;
mod instance;
mod oxenstored;
mod serve;
mod settings;
mod stop;
mod welcome;

use std::ffi::OsString;
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use sd_notify::NotifyState;
use tracing::{error, info, warn};

use crate::log;

pub use failure::{Failure, SOCKET_PATH_MAX};
pub use settings::{Guest, HostKind, Settings};
pub use stop::Stop;

use cli::{Command, Options, SimCommand};
use given::Surroundings;
use instance::Instance;

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
    let (file, from_file) = config::read(options.config.as_deref())?;
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
        return background::start_second();
    }
    if second {
        background::detach()?;
    }
    // Nothing that the daemon makes is anybody else's to write or, unless it says so, to read.
    umask(Mode::RWXG | Mode::RWXO);
    start_log(settings)?;
    let stop = Stop::default();
    stop::take_signals(stop.clone())
        .map_err(|error| Failure::Other { what: "cannot take signals".into(), error })?;
    allow_many_files();
    let mut instance = Instance::claim(settings)?;
    let ready = || announce(settings, second);
    let served = serve::serve(settings, |path: &Path| instance.listen(path), ready, &stop);
    drop(instance);
    match &served {
        Ok(()) => info!("stopped"),
        Err(failure) if second => error!("{failure}"), // Nobody reads our standard error any more.
        Err(_) => {}
    }
    served.map(|()| 0)
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

/// Tells everybody who waits that the daemon serves.
fn announce(settings: &Settings, second: bool) {
    let socket = settings.socket.display();
    info!(host = ?settings.host, shards = settings.shards, %socket, "serving");
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::MainPid(std::process::id())]);
    if second && let Err(e) = background::report_ready() {
        warn!("whoever started the daemon could not be told that it serves: {e}");
    }
    if settings.welcome {
        eprint!("{}", welcome::text(settings));
    }
}

/// Allows as many open files as the system lets us: each client is one, and so is each guest of
/// the simulated host.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

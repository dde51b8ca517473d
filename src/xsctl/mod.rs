//! `xsctl`: moves domains between daemons, and shows and compares migration streams. xsctl(8) is its manual;
//! docs/MIGRATION.md describes the protocol.
//!
//! ```text
//!     move      move_batches: jobs > batch: EXPORT | IMPORT, INTRODUCE, RELEASE, UNQUIESCE ---> places
//!     move --domains -: move_lines: the lines that have arrived > batch
//!     evacuate  a plan of several hosts, each as a move
//!     export    EXPORT ---> a file each, marks          release   marks ---> RELEASE
//!     unquiesce, status, move --resume: DOMAIN_STATES of both ends ---> standing, step, other_end
//!     import    files ---> IMPORT, INTRODUCE            introduce, quiesce, unquiesce, discard
//!               all of them: client, daemon ---> link   report: a Line for each domain, a summary
//!
//!     upgrade   CONTROL live-update: the program, its options, the start, the result
//!     control   words ---> CONTROL ---> the reply as text
//!     inspect   Reader ---> a Record at a time ---> show ---> Line
//!     diff      Reader ---> State, twice ---> facts ---> Line
//! ```

mod batch;
mod client;
mod container;
mod control;
mod daemon;
mod diff;
mod domids;
mod earlier;
mod error;
mod evacuate;
mod export_files;
mod export_sink;
mod import_files;
mod input;
mod input_lines;
mod inspect;
mod introduce;
mod libxl_file;
mod line;
mod link;
mod lock;
mod marks;
mod move_batches;
mod move_lines;
mod moves;
mod next;
mod options;
mod other_end;
mod pace;
mod places;
mod plan;
mod progress;
mod replies;
mod report;
mod requests;
mod resume;
mod route;
mod show;
mod standing;
mod status;
mod step;
mod stream_files;
mod survey;
mod target;
mod tunnel;
mod unquiesce;
mod upgrade;

use std::ffi::OsString;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use clap::{CommandFactory, Parser};

use client::{Client, Each};
use daemon::Daemon;
use domids::Domids;
pub use error::{Done, ToolError};
use evacuate::spread::Spread;
use export_files::Format;
use input::Input;
use options::{Command, Options};
use tunnel::{STDIO, Tunnel};

/// Runs `xsctl` with the given command line (`argv[0]` included).
///
/// # Errors
/// The error that ended the command. Results found before the error are already written.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<Done, ToolError> {
    let mut options = Options::try_parse_from(arguments).map_err(printed)?;
    options.place_socket().map_err(usage)?;
    match options.command {
        Command::Control { socket, words } => control::run(&options::socket(socket), &words),
        Command::Inspect { json, file } => {
            let mut input = Input::open(file)?;
            written(|out| inspect::inspect(&mut input, json, out).map(|()| Done::Well))
        }
        Command::Diff { json, a, b } => {
            let (mut a, mut b) = (Input::open(a)?, Input::open(b)?);
            written(|out| diff::diff(&mut a, &mut b, json, out))
        }
        Command::Upgrade(how) => upgrade::run(&how),
        Command::Receive { socket } => tunnel::receive::run(options::socket(socket)),
        Command::Quiesce { common, domains } => {
            requests::each(&common.socket(), Each::Quiesce, &domains.domains, common.form())
        }
        Command::Unquiesce { common, domains, to, force } => {
            let mode = unquiesce::Mode { to, force, form: common.form() };
            unquiesce::run(common.socket(), &domains, &mode)
        }
        Command::Status { common, domains, to } => {
            let here = Daemon::find(common.socket())?;
            let there = to.map(Daemon::find).transpose()?;
            let domids = domains.unwrap_or_else(Domids::all);
            status::run(&here, there.as_ref(), &domids, common.form())
        }
        Command::Discard { common, domains } => {
            requests::discard(&common.socket(), &domains, common.form())
        }
        Command::Release { common, domains, directory } => {
            marks::release(&common.socket(), &directory, domains.as_ref(), common.form())
        }
        Command::Introduce { common, domains, port } => {
            if port.is_some() && domains.one().is_none() {
                return Err(usage("--port requires a single domain"));
            }
            introduce::run(&common.socket(), &domains, port, common.form())
        }
        Command::Export { common, domains, output, batch, format, force } => {
            let is_pipe = container::is_pipe(&output);
            if is_pipe && (format != Format::Stream || io::stdout().is_terminal()) {
                return Err(usage(
                    "-o - takes the default format, and writes no streams to a terminal",
                ));
            }
            let daemon = Daemon::find(common.socket())?;
            let domids = meant(&daemon, &domains)?;
            let form = report::Form { aside: is_pipe, ..common.form() };
            let mode = export_files::Mode { output, format, batch: batch.size(), force, form };
            export_files::run(&daemon, &domids, &mode, &*stop()?)
        }
        Command::Import { common, paths, dry_run, introduce, batch, format, domain } => {
            let of_format = match (format, domain, &paths[..]) {
                (Format::Stream, None, _) => true,
                // The format contains neither the domid nor the event channel.
                (Format::Libxl, Some(_), [file]) => {
                    !introduce && !file.is_dir() && !container::is_pipe(file)
                }
                _ => false,
            };
            if !of_format {
                return Err(usage(
                    "--format libxl takes a single file and requires --domain, which no other \
                     format takes; it excludes --introduce",
                ));
            }
            if paths.iter().any(|path| container::is_pipe(path)) && io::stdin().is_terminal() {
                return Err(usage(
                    "a terminal has no streams; pipe the output of xsctl export -o -",
                ));
            }
            let daemon = Daemon::find(common.socket())?;
            let (batch, form) = (batch.size(), common.form());
            let mode = import_files::Mode { paths, libxl: domain, dry_run, introduce, batch, form };
            import_files::run(&daemon, &mode, &*stop()?)
        }
        Command::Evacuate { common, plan, spread, by, output, dry_run, batch, jobs, tries } => {
            let begun = Instant::now();
            let source = Daemon::find(common.socket())?;
            let form = common.form();
            let Some(plan) = plan else {
                let spread =
                    Spread { to: &spread, by, output: output.as_deref(), is_json: form.json };
                return evacuate::spread::run(&source, &spread);
            };
            let each =
                move_batches::Mode { batch: batch.size(), jobs: 1, form, begun, pause_max: None };
            let mode = evacuate::Mode { each, hosts: jobs.into(), tries, is_dry: dry_run };
            evacuate::run(&source, &plan, &mode)
        }
        Command::Move { how, to } => moves::run(how, to, false),
        Command::Send { how } => {
            if io::stdin().is_terminal() || io::stdout().is_terminal() {
                return Err(usage("send: a terminal is no xsctl receive"));
            }
            Tunnel::start_on_stdio().map_err(|error| ToolError::Daemon {
                socket: STDIO.into(),
                why: format!("cannot connect: {error}"),
            })?;
            moves::run(how, STDIO.into(), true)
        }
    }
}

/// Lets `work` write to standard output, buffered.
fn written(
    work: impl FnOnce(&mut BufWriter<io::StdoutLock<'static>>) -> Result<Done, ToolError>,
) -> Result<Done, ToolError> {
    let mut out = BufWriter::new(io::stdout().lock());
    let done = work(&mut out);
    out.flush()?;
    done
}

fn meant(
    daemon: &Daemon,
    domains: &options::Domains,
) -> Result<Vec<crate::types::Domid>, ToolError> {
    Client::connect(&daemon.socket)?.meant(&domains.domains, &daemon.socket)
}

/// Returns the flag that SIGINT and SIGTERM set. The current batch is completed, and no other one is started.
fn stop() -> Result<Arc<AtomicBool>, ToolError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

fn usage(text: &str) -> ToolError {
    printed(Options::command().error(clap::error::ErrorKind::ArgumentConflict, text))
}

fn printed(error: clap::Error) -> ToolError {
    // A failure to print cannot be reported.
    let _ = error.print();
    error.into()
}

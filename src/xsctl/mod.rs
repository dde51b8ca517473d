//! `xsctl`: moves domains between daemons, and shows and compares migration streams. xsctl(8) is its manual;
//! docs/MIGRATION.md describes the protocol.
//!
//! ```text
//!     move      move_batches: jobs > batch: EXPORT | IMPORT, INTRODUCE, RELEASE, UNQUIESCE ---> places
//!     export    EXPORT ---> a file each, marks          release   marks ---> RELEASE
//!     unquiesce, status, move --resume: DOMAIN_STATES of both ends ---> standing, step, other_end
//!     import    files ---> IMPORT, INTRODUCE            introduce, quiesce, unquiesce, discard
//!               all of them: client, daemon ---> link   report: a Line for each domain, a summary
//!
//!     control   words ---> CONTROL ---> the reply as text
//!     inspect   Reader ---> a Record at a time ---> show ---> Line
//!     diff      Reader ---> State, twice ---> facts ---> Line
//! ```

mod batch;
mod client;
mod control;
mod daemon;
mod diff;
mod domids;
mod earlier;
mod error;
mod export_files;
mod import_files;
mod input;
mod inspect;
mod introduce;
mod libxl_file;
mod line;
mod link;
mod lock;
mod marks;
mod move_batches;
mod next;
mod options;
mod other_end;
mod places;
mod progress;
mod replies;
mod report;
mod requests;
mod resume;
mod show;
mod standing;
mod status;
mod step;
mod stream_files;
mod target;
mod tunnel;
mod unquiesce;

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use clap::{CommandFactory, Parser};

use client::{Client, Each};
use daemon::Daemon;
use domids::Domids;
pub use error::{Done, ToolError};
use export_files::Format;
use input::Input;
use options::{Command, Options};

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
        Command::Export { common, domains, directory, batch, format, force } => {
            let daemon = Daemon::find(common.socket())?;
            let domids = meant(&daemon, &domains)?;
            let (batch, form) = (batch.size(), common.form());
            let mode = export_files::Mode { directory, format, batch, force, form };
            export_files::run(&daemon, &domids, &mode, &*stop()?)
        }
        Command::Import { common, paths, dry_run, introduce, batch, format, domain } => {
            let of_format = match (format, domain, &paths[..]) {
                (Format::Stream, None, _) => true,
                // The format contains neither the domid nor the event channel.
                (Format::Libxl, Some(_), [file]) => !introduce && !file.is_dir(),
                _ => false,
            };
            if !of_format {
                return Err(usage(
                    "--format libxl takes a single file and requires --domain, which no other \
                     format takes; it excludes --introduce",
                ));
            }
            let daemon = Daemon::find(common.socket())?;
            let (batch, form) = (batch.size(), common.form());
            let mode = import_files::Mode { paths, libxl: domain, dry_run, introduce, batch, form };
            import_files::run(&daemon, &mode, &*stop()?)
        }
        Command::Move { common, domains, to, resume, batch, jobs, tries } => {
            let begun = Instant::now();
            let source = Daemon::find(common.socket())?;
            let destination = Daemon::find(to)?;
            if source.is_same(&destination) {
                return Err(usage("--to names the source daemon; name another one"));
            }
            let has_digests = source.has_digests() && destination.has_digests();
            let route = batch::Route { source, destination, tries, has_digests };
            let (batch, form) = (batch.size(), common.form());
            let domains = domains.unwrap_or_else(Domids::all);
            if resume {
                return resume::run(&route, &domains, form);
            }
            let mode = move_batches::Mode { batch, jobs: jobs.into(), form, begun };
            move_batches::run(&route, &domains, &mode, &*stop()?)
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

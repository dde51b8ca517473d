//! `live-update`: the command by which Xen's `xenstore-control live-update` and `xsctl upgrade` replace the daemon's
//! program. The dialogue is C xenstored's: the program, then its command line if it is to change, then the start; each
//! is replied to with `OK` or with a sentence.

use std::path::PathBuf;
use std::sync::OnceLock;

use super::{CommandResult, Reply, Served, ack, invalid, later, text};
use crate::sync::{Arc, Mutex};

/// The longest command line of a new program in bytes: far below what fits into a request.
const COMMAND_LINE_MAX: usize = 4000;

/// A requested update.
pub struct UpdateRequest {
    /// The new program.
    pub program: PathBuf,
    /// The new program's options; `None` for those of the running one.
    pub options: Option<Vec<String>>,
    /// Whether the program is only checked.
    pub dry_run: bool,
}

/// What the commands of an update have prepared, and the function that performs it.
#[derive(Default)]
pub struct LiveUpdate {
    prepared: Mutex<Option<Prepared>>,
    performer: OnceLock<Performer>,
    /// The numbers of the update by which this process began; empty without one.
    result: Mutex<String>,
}

#[derive(Clone)]
struct Prepared {
    program: PathBuf,
    options: Option<Vec<String>>,
}

/// Performs an update. Blocks, and returns the reply; after a success the process ends without returning, since the client
/// has the reply from the new program.
pub type Performer = Box<dyn Fn(UpdateRequest) -> String + Send + Sync>;

impl LiveUpdate {
    /// Records the update by which this process began.
    pub fn set_result(&self, numbers: String) {
        *self.result.lock() = numbers;
    }

    /// Sets the function that performs updates, once.
    pub fn perform_with(&self, performer: Performer) {
        // Set only at the start of the daemon.
        let _ = self.performer.set(performer);
    }
}

/// Executes `live-update` with its arguments.
pub fn live_update(served: &Arc<dyn Served>, arguments: &[&[u8]]) -> Reply {
    let state = &served.state().live_update;
    match arguments {
        [b"-f", program] => Reply::Now(prepare(state, program)),
        [b"-c", options] => Reply::Now(set_options(state, options)),
        [b"-a"] => {
            *state.prepared.lock() = None;
            Reply::Now(ack())
        }
        // The result of the last update, as the new program knows it.
        [b"-r"] => Reply::Now(Ok(text(&state.result.lock()))),
        [b"-s", flags @ ..] => match dry_run(flags) {
            Some(dry_run) => start(served, dry_run),
            None => invalid(),
        },
        _ => invalid(),
    }
}

fn prepare(state: &LiveUpdate, program: &[u8]) -> CommandResult {
    let program = PathBuf::from(String::from_utf8_lossy(program).into_owned());
    if !program.is_absolute() {
        return Ok(text("live-update needs the absolute path of the new program"));
    }
    match std::fs::metadata(&program) {
        Ok(about) if about.is_file() => {
            *state.prepared.lock() = Some(Prepared { program, options: None });
            ack()
        }
        Ok(_) => Ok(text(&format!("{} is not a file", program.display()))),
        Err(error) => Ok(text(&format!("{}: {error}", program.display()))),
    }
}

fn set_options(state: &LiveUpdate, options: &[u8]) -> CommandResult {
    let options = String::from_utf8_lossy(options);
    let words = shlex::split(&options).filter(|_| options.len() <= COMMAND_LINE_MAX);
    match (&mut *state.prepared.lock(), words) {
        (Some(prepared), Some(words)) => {
            prepared.options = Some(words);
            ack()
        }
        (None, _) => Ok(text("the new program must be named first (live-update -f)")),
        (_, None) => Ok(text("the command line is too long, or a quote in it is not closed")),
    }
}

/// Reads the flags of `-s`; returns whether the program is only checked. `-t` and `-F` are about transactions, which go
/// on here, so they need no time. `-v` is the version of the stream, which the two programs agree on.
fn dry_run(flags: &[&[u8]]) -> Option<bool> {
    let (mut dry_run, mut flags) = (false, flags.iter());
    while let Some(flag) = flags.next() {
        match *flag {
            b"-n" => dry_run = true,
            b"-F" => {}
            b"-t" | b"-v" => {
                let number = std::str::from_utf8(flags.next()?).ok()?;
                number.parse::<u32>().ok()?;
            }
            _ => return None,
        }
    }
    Some(dry_run)
}

fn start(served: &Arc<dyn Served>, dry_run: bool) -> Reply {
    let Some(prepared) = served.state().live_update.prepared.lock().take() else {
        return Reply::Now(Ok(text("the new program must be named first (live-update -f)")));
    };
    later(served, move |served| Ok(text(&perform(served, prepared, dry_run))))
}

/// Returns the reply of an update that leaves this program serving.
fn perform(served: &dyn Served, prepared: Prepared, dry_run: bool) -> String {
    // Clients are served a moment before it is set.
    let performer = served.state().live_update.performer.wait();
    let Prepared { program, options } = prepared;
    performer(UpdateRequest { program, options, dry_run })
}

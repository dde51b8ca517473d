//! The commands of CONTROL (xenstore.txt; C's syntax and texts, so that Xen's `xenstore-control`
//! works as `xsctl control` does).
//!
//! What is short is answered at once. Whatever visits the whole store or waits for a file comes back
//! as [`Reply::Later`], to be run on a thread of its own, one at a time.

mod check;
mod conflicts;
mod logging;
mod quota;
mod report;

use std::time::Duration;

pub use conflicts::{Conflicts, Reason};

use crate::protocol::operations;
use crate::store::{Store, WatchList};
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::words::{Errno, PAYLOAD_BYTES_MAX};

/// What a command answers.
pub type Answer = Result<Vec<u8>, Errno>;

/// What commands need of the threads that serve clients.
pub trait Served: Send + Sync {
    /// The store.
    fn store(&self) -> &Arc<Store>;

    /// What commands keep between two requests.
    fn state(&self) -> &State;

    /// Counters of the moment.
    fn counters(&self) -> Counters;

    /// Asks every thread for its watches, and waits until all have answered or `patience` is over.
    fn watch_lists(&self, patience: Duration) -> Vec<WatchList>;

    /// How many threads there are.
    fn threads(&self) -> usize;
}

/// Numbers that only the threads know.
pub struct Counters {
    /// Clients on the socket.
    pub clients: u64,
    /// Turns of transactions that kept failing.
    pub turns: u64,
    /// Those that were over before their transaction was.
    pub turns_overdue: u64,
    /// Connections that wait for one.
    pub turns_awaited: usize,
    /// Paths that others may not write now.
    pub guarded: usize,
    /// Domains that died.
    pub deaths: u64,
}

/// What commands keep between two requests.
#[derive(Default)]
pub struct State {
    /// Transactions that were answered EAGAIN.
    pub conflicts: Conflicts,
    /// A command runs on a thread of its own.
    busy: AtomicBool,
}

/// What became of a command.
pub enum Reply {
    /// It is done.
    Now(Answer),
    /// It is to be run where it may take its time.
    Later(Work),
}

/// A command that takes its time. Others of its kind are refused until this is gone.
pub struct Work {
    permit: Permit,
    command: Box<Command>,
}

type Command = dyn FnOnce(&dyn Served) -> Answer + Send;

impl Work {
    /// Runs it.
    pub fn run(self) -> Answer {
        (self.command)(&*self.permit.0)
    }
}

/// To be the one that runs; ends with the command, also if that could not be started.
struct Permit(Arc<dyn Served>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.state().busy.store(false, Ordering::Release);
    }
}

/// A command: a row of the table.
struct Row {
    name: &'static str,
    /// As `help` shows them.
    arguments: &'static str,
    serve: fn(&Arc<dyn Served>, &[&[u8]]) -> Reply,
}

/// The commands. Those that are requests by another road (`operations::COMMANDS`) never come here.
static TABLE: [Row; 9] = [
    Row { name: "check", arguments: "", serve: check },
    Row {
        name: "log",
        arguments: "[on|off|+<switch>|-<switch>]",
        serve: |_, arguments| Reply::Now(logging::log(arguments)),
    },
    Row {
        name: "live-update",
        arguments: "not supported yet",
        serve: |_, _| Reply::Now(Ok(text(NO_LIVE_UPDATE))),
    },
    Row { name: "logfile", arguments: "<file>", serve: logfile },
    Row { name: "memreport", arguments: "[<file>]", serve: memreport },
    Row { name: "print", arguments: "<string>", serve: print },
    Row {
        name: "quota",
        arguments: "[set <name> <val>|<domid>|max [-r]]",
        serve: |served, arguments| Reply::Now(quota::hard(served.store().registry(), arguments)),
    },
    Row {
        name: "quota-soft",
        arguments: "[set <name> <val>]",
        serve: |served, arguments| Reply::Now(quota::soft(served.store().registry(), arguments)),
    },
    Row { name: "help", arguments: "", serve: help },
];

/// Whatever is not `OK` is shown by `xenstore-control live-update` as the reason of a failure.
const NO_LIVE_UPDATE: &str =
    "live update is not supported yet: this xenstored can only be restarted, without its store";

/// Runs a command, which is its name and its arguments.
pub fn command(served: &Arc<dyn Served>, words: &[&[u8]]) -> Reply {
    let Some((name, arguments)) = words.split_first() else { return invalid() };
    match TABLE.iter().find(|row| row.name.as_bytes() == *name) {
        Some(row) => (row.serve)(served, arguments),
        None => invalid(),
    }
}

fn check(served: &Arc<dyn Served>, arguments: &[&[u8]]) -> Reply {
    match arguments {
        [] => later(served, |served| Ok(text(&check::run(served)))),
        _ => invalid(),
    }
}

fn logfile(served: &Arc<dyn Served>, arguments: &[&[u8]]) -> Reply {
    let &[file] = arguments else { return invalid() };
    let file = logging::file(file);
    later(served, move |_| logging::logfile(&file))
}

/// Into the log, or appended to a file.
fn memreport(served: &Arc<dyn Served>, arguments: &[&[u8]]) -> Reply {
    match *arguments {
        [] => later(served, |served| {
            report::of(served).lines().for_each(|line| tracing::info!("{line}"));
            ack()
        }),
        [file] => {
            let file = logging::file(file);
            later(served, move |served| logging::append(&file, &report::of(served)))
        }
        _ => invalid(),
    }
}

fn print(_: &Arc<dyn Served>, arguments: &[&[u8]]) -> Reply {
    let &[string] = arguments else { return invalid() };
    Reply::Now(logging::print(string))
}

fn help(_: &Arc<dyn Served>, arguments: &[&[u8]]) -> Reply {
    if arguments.is_empty() { Reply::Now(Ok(text(&help_text()))) } else { invalid() }
}

/// Arguments that a command does not have, or no such command.
fn invalid() -> Reply {
    Reply::Now(Err(Errno::EINVAL))
}

/// A command that takes its time, unless one runs already.
fn later(
    served: &Arc<dyn Served>,
    command: impl FnOnce(&dyn Served) -> Answer + Send + 'static,
) -> Reply {
    if served.state().busy.swap(true, Ordering::AcqRel) {
        return Reply::Now(Err(Errno::EBUSY));
    }
    Reply::Later(Work { permit: Permit(Arc::clone(served)), command: Box::new(command) })
}

/// Writes the report of `memreport` to the log, beside the caller.
///
/// # Errors
/// `EBUSY` if a command runs that takes its time, `ENOMEM` if no thread can be started.
pub fn log_report(served: &Arc<dyn Served>) -> Result<(), Errno> {
    match command(served, &[b"memreport"]) {
        Reply::Now(done) => done.map(drop),
        Reply::Later(work) => {
            let thread = std::thread::Builder::new().name("control".into());
            thread.spawn(move || work.run()).map(drop).map_err(|_| Errno::ENOMEM)
        }
    }
}

/// A line for each command, `help` last.
fn help_text() -> String {
    let (own, last) = TABLE.split_at(TABLE.len() - 1);
    let requests = operations::COMMANDS.iter().map(|command| (command.name, command.arguments));
    let lines = |rows: &'static [Row]| rows.iter().map(|row| (row.name, row.arguments));
    let all = lines(own).chain(requests).chain(lines(last));
    all.map(|(name, arguments)| format!("{name:<24} {arguments}\n")).collect()
}

fn ack() -> Answer {
    Ok(text("OK"))
}

/// A text as a reply. One that is too long ends with the line that says so.
fn text(text: &str) -> Vec<u8> {
    const CUT: &str = "(the rest does not fit into a reply)";
    let mut bytes = text.as_bytes().to_vec();
    if bytes.len() >= PAYLOAD_BYTES_MAX {
        bytes.truncate(PAYLOAD_BYTES_MAX - 1 - CUT.len());
        let whole_lines = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        bytes.truncate(whole_lines);
        bytes.extend_from_slice(CUT.as_bytes());
    }
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_ends_with_a_line_that_says_so() {
        assert_eq!(text("OK"), b"OK\0");
        let cut = text(&"a line of this text\n".repeat(1000));
        assert!(cut.len() <= PAYLOAD_BYTES_MAX);
        assert!(cut.ends_with(b"text\n(the rest does not fit into a reply)\0"));
        assert!(help_text().len() < PAYLOAD_BYTES_MAX);
    }
}

//! The commands of CONTROL (xenstore.txt), with C xenstored's syntax and texts, so that Xen's `xenstore-control` works
//! as well as `xsctl control`.
//!
//! Short commands are executed immediately. Commands that walk the whole store or wait for a file are returned as
//! [`Reply::Later`] and run on their own thread, one at a time.

mod check;
mod conflicts;
mod live_update;
mod logging;
mod quota;
mod report;

use std::time::Duration;

pub use conflicts::{Conflicts, Reason};
pub use live_update::{LiveUpdate, Performer, UpdateRequest};

use crate::protocol::operations;
use crate::store::{Store, WatchList};
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::types::{Errno, PAYLOAD_BYTES_MAX};

/// The reply to a command.
pub type CommandResult = Result<Vec<u8>, Errno>;

/// The commands' interface to the threads that serve clients. The server implements it, as this layer is below the
/// server's.
pub trait Served: Send + Sync {
    /// Returns the store.
    fn store(&self) -> &Arc<Store>;

    /// Returns the state that commands keep between requests.
    fn state(&self) -> &State;

    /// Returns the current counters.
    fn counters(&self) -> Counters;

    /// Asks every thread for its watches and waits until all have replied or `timeout` has elapsed. Returns the lists
    /// of the threads that replied.
    fn watch_lists(&self, timeout: Duration) -> Vec<WatchList>;

    /// Returns the number of threads.
    fn threads(&self) -> usize;
}

/// Counters that only the serving threads maintain.
pub struct Counters {
    /// Connected socket clients.
    pub clients: u64,
    /// Reservations granted so far to transactions that kept failing.
    pub reservations: u64,
    /// Reservations that timed out before their transaction ended.
    pub reservations_overdue: u64,
    /// Connections waiting for a reservation.
    pub reservations_awaited: usize,
    /// Paths currently reserved, which other clients may not write.
    pub reserved: usize,
    /// Domains that died since the start.
    pub deaths: u64,
}

/// State that commands keep between requests.
#[derive(Default)]
pub struct State {
    /// Transactions that failed with EAGAIN.
    pub conflicts: Conflicts,
    /// The update that is prepared.
    pub live_update: LiveUpdate,
    /// Whether a command is running on its own thread.
    busy: AtomicBool,
}

/// The outcome of dispatching a command.
pub enum Reply {
    /// The command has finished.
    Now(CommandResult),
    /// The command is slow: the caller must run it on a thread that may block.
    Later(Work),
}

/// A slow command. Until the returned command is dropped, other slow commands fail with EBUSY.
pub struct Work {
    permit: Permit,
    command: Box<Command>,
}

type Command = dyn FnOnce(&dyn Served) -> CommandResult + Send;

impl Work {
    /// Runs the command. May block.
    pub fn run(self) -> CommandResult {
        (self.command)(&*self.permit.0)
    }
}

/// The permission to run the only slow command. Dropping the permission releases it, also if the command could not be
/// started.
struct Permit(Arc<dyn Served>);

impl Drop for Permit {
    fn drop(&mut self) {
        // Release: pairs with the exchange in `later`, so the next slow command sees all effects of this one.
        self.0.state().busy.store(false, Ordering::Release);
    }
}

/// A row of the command table.
struct Row {
    name: &'static str,
    /// The arguments as `help` shows them.
    arguments: &'static str,
    serve: fn(&Arc<dyn Served>, &[&[u8]]) -> Reply,
}

/// The command table. Commands that stand for wire requests (`operations::COMMANDS`) are dispatched elsewhere. `help`
/// is last, since `help_text` lists those commands before it.
static TABLE: [Row; 9] = [
    Row { name: "check", arguments: "", serve: check },
    Row {
        name: "log",
        arguments: "[on|off|+<switch>|-<switch>]",
        serve: |_, arguments| Reply::Now(logging::log(arguments)),
    },
    Row {
        name: "live-update",
        arguments: "-f <program>|-c <options>|-s [-n] [-t <s>] [-F]|-a|-r",
        serve: live_update::live_update,
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

/// Dispatches a command, given as its name and arguments.
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
    // Opening the file, and writing the queued lines to the old one, may take seconds.
    later(served, move |_| logging::logfile(&file))
}

/// Writes the report to the log, or appends it to a file.
fn memreport(served: &Arc<dyn Served>, arguments: &[&[u8]]) -> Reply {
    match *arguments {
        [] => later(served, |served| {
            // Line by line, since the log escapes a newline within a line.
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

/// The reply to an unknown command or invalid arguments.
fn invalid() -> Reply {
    Reply::Now(Err(Errno::EINVAL))
}

/// Returns a slow command, or EBUSY if one is running.
fn later(
    served: &Arc<dyn Served>,
    command: impl FnOnce(&dyn Served) -> CommandResult + Send + 'static,
) -> Reply {
    // One at a time: each has a thread and snapshots of the whole store, so a client in a loop must not start many.
    if served.state().busy.swap(true, Ordering::AcqRel) {
        return Reply::Now(Err(Errno::EBUSY));
    }
    Reply::Later(Work { permit: Permit(Arc::clone(served)), command: Box::new(command) })
}

/// Writes the report of `memreport` to the log, on a new thread.
///
/// # Errors
/// `EBUSY` if another slow command is running, `ENOMEM` if no thread can be started.
pub fn log_report(served: &Arc<dyn Served>) -> Result<(), Errno> {
    match command(served, &[b"memreport"]) {
        Reply::Now(done) => done.map(drop),
        Reply::Later(work) => {
            // The caller is the thread that handles signals, which must be free for the next one.
            let thread = std::thread::Builder::new().name("control".into());
            thread.spawn(move || work.run()).map(drop).map_err(|_| Errno::ENOMEM)
        }
    }
}

/// Returns a line for each command, `help` last.
fn help_text() -> String {
    let (own, last) = TABLE.split_at(TABLE.len() - 1);
    let requests = operations::COMMANDS.iter().map(|command| (command.name, command.arguments));
    let lines = |rows: &'static [Row]| rows.iter().map(|row| (row.name, row.arguments));
    let all = lines(own).chain(requests).chain(lines(last));
    all.map(|(name, arguments)| format!("{name:<24} {arguments}\n")).collect()
}

fn ack() -> CommandResult {
    Ok(text("OK"))
}

/// Encodes a text as a reply. A text that is too long is truncated at a line, and a last line says so.
fn text(text: &str) -> Vec<u8> {
    const TRUNCATED: &str = "(the rest does not fit into a reply)";
    let mut bytes = text.as_bytes().to_vec();
    // `>=`: one byte is for the NUL.
    if bytes.len() >= PAYLOAD_BYTES_MAX {
        bytes.truncate(PAYLOAD_BYTES_MAX - 1 - TRUNCATED.len());
        // A truncated line could pass for a whole one.
        let whole_lines = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        bytes.truncate(whole_lines);
        bytes.extend_from_slice(TRUNCATED.as_bytes());
    }
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oversized_text_is_truncated_with_a_notice() {
        assert_eq!(text("OK"), b"OK\0");
        let cut = text(&"a line of this text\n".repeat(1000));
        assert!(cut.len() <= PAYLOAD_BYTES_MAX);
        assert!(cut.ends_with(b"text\n(the rest does not fit into a reply)\0"));
        assert!(help_text().len() < PAYLOAD_BYTES_MAX);
    }
}

//! The process that is replaced: it lets the new program check its state, hands it over, and goes on if that fails.
//!
//! The thread of the CONTROL command waits for the new program; the main thread, which has the server, only saves a state
//! for the check, and hands over.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use mio::Waker;
use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};
use rustix::time::{ClockId, clock_gettime};
use tracing::{info, warn};

use super::candidate::Candidate;
use super::{CHECKED, FAILED, RESTORED, numbers};
use crate::control::{Performer, UpdateRequest};
use crate::daemon::keeper::Link;
use crate::daemon::stop::Stop;
use crate::host::{Channels, Host};
use crate::live_update::{SavedFiles, SavedProcess, Written, write};
use crate::log;
use crate::server::{Paused, Server};

/// The time that requests in progress have to end before an update.
const PAUSE_TIME_MAX: Duration = Duration::from_secs(5);
/// The time that the log has to be written.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(1);
/// Bytes of the state that are written to memory at a time.
const WRITTEN_AT_ONCE: usize = 1 << 20;
/// The reply to the client that requested the update.
const ACK: &[u8] = b"OK\0";
/// The sentence for an update that the main thread does not take any more.
const STOPPING: &str = "the daemon is stopping";

/// A state in memory, with the numbers of what it has.
type State = (OwnedFd, Written);

/// A part of an update, for the main thread.
enum Order {
    /// Saves a state for a check. The server goes on.
    Save(Sender<Result<State, String>>),
    /// Hands over to the program. Takes the reason if that fails.
    HandOver(Candidate, Sender<String>),
}

/// The parts of updates that the main thread performs.
pub struct Orders(Receiver<Order>);

impl Orders {
    /// Returns the orders, and the function that performs an update on the thread that calls it: it gives orders, and wakes
    /// the main thread. Only a process with a keeper can be replaced.
    pub fn new(waker: Arc<Waker>, has_keeper: bool) -> (Orders, Performer) {
        let (sender, receiver) = bounded(1);
        let order = move |order| {
            let sent = sender.send(order).map_err(|_| STOPPING.to_owned());
            sent.and_then(|()| waker.wake().map_err(|error| error.to_string()))
        };
        let perform = move |request: UpdateRequest| {
            let (began, program) = (Instant::now(), request.program.clone());
            let done = if has_keeper {
                perform(request, &order)
            } else {
                Err("this daemon was started with --no-keeper, and cannot be updated".into())
            };
            match &done {
                Ok(_) => info!(us = began.elapsed().as_micros(), "program of an update checked"),
                Err(error) => {
                    warn!(program = %program.display(), error, "live update failed, this program goes on");
                }
            }
            done.unwrap_or_else(|error| error)
        };
        (Orders(receiver), Box::new(perform))
    }

    /// Performs the next order, if there is one; `Err` returns the server without one. If the order hands over and that
    /// succeeds, this process ends; otherwise the server goes on.
    pub fn perform(
        &self,
        server: Server,
        process: &Process<'_>,
    ) -> io::Result<Result<Server, Server>> {
        match self.0.try_recv() {
            Err(_) => Ok(Err(server)),
            Ok(Order::Save(to)) => {
                let (server, state) = save(server)?;
                // The client may be gone.
                let _ = to.send(state);
                Ok(Ok(server))
            }
            Ok(Order::HandOver(candidate, to)) => {
                let (server, error) = process.replace(server, &candidate)?;
                let _ = to.send(error);
                Ok(Ok(server))
            }
        }
    }
}

/// Performs an update. Returns only if the program was to be checked only, with the reply.
///
/// # Errors
/// A sentence; this program goes on.
fn perform(
    request: UpdateRequest,
    order: &impl Fn(Order) -> Result<(), String>,
) -> Result<String, String> {
    let UpdateRequest { program, options, dry_run } = request;
    let candidate = Candidate::open(&program, options)?;
    let (to, saved) = bounded(1);
    order(Order::Save(to))?;
    let (state, written) = saved.recv().map_err(|_| STOPPING.to_owned())??;
    let numbers = check(&candidate, &state, &written);
    let numbers = numbers.map_err(|error| format!("{}: {error}", program.display()))?;
    if dry_run {
        return Ok(format!("OK, {numbers}"));
    }
    let (to, failed) = bounded(1);
    order(Order::HandOver(candidate, to))?;
    Err(failed.recv().unwrap_or_else(|_| STOPPING.to_owned()))
}

/// Lets a program read a state, and compares what it reports.
fn check(candidate: &Candidate, state: &OwnedFd, written: &Written) -> Result<String, String> {
    let expected = numbers(written);
    let mut started = candidate.start(state, None, &[])?;
    let report = started.report()?;
    match report.strip_prefix(CHECKED) {
        Some(read) if read == expected => Ok(expected),
        Some(read) => Err(format!("it read {read} of a state with {expected}")),
        None => Err(report.strip_prefix(FAILED).unwrap_or(&report).to_owned()),
    }
}

/// Saves a state of the server, which goes on.
fn save(server: Server) -> io::Result<(Server, Result<State, String>)> {
    match pause(server)? {
        Ok(mut paused) => {
            let state = in_memory(|file| write(&mut paused, None, None, file));
            Ok((paused.resume()?, state))
        }
        Err((server, error)) => Ok((server, Err(error))),
    }
}

/// What the process has beside its server.
pub struct Process<'a> {
    /// The host.
    pub host: Arc<dyn Host>,
    /// The requested stop, which ends an update.
    pub stop: &'a Stop,
    /// The keeper, without which a process cannot be replaced.
    pub link: Option<&'a Link>,
    /// Returns the daemon's sockets and lock files.
    pub files: &'a dyn Fn() -> SavedFiles,
}

/// Why an update failed, for its client, and the server, which goes on.
type Failed = (Server, String);

impl Process<'_> {
    /// Hands the state over and ends this process. Returns only after a failure.
    fn replace(&self, server: Server, candidate: &Candidate) -> io::Result<Failed> {
        let mut paused = match pause(server)? {
            Ok(paused) => paused,
            Err(failed) => return Ok(failed),
        };
        let error = match self.hand_over(&mut paused, candidate) {
            Ok(never) => match never {},
            Err(error) => format!("{}: {error}", candidate.path().display()),
        };
        Ok((paused.resume()?, error))
    }

    fn hand_over(&self, paused: &mut Paused, candidate: &Candidate) -> Result<Infallible, String> {
        let text = |error: io::Error| error.to_string();
        let channels = paused.channels().map(Channels::save).collect::<Result<_, _>>();
        let process = SavedProcess {
            host: self.host.save().map_err(text)?,
            channels: channels.map_err(text)?,
            files: (self.files)(),
            paused_at: now_ns(),
        };
        let mut inherited = process.descriptors();
        inherited.extend(paused.sockets().map(|socket| socket.as_raw_fd()));
        inherited.extend(self.link.map(AsRawFd::as_raw_fd));
        let (state, _) = in_memory(|file| write(paused, Some(ACK), Some(process), file))?;
        let (go, start) = io::pipe().map_err(text)?;
        let mut started = candidate.start(&state, Some(&go.into()), &inherited)?;
        let report = started.report()?;
        if report != RESTORED {
            return Err(report.strip_prefix(FAILED).unwrap_or(&report).to_owned());
        }
        if self.stop.is_requested() {
            return Err(STOPPING.into());
        }
        // From here on the new program serves, and this one must not.
        let go = File::from(OwnedFd::from(start)).write_all(b"go");
        go.map_err(|error| format!("it has ended: {error}"))?;
        self.host.let_go();
        if let Some(link) = self.link {
            // If this fails, the keeper has ended, and the new program stops, too.
            let _ = link.report_serving(started.pid());
        }
        // A signal that came meanwhile was meant for the daemon, whichever process it is.
        if self.stop.is_requested() {
            started.terminate();
        }
        started.release();
        info!("live update done, another process goes on");
        log::flush(FLUSH_TIME_MAX);
        // Nothing is dropped: files and sockets belong to the other process now.
        std::process::exit(0);
    }
}

/// Pauses the server for the client that requested the update.
fn pause(server: Server) -> io::Result<Result<Paused, Failed>> {
    match server.pause(1, PAUSE_TIME_MAX) {
        Ok(paused) => Ok(Ok(paused)),
        Err((server, error)) => Ok(Err((server?, error.to_string()))),
    }
}

/// Writes a state to memory.
fn in_memory(
    write: impl FnOnce(BufWriter<File>) -> io::Result<(BufWriter<File>, Written)>,
) -> Result<State, String> {
    let text = |error: io::Error| format!("the state cannot be written: {error}");
    let state = memfd_create("xenstored-state", MemfdFlags::CLOEXEC);
    let state = state.map_err(|error| text(error.into()))?;
    let output = BufWriter::with_capacity(WRITTEN_AT_ONCE, state.into());
    let (output, written) = write(output).map_err(text)?;
    let state: OwnedFd = output.into_inner().map_err(|error| text(error.into_error()))?.into();
    seek(&state, SeekFrom::Start(0)).map_err(|error| text(error.into()))?;
    Ok((state, written))
}

/// Returns the monotonic clock, which processes share, in nanoseconds.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

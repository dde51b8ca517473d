//! The process that is replaced: it checks the new program, hands its state over, and goes on if that fails.

use std::fs::File;
use std::io::Write;
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
use crate::control::UpdateRequest;
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
/// The reply to the client that requested the update.
const ACK: &[u8] = b"OK\0";

/// The requests for updates, for the thread that performs them.
pub struct Requests {
    receiver: Receiver<UpdateRequest>,
}

impl Requests {
    /// Returns the requests, and the function that hands one over and wakes the thread.
    pub fn new(waker: Arc<Waker>) -> (Requests, Box<dyn Fn(UpdateRequest) -> bool + Send + Sync>) {
        let (sender, receiver): (Sender<UpdateRequest>, _) = bounded(1);
        let hand_over = move |request| {
            let is_taken = sender.try_send(request).is_ok();
            is_taken && waker.wake().is_ok()
        };
        (Requests { receiver }, Box::new(hand_over))
    }

    /// Returns the next request, if there is one.
    pub fn next(&self) -> Option<UpdateRequest> {
        self.receiver.try_recv().ok()
    }
}

/// What the process has beside its server.
pub struct Performer<'a> {
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

impl Performer<'_> {
    /// Performs an update. If it succeeds this process ends; otherwise returns the server, which goes on.
    ///
    /// # Errors
    /// The server cannot go on.
    pub fn perform(&self, server: Server, request: UpdateRequest) -> std::io::Result<Server> {
        let UpdateRequest { program, options, dry_run, result } = request;
        let began = Instant::now();
        let (server, sentence) = match self.check(server, &program, options)? {
            Ok((server, _, checked)) if dry_run => (server, Ok(format!("OK, {checked}"))),
            Ok((server, candidate, _)) => {
                let (server, error) = self.replace(server, &candidate)?;
                (server, Err(error))
            }
            Err((server, error)) => (server, Err(error)),
        };
        if let Err(error) = &sentence {
            warn!(program = %program.display(), error, "live update failed, this program goes on");
        }
        let lasted = began.elapsed();
        info!(us = lasted.as_micros(), dry_run, "live update ended");
        // The client may be gone.
        let _ = result.send(sentence);
        Ok(server)
    }

    /// Lets a program check the present state. The server goes on meanwhile.
    fn check(
        &self,
        server: Server,
        program: &std::path::Path,
        options: Option<Vec<String>>,
    ) -> std::io::Result<Result<(Server, Candidate, String), Failed>> {
        if self.link.is_none() {
            let why = "this daemon was started with --no-keeper, and cannot be updated";
            return Ok(Err((server, why.into())));
        }
        let candidate = match Candidate::open(program, options) {
            Ok(candidate) => candidate,
            Err(error) => return Ok(Err((server, error))),
        };
        let mut paused = match pause(server)? {
            Ok(paused) => paused,
            Err(failed) => return Ok(Err(failed)),
        };
        let state = in_memory(|file| write(&mut paused, None, None, file));
        let server = paused.resume()?;
        let checked = state.and_then(|(state, written)| {
            let expected = numbers(&written);
            let mut started = candidate.start(&state, None, &[])?;
            match started.report()?.strip_prefix(CHECKED) {
                Some(report) if report == expected => Ok(expected),
                Some(report) => Err(format!("it read {report} of a state with {expected}")),
                None => Err("it cannot read the state".into()),
            }
        });
        let named = |error| format!("{}: {error}", program.display());
        Ok(match checked.map_err(named) {
            Ok(checked) => Ok((server, candidate, checked)),
            Err(error) => Err((server, error)),
        })
    }

    /// Hands the state over and ends this process. Returns only after a failure.
    fn replace(&self, server: Server, candidate: &Candidate) -> std::io::Result<Failed> {
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

    fn hand_over(
        &self,
        paused: &mut Paused,
        candidate: &Candidate,
    ) -> Result<std::convert::Infallible, String> {
        let text = |error: std::io::Error| error.to_string();
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
        let (go, start) = std::io::pipe().map_err(text)?;
        let mut started = candidate.start(&state, Some(&go.into()), &inherited)?;
        let report = started.report()?;
        if report != RESTORED {
            return Err(report.strip_prefix(FAILED).unwrap_or(&report).to_owned());
        }
        if self.stop.is_requested() {
            return Err("the daemon is stopping".into());
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
fn pause(server: Server) -> std::io::Result<Result<Paused, Failed>> {
    match server.pause(1, PAUSE_TIME_MAX) {
        Ok(paused) => Ok(Ok(paused)),
        Err((server, error)) => Ok(Err((server?, error.to_string()))),
    }
}

/// Writes a state to memory.
fn in_memory(
    write: impl FnOnce(std::io::BufWriter<File>) -> std::io::Result<(std::io::BufWriter<File>, Written)>,
) -> Result<(OwnedFd, Written), String> {
    let text = |error: std::io::Error| format!("the state cannot be written: {error}");
    let state = memfd_create("xenstored-state", MemfdFlags::CLOEXEC);
    let state = state.map_err(|error| text(error.into()))?;
    let (output, written) =
        write(std::io::BufWriter::with_capacity(1 << 20, state.into())).map_err(text)?;
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

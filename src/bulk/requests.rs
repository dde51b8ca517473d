//! The requests of the migration socket, from a message to the answers.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno as SystemErrno;

use super::Outcome;
use super::socket::{Request, receive, send};
use super::{discard, export, import, states};
use crate::log::Unaccepted;
use crate::protocol::operations::{DOMAINS_MAX, MigrationRequest, Parser, Range, Row};
use crate::protocol::{Header, ReplySlot};
use crate::shard::Mover;
use crate::words::{Domid, Errno};

/// Clients that are served at once: each is a thread, and what it has in memory. A toolstack that empties
/// a host has two or three.
const CLIENTS_MAX: usize = 8;

/// The last answer to a request.
const ACK: &[u8] = b"OK\0";

/// Who serves the migration socket.
struct Crew {
    listener: UnixListener,
    mover: Mover,
    /// How many threads there are.
    threads: AtomicUsize,
    /// How many of them wait for a client.
    waiting: AtomicUsize,
    unaccepted: Unaccepted,
}

/// Serves clients that connect, each by a thread of its own, as long as the process runs. One thread
/// waits; whoever is the last to wait and gets a client has another one wait. A thread whose client has
/// left waits again: a move has many clients one after another, and a new thread maps its memory anew.
///
/// # Errors
/// The system refuses a thread.
pub fn serve(listener: UnixListener, mover: Mover) -> io::Result<()> {
    let (threads, waiting) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let unaccepted = Unaccepted::of("migration");
    join(&Arc::new(Crew { listener, mover, threads, waiting, unaccepted }))
}

/// One more thread, unless there are as many as may be.
fn join(crew: &Arc<Crew>) -> io::Result<()> {
    if crew.threads.fetch_add(1, Ordering::SeqCst) >= CLIENTS_MAX {
        crew.threads.fetch_sub(1, Ordering::SeqCst);
        return Ok(());
    }
    crew.waiting.fetch_add(1, Ordering::SeqCst);
    let its_crew = Arc::clone(crew);
    let thread = std::thread::Builder::new().name("migration".into());
    thread.spawn(move || serve_clients(&its_crew)).map(drop).inspect_err(|_| {
        crew.threads.fetch_sub(1, Ordering::SeqCst);
        crew.waiting.fetch_sub(1, Ordering::SeqCst);
    })
}

fn serve_clients(crew: &Arc<Crew>) {
    loop {
        let client = crew.listener.accept();
        let was_last = crew.waiting.fetch_sub(1, Ordering::SeqCst) == 1;
        // Without one more the next client waits for this one's end.
        let joined = if was_last { join(crew) } else { Ok(()) };
        if let Err(error) = &joined {
            tracing::warn!(%error, "a thread for the migration socket cannot be had");
        }
        let end = match client {
            Ok((client, _)) => serve_client(&client, crew),
            Err(error) => {
                crew.unaccepted.warn(&error);
                std::thread::sleep(PAUSE);
                End::Gone
            }
        };
        if end == End::Gone {
            crew.waiting.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// How the service of a client ended.
#[derive(PartialEq, Eq)]
enum End {
    /// It left, or was given up.
    Gone,
    /// It was idle while another client waited: this thread is counted among those that wait already.
    MadeRoom,
}

/// When no descriptors are to be had, it is tried again after this long.
const PAUSE: Duration = Duration::from_millis(200);

/// A client that takes no answer for so long is given up.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// A client that sends nothing for so long gives way, if others wait and no thread is left for them.
const IDLE_TIME_MAX: Duration = Duration::from_secs(5);
/// How often such a client is looked at.
const IDLE_LOOK: Duration = Duration::from_millis(500);

fn serve_client(client: &UnixStream, crew: &Crew) -> End {
    let timeouts = client.set_write_timeout(Some(ANSWER_PATIENCE));
    // Half a request has as long as an answer.
    if let Err(error) = timeouts.and_then(|()| client.set_read_timeout(Some(ANSWER_PATIENCE))) {
        tracing::warn!(%error, "a client of the migration socket is not served");
        return End::Gone;
    }
    loop {
        if !wait_for_request(client, crew) {
            tracing::info!("an idle client of the migration socket made room for another");
            return End::MadeRoom;
        }
        let request = match receive(client) {
            Ok(Some(request)) => request,
            Ok(None) => return End::Gone,
            Err(error) => {
                tracing::info!(%error, "a client of the migration socket is given up");
                return End::Gone;
            }
        };
        let mut answers = Answers::to(client, request.header);
        let result = perform(&crew.mover, request, &mut answers);
        if let Err(error) = answers.end(result) {
            tracing::info!(%error, "an answer of the migration socket was not taken");
            return End::Gone;
        }
    }
}

/// Waits until there is something to receive; `false` if the client was idle for too long while another
/// waited, in whose favour this thread has been counted among those that wait.
fn wait_for_request(client: &UnixStream, crew: &Crew) -> bool {
    let began = Instant::now();
    while !is_readable(client, IDLE_LOOK) {
        let is_idle = began.elapsed() >= IDLE_TIME_MAX;
        let waiting = &crew.waiting;
        if is_idle
            && waiting.load(Ordering::SeqCst) == 0
            && is_readable(&crew.listener, Duration::ZERO)
            // One makes room, not all.
            && waiting.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        {
            return false;
        }
    }
    true
}

/// Whether something can be received, or the end, within a time. Of an error the caller hears when it
/// receives.
fn is_readable(socket: &impl AsFd, time_max: Duration) -> bool {
    let timeout = Timespec::try_from(time_max).ok();
    let mut polled = [PollFd::new(socket, PollFlags::IN)];
    match poll(&mut polled, timeout.as_ref()) {
        Ok(ready) => ready > 0,
        Err(SystemErrno::INTR) => false,
        Err(_) => true,
    }
}

/// The answers to a request, in few pieces, since each wakes the client: what became of all its domains is
/// one, of an import what became of those of a stream; and the last one goes with the end.
struct Answers<'c> {
    client: &'c UnixStream,
    header: Header,
    /// Pieces that are to come.
    left: usize,
    pending: Vec<u8>,
    /// If somebody does not take them any more, the rest is done all the same.
    taken: io::Result<()>,
}

impl Answers<'_> {
    fn to(client: &UnixStream, header: Header) -> Answers<'_> {
        Answers { client, header, left: 1, pending: Vec::new(), taken: Ok(()) }
    }

    /// What became of the domains of one piece.
    fn add(&mut self, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            self.pending.extend(message(&self.header, Ok(&show(&outcome))));
        }
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            self.send();
        }
    }

    fn end(mut self, result: Result<(), Errno>) -> io::Result<()> {
        self.pending.extend(message(&self.header, result.map(|()| ACK)));
        self.send();
        self.taken
    }

    fn send(&mut self) {
        if self.taken.is_ok() {
            self.taken = send(self.client, &self.pending);
        }
        self.pending.clear();
    }
}

fn perform(mover: &Mover, request: Request, answers: &mut Answers<'_>) -> Result<(), Errno> {
    let Request { header, payload, descriptors } = request;
    let parse = match Row::of(header.kind.get()).map(|row| row.parser) {
        Some(Parser::Migration(parse)) => parse,
        Some(Parser::Payload(_) | Parser::Arguments(_)) | None => return Err(Errno::ENOSYS),
    };
    match parse(&payload)? {
        MigrationRequest::Export(ranges) => {
            let domids = few(domids(mover, &ranges, introduced)?)?;
            answers.add(export::export(mover, &domids, descriptors)?);
        }
        MigrationRequest::Import(only_check) => {
            if descriptors.is_empty() {
                return Err(Errno::EINVAL);
            }
            answers.left = descriptors.len();
            import::import(mover, descriptors, only_check, |outcomes| answers.add(outcomes));
        }
        MigrationRequest::Discard(ranges) => {
            let domids = few(domids(mover, &ranges, Mover::arrived)?)?;
            answers.add(discard::discard(mover, &domids));
        }
        MigrationRequest::States(ranges) => {
            let domids = domids(mover, &ranges, |_, known| known.to_vec())?;
            answers.left = domids.len().div_ceil(states::AT_ONCE).max(1);
            states::states(mover, &domids, |outcomes| answers.add(outcomes));
        }
    }
    Ok(())
}

/// Those of some domains that are introduced.
fn introduced(mover: &Mover, domids: &[Domid]) -> Vec<Domid> {
    let registry = mover.store().registry();
    let is_introduced =
        |domid: &&Domid| registry.get(**domid).is_some_and(|domain| domain.is_introduced());
    domids.iter().filter(is_introduced).copied().collect()
}

/// Returns the domains of some ranges, each once, by number. The known domains that a range stands for are
/// `meant`'s to choose.
fn domids(
    mover: &Mover,
    ranges: &[Range],
    meant: fn(&Mover, &[Domid]) -> Vec<Domid>,
) -> Result<Vec<Domid>, Errno> {
    let registry = mover.store().registry();
    let mut domids = Vec::new();
    for &range in ranges {
        let (Range::One(first) | Range::Known(first, _)) = range;
        if registry.is_privileged(first) {
            return Err(Errno::EINVAL);
        }
        match range {
            Range::One(domid) => domids.push(domid),
            Range::Known(first, last) => {
                let is_known = |&domid: &Domid| {
                    registry.get(domid).is_some() && !registry.is_privileged(domid)
                };
                let known: Vec<_> = (first.0..=last.0).map(Domid).filter(is_known).collect();
                domids.extend(meant(mover, &known));
            }
        }
    }
    domids.sort_unstable();
    domids.dedup();
    Ok(domids)
}

/// Domains that stand still together.
fn few(domids: Vec<Domid>) -> Result<Vec<Domid>, Errno> {
    if domids.len() > DOMAINS_MAX { Err(Errno::E2BIG) } else { Ok(domids) }
}

/// An outcome as strings: the domain, `OK` and the words; or the domain, the error, a sentence.
fn show(outcome: &Outcome) -> Vec<u8> {
    let domid = outcome.domid.map_or("-".into(), |domid| domid.to_string());
    let strings: Vec<String> = match &outcome.result {
        Ok(words) => ["OK".into()].into_iter().chain(words.iter().cloned()).collect(),
        Err((errno, why)) => vec![errno.to_string(), why.replace('\0', " ")],
    };
    let strings = [domid].into_iter().chain(strings);
    strings.flat_map(|string| [string.into_bytes(), vec![0]]).flatten().collect()
}

fn message(request: &Header, payload: Result<&[u8], Errno>) -> Vec<u8> {
    let mut message = Vec::new();
    let slot = ReplySlot::begin(&mut message, request);
    message.extend_from_slice(payload.unwrap_or_default());
    slot.finish(&mut message, payload.map(|_| ()));
    message
}

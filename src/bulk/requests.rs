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
use crate::protocol::{Header, ReplySlot, decimal, strings};
use crate::shard::Mover;
use crate::words::{Domid, Errno};

/// Clients that are served at once: each is a thread, and what it has in memory. A toolstack that empties
/// a host has two or three.
const CLIENTS_MAX: usize = 8;

/// Domains in one request: its pause is theirs all together, and all have their descriptors or one.
const DOMAINS_MAX: usize = 256;

/// The last answer to a request.
const ACK: &[u8] = b"OK\0";

/// An operation of the migration socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Operation {
    /// Quiesce domains and write their streams.
    ExportDomains = 65552,
    /// Read streams, and put in place what arrives.
    ImportDomains,
    /// Take imports back.
    DiscardDomains,
    /// Say in which state domains are.
    DomainStates,
}

impl Operation {
    /// All of them.
    pub const ALL: [Operation; 4] = [
        Operation::ExportDomains,
        Operation::ImportDomains,
        Operation::DiscardDomains,
        Operation::DomainStates,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Operation::ExportDomains => "EXPORT_DOMAINS",
            Operation::ImportDomains => "IMPORT_DOMAINS",
            Operation::DiscardDomains => "DISCARD_DOMAINS",
            Operation::DomainStates => "DOMAIN_STATES",
        }
    }
}

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
    let number = header.kind.get();
    let operation = Operation::ALL.into_iter().find(|&operation| operation as u32 == number);
    match operation.ok_or(Errno::ENOSYS)? {
        Operation::ExportDomains => {
            let domids = few(domids(mover, &payload, introduced)?)?;
            answers.add(export::export(mover, &domids, descriptors)?);
        }
        Operation::ImportDomains => {
            let only_check = match &*payload {
                b"" => false,
                b"check\0" => true,
                _ => return Err(Errno::EINVAL),
            };
            if descriptors.is_empty() {
                return Err(Errno::EINVAL);
            }
            answers.left = descriptors.len();
            import::import(mover, descriptors, only_check, |outcomes| answers.add(outcomes));
        }
        Operation::DiscardDomains => {
            let domids = few(domids(mover, &payload, Mover::arrived)?)?;
            answers.add(discard::discard(mover, &domids));
        }
        Operation::DomainStates => {
            let domids = domids(mover, &payload, |_, known| known.to_vec())?;
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

/// The domains of `<domid>` and `<first>-<last>`, each once, by number. Which ones a range stands
/// for is `meant`'s to say of those that are known.
fn domids(
    mover: &Mover,
    payload: &[u8],
    meant: fn(&Mover, &[Domid]) -> Vec<Domid>,
) -> Result<Vec<Domid>, Errno> {
    if payload.last() != Some(&0) {
        return Err(Errno::EINVAL);
    }
    let registry = mover.store().registry();
    let guest = |digits: &[u8]| {
        let domid = Domid::parse(digits).ok_or(Errno::EINVAL)?;
        if registry.is_privileged(domid) { Err(Errno::EINVAL) } else { Ok(domid) }
    };
    let mut domids = Vec::new();
    for part in strings(payload) {
        match part.iter().position(|&byte| byte == b'-') {
            None => domids.push(guest(part)?),
            Some(at) => {
                let (first, last) = (guest(&part[..at])?, decimal::<u16>(&part[at + 1..])?);
                let is_known = |&domid: &Domid| {
                    registry.get(domid).is_some() && !registry.is_privileged(domid)
                };
                let known: Vec<_> = (first.0..=last).map(Domid).filter(is_known).collect();
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

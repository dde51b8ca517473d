//! The clients of the migration socket: their threads, and the preemption of idle clients.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno as SystemErrno;

use super::message::receive;
use super::requests::{Replies, perform};
use crate::log::Unaccepted;
use crate::server::{Author, OwnerThreads};
use crate::types::Domid;

/// Maximum number of clients served at once: each occupies a thread, and the memory of its request. A toolstack that
/// evacuates a host has two or three.
const CLIENTS_MAX: usize = 8;

/// The shared state of the threads that serve the migration socket.
struct Crew {
    listener: UnixListener,
    owners: OwnerThreads,
    /// Number of threads.
    threads: AtomicUsize,
    /// Number of threads that wait for a client.
    waiting: AtomicUsize,
    unaccepted: Unaccepted,
}

/// Serves connecting clients for the life of the process, each on a thread of its own. When the last thread that waits
/// in accept gets a client, it starts another one, up to `CLIENTS_MAX`. A thread whose client has left waits again
/// instead of ending, since a migration has many clients in sequence and a new thread maps its memory anew.
///
/// # Errors
/// The system refuses a thread.
pub fn serve(listener: UnixListener, owners: OwnerThreads) -> io::Result<()> {
    let (threads, waiting) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let unaccepted = Unaccepted::of("migration");
    join(&Arc::new(Crew { listener, owners, threads, waiting, unaccepted }))
}

/// Starts another thread, unless [`CLIENTS_MAX`] are running.
fn join(crew: &Arc<Crew>) -> io::Result<()> {
    // Counted before the comparison, so that concurrent calls cannot exceed the limit.
    if crew.threads.fetch_add(1, Ordering::SeqCst) >= CLIENTS_MAX {
        crew.threads.fetch_sub(1, Ordering::SeqCst);
        return Ok(());
    }
    // Counted before the thread runs, or a busy crew would start yet another.
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
        // Without another thread the next client would wait until this one leaves.
        let joined = if was_last { join(crew) } else { Ok(()) };
        if let Err(error) = &joined {
            tracing::warn!(%error, "cannot start a thread for the migration socket");
        }
        let end = match client {
            Ok((client, _)) => serve_client(&client, crew),
            Err(error) => {
                crew.unaccepted.warn(&error);
                std::thread::sleep(PAUSE);
                End::Gone
            }
        };
        // A thread that made room is counted by `wait_for_request` already.
        if end == End::Gone {
            crew.waiting.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// The reason why the service of a client ended.
#[derive(PartialEq, Eq)]
enum End {
    /// The client left or failed.
    Gone,
    /// The client was idle while another one waited; this thread is already counted as waiting.
    MadeRoom,
}

/// Back-off after a failed accept, such as when no descriptors are available.
const PAUSE: Duration = Duration::from_millis(200);

/// Time after which a client that does not read a reply is disconnected.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Time after which an idle client is disconnected, if others wait and all threads are occupied.
const IDLE_TIME_MAX: Duration = Duration::from_secs(5);
/// Interval of the checks of an idle client.
const IDLE_LOOK: Duration = Duration::from_millis(500);

fn serve_client(client: &UnixStream, crew: &Crew) -> End {
    let timeouts = client.set_write_timeout(Some(REPLY_TIMEOUT));
    // A partial request has the same timeout as a reply.
    if let Err(error) = timeouts.and_then(|()| client.set_read_timeout(Some(REPLY_TIMEOUT))) {
        tracing::warn!(%error, "cannot serve a migration client");
        return End::Gone;
    }
    // Once for a connection, since it reads /proc.
    let owners = crew.owners.on_behalf_of(Author::of(Domid::CONTROL, pid(client)));
    loop {
        if !wait_for_request(client, crew) {
            tracing::info!("idle migration client closed to serve another");
            return End::MadeRoom;
        }
        let request = match receive(client) {
            Ok(Some(request)) => request,
            Ok(None) => return End::Gone,
            Err(error) => {
                tracing::info!(%error, "migration client closed, cannot receive a request");
                return End::Gone;
            }
        };
        // A live update pauses the server between two requests.
        let entered = owners.enter();
        let mut replies = Replies::to(client, request.header);
        let result = perform(&owners, request, &mut replies);
        let sent = replies.end(result);
        drop(entered);
        if let Err(error) = sent {
            tracing::info!(%error, "migration client closed, cannot send a reply");
            return End::Gone;
        }
    }
}

/// Returns the process that connected.
fn pid(client: &UnixStream) -> Option<u32> {
    let credentials = rustix::net::sockopt::socket_peercred(client).ok()?;
    u32::try_from(credentials.pid.as_raw_nonzero().get()).ok()
}

/// Waits until a request can be received. Returns `false` if the client was idle for too long while another one
/// waited; this thread is then counted as waiting.
fn wait_for_request(client: &UnixStream, crew: &Crew) -> bool {
    let began = Instant::now();
    // In slices: whether another client waits can change without a sign on this socket.
    while !is_readable(client, IDLE_LOOK) {
        let is_idle = began.elapsed() >= IDLE_TIME_MAX;
        let waiting = &crew.waiting;
        if is_idle
            && waiting.load(Ordering::SeqCst) == 0
            && is_readable(&crew.listener, Duration::ZERO)
            // The compare-exchange disconnects only one idle client per waiting one.
            && waiting.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        {
            return false;
        }
    }
    true
}

/// Returns whether data or the end of stream arrives within a time. An error counts as readable: the caller sees it
/// when it receives.
fn is_readable(socket: &impl AsFd, time_max: Duration) -> bool {
    let timeout = Timespec::try_from(time_max).ok();
    let mut polled = [PollFd::new(socket, PollFlags::IN)];
    match poll(&mut polled, timeout.as_ref()) {
        Ok(ready) => ready > 0,
        // A signal: the caller looks again.
        Err(SystemErrno::INTR) => false,
        Err(_) => true,
    }
}

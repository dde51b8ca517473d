//! The clients of the migration socket: the threads that serve them, and when one gives way to another.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno as SystemErrno;

use super::message::receive;
use super::requests::{Answers, perform};
use crate::log::Unaccepted;
use crate::shard::OwnerThreads;

/// Clients that are served at once: each is a thread, and what it has in memory. A toolstack that empties
/// a host has two or three.
const CLIENTS_MAX: usize = 8;

/// Who serves the migration socket.
struct Crew {
    listener: UnixListener,
    owners: OwnerThreads,
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
pub fn serve(listener: UnixListener, owners: OwnerThreads) -> io::Result<()> {
    let (threads, waiting) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let unaccepted = Unaccepted::of("migration");
    join(&Arc::new(Crew { listener, owners, threads, waiting, unaccepted }))
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
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that sends nothing for so long gives way, if others wait and no thread is left for them.
const IDLE_TIME_MAX: Duration = Duration::from_secs(5);
/// How often such a client is looked at.
const IDLE_LOOK: Duration = Duration::from_millis(500);

fn serve_client(client: &UnixStream, crew: &Crew) -> End {
    let timeouts = client.set_write_timeout(Some(REPLY_TIMEOUT));
    // Half a request has as long as an answer.
    if let Err(error) = timeouts.and_then(|()| client.set_read_timeout(Some(REPLY_TIMEOUT))) {
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
        let result = perform(&crew.owners, request, &mut answers);
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

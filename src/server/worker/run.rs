//! A worker's passes.
//!
//! A pass waits for events, handles messages, serves the ready connections a quantum each, and wakes the workers to
//! which it has pushed. All requests run to completion within it, from bytes in to bytes out.

use std::io;
use std::time::Duration;

use mio::{Events, Token};

use super::connection::Stream;
use super::messages::take_messages;
use super::serving::serve_ready;
use super::snapshots::give_up_snapshots;
use super::ticks::{fire_timers, tick};
use super::{CHANNELS, WAKER, Worker};
use crate::server::mailbox::Slot;
use crate::sync::Ordering;

/// The poll interval while stopping. Other threads send the last replies too, and no message reports the last one.
const STOP_POLL: Duration = Duration::from_millis(5);
/// The number of events taken from one poll.
pub const EVENTS_PER_POLL: usize = 1024;

/// Runs passes until the worker is stopped.
pub fn run(mut worker: Worker) {
    let mut events = Events::with_capacity(EVENTS_PER_POLL);
    while !is_over(&worker) {
        let timeout = timeout(&worker);
        poll(&mut worker, &mut events, timeout);
        pass(&mut worker, &events);
    }
    finish(&mut worker);
}

/// Waits for events until the timeout.
pub fn poll(worker: &mut Worker, events: &mut Events, timeout: Option<Duration>) {
    if let Err(error) = worker.poll.poll(events, timeout)
        && error.kind() != io::ErrorKind::Interrupted
    {
        tracing::error!(%error, thread = worker.core.number, "poll failed");
    }
}

/// Handles events and everything else that is due, without waiting.
pub fn pass(worker: &mut Worker, events: &Events) {
    worker.core.now = (worker.core.shared.clock)();
    worker.inbox.begin_pass();
    for event in events {
        match event.token() {
            WAKER => {}
            CHANNELS => worker.channels.take_ports(&worker.core, &mut worker.clients),
            Token(slot) => socket_ready(worker, slot, event.is_read_closed()),
        }
    }
    worker.channels.recheck_host(&worker.core, &mut worker.clients);
    take_messages(worker);
    worker.core.former.take_out(&worker.core.shared.store);
    fire_timers(worker);
    worker.scan.run(&worker.core, &mut worker.clients);
    serve_ready(worker);
    give_up_snapshots(&mut worker.core, &mut worker.clients);
    tick(worker);
    // Quota reports are logged here, where no lock of the store is held.
    worker.core.registry().log_reports();
    // Workers are woken once a pass, so that many pushes to a worker cost one eventfd write.
    worker.core.shared.mailboxes.wake_all(worker.core.number);
}

/// Returns whether a stopping worker may end: no worker takes requests any more and each one taken has its reply, or
/// the timeout has passed.
fn is_over(worker: &Worker) -> bool {
    let (core, shared) = (&worker.core, &worker.core.shared);
    core.stopping.is_some_and(|until| {
        let threads = shared.mailboxes.0.len() as u64;
        let all_know = shared.stopping.load(Ordering::Acquire) == threads;
        let answered = shared.parked.load(Ordering::Relaxed) == 0;
        let is_idle = core.mailbox().is_empty() && worker.inbox.undelivered.is_empty();
        core.now >= until || all_know && answered && is_idle
    })
}

/// Returns the timeout of the poll before the next pass, from the beginning of the last one; `None` for no timeout.
pub fn timeout(worker: &Worker) -> Option<Duration> {
    let Worker { core, clients, inbox, .. } = worker;
    if core.stopping.is_some() {
        return Some(STOP_POLL);
    }
    let has_work = clients.has_ready() || !inbox.postponed.is_empty() || !core.former.is_empty();
    if has_work || !core.mailbox().may_sleep(|| inbox.has_events(core.mailbox())) {
        return Some(Duration::ZERO);
    }
    let snapshots = core.snapshots.next_due(&core.shared.store, core.now);
    let times = worker.timers.next().into_iter().chain(worker.channels.recheck_due(core.now));
    let next = times.chain(snapshots).chain(worker.scan.next()).min()?;
    Some(next.saturating_duration_since(core.now))
}

/// Handles readiness of a socket. The end of a socket's stream is reported only once, possibly before the preceding
/// bytes are read, so it is recorded.
fn socket_ready(worker: &mut Worker, slot: Slot, ends: bool) {
    if ends && let Some(connection) = worker.clients.get_mut(slot) {
        connection.stream = Stream::HalfClosed;
    }
    worker.clients.make_ready(slot);
}

/// Sends the last output, as far as clients take it.
fn finish(worker: &mut Worker) {
    for connection in worker.clients.iter_mut() {
        if !connection.session.is_quiesced() {
            // A client that does not read this output now loses it.
            let _ = connection.flush();
            if let Some(ring) = connection.ring()
                && ring.publish()
            {
                worker.channels.notify(ring.port);
            }
        }
    }
}

//! A worker's passes.
//!
//! A pass waits for events, handles messages, serves the ready connections a quantum each, and wakes the workers to
//! which it has pushed. All requests run to completion within it, from bytes in to bytes out.

use std::io;
use std::time::Duration;

use mio::{Events, Token};

use super::clients::Clients;
use super::connection::Stream;
use super::event_channels::EventChannels;
use super::inbox::Inbox;
use super::messages::take_messages;
use super::serving::serve_ready;
use super::snapshots::give_up_snapshots;
use super::ticks::{fire_timers, tick};
use super::{CHANNELS, WAKER, Worker};
use crate::server::mailbox::Slot;
use crate::server::session::core::{Core, Halt};
use crate::sync::Ordering;

/// The poll interval while stopping. Other threads send the last replies too, and no message reports the last one. A
/// poll costs a few microseconds, so this hardly delays a stop.
const STOP_POLL: Duration = Duration::from_millis(5);
/// The number of events taken from one poll.
pub const EVENTS_PER_POLL: usize = 1024;

/// Runs passes until the worker is stopped, or paused: then it is returned, to go on with.
pub fn run(mut worker: Worker) -> Option<Worker> {
    let mut events = Events::with_capacity(EVENTS_PER_POLL);
    while !is_over(&worker.core, &worker.inbox) {
        let timeout = timeout(&worker);
        poll(&mut worker, &mut events, timeout);
        pass(&mut worker, &events);
        if worker.core.halt == Some(Halt::Pause) {
            return Some(worker);
        }
    }
    finish(&mut worker.clients, &mut worker.channels);
    None
}

/// Waits for events until the timeout.
pub fn poll(worker: &mut Worker, events: &mut Events, timeout: Option<Duration>) {
    // Not fatal: a worker that ends would leave its domains without service.
    if let Err(error) = worker.poll.poll(events, timeout)
        && error.kind() != io::ErrorKind::Interrupted
    {
        tracing::error!(%error, thread = worker.core.number, "poll failed");
    }
}

/// Handles events and everything else that is due, without waiting.
pub fn pass(worker: &mut Worker, events: &Events) {
    // All timeouts of a pass are compared with one time.
    worker.core.now = (worker.core.shared.clock)();
    worker.inbox.begin_pass();
    for event in events {
        match event.token() {
            WAKER => {}
            CHANNELS => worker.channels.take_ports(&worker.core, &mut worker.clients),
            Token(slot) => socket_ready(&mut worker.clients, slot, event.is_read_closed()),
        }
    }
    // Before the messages, as it may post some to this worker itself.
    worker.channels.recheck_host(&worker.core, &mut worker.clients);
    // Before the clients, so that events and replies of other threads are sent in this pass.
    take_messages(worker);
    worker.core.former.take_out(&worker.core.shared.store);
    fire_timers(&mut worker.timers, &mut worker.clients, worker.core.now);
    worker.scan.run(&worker.core, &mut worker.clients);
    serve_ready(worker);
    give_up_snapshots(&mut worker.core, &mut worker.clients);
    tick(&worker.core, &mut worker.timers, &mut worker.clients);
    // Quota reports are logged here, where no lock of the store is held.
    worker.core.registry().log_reports();
    // Workers are woken once a pass, so that many pushes to a worker cost one eventfd write.
    worker.core.shared.mailboxes.wake_all(worker.core.number);
}

/// Returns whether a stopping worker may end: no worker takes requests any more and each one taken has its reply, or
/// the timeout has passed.
fn is_over(core: &Core, inbox: &Inbox) -> bool {
    let shared = &core.shared;
    let stops = match core.halt {
        Some(Halt::Stop(until)) => Some(until),
        Some(Halt::Pause) | None => None,
    };
    stops.is_some_and(|until| {
        let threads = shared.mailboxes.0.len() as u64;
        // Read before `parked`: once no worker takes requests, that number can only fall.
        let all_know = shared.stopping.load(Ordering::Acquire) == threads;
        let answered = shared.parked.load(Ordering::Relaxed) == 0;
        let is_idle = core.mailbox().is_empty() && inbox.undelivered.is_empty();
        core.now >= until || all_know && answered && is_idle
    })
}

/// Returns the timeout of the poll before the next pass, from the beginning of the last one; `None` for no timeout.
pub fn timeout(worker: &Worker) -> Option<Duration> {
    let Worker { core, clients, inbox, .. } = worker;
    if core.halt.is_some() {
        return Some(STOP_POLL);
    }
    // Work that no event of the poll would announce.
    let has_work = clients.has_ready() || !inbox.postponed.is_empty() || !core.former.is_empty();
    if has_work || !core.mailbox().may_sleep(|| inbox.has_events(core.mailbox())) {
        return Some(Duration::ZERO);
    }
    // Computed after each pass, since commits of other workers count as well.
    let snapshots = core.snapshots.next_due(&core.shared.store, core.now);
    let times = worker.timers.next().into_iter().chain(worker.channels.recheck_due(core.now));
    let next = times.chain(snapshots).chain(worker.scan.next()).min()?;
    Some(next.saturating_duration_since(core.now))
}

/// Handles readiness of a socket. The end of a socket's stream is reported only once, possibly before the preceding
/// bytes are read, so it is recorded.
fn socket_ready(clients: &mut Clients, slot: Slot, ends: bool) {
    if ends && let Some(connection) = clients.get_mut(slot) {
        connection.stream = Stream::HalfClosed;
    }
    clients.make_ready(slot);
}

/// Sends the last output, as far as clients take it.
fn finish(clients: &mut Clients, channels: &mut EventChannels) {
    for connection in clients.iter_mut() {
        // The page of a quiesced domain is not written, not even now.
        if !connection.session.is_quiesced() {
            // A client that does not read this output now loses it.
            let _ = connection.flush();
            if let Some(ring) = connection.ring()
                && ring.publish()
            {
                channels.notify(ring.port);
            }
        }
    }
}

//! One connection's quantum: bytes in, a bounded batch of requests, bytes out.

use mio::{Interest, Registry, Token};

use super::connection::{Connection, Flow, Stream};
use super::delivery::queue_deferred;
use super::ending::close;
use super::event_channels::EventChannels;
use super::messages::take_events;
use super::ready::{BUSY_TIME, Demand};
use super::rings::{give_up, reconnects};
use super::{READ_BYTES, Worker};
use crate::log;
use crate::protocol::{Frame, MESSAGE_BYTES_MAX, REQUEST_PAYLOAD_BYTES_MAX, frame};
use crate::server::requests::{Step, serve_first};
use crate::server::session::core::Core;
use crate::server::session::reservations::came_through;
use crate::server::session::{Parked, Pending};
use crate::store::Caller;
use crate::transport::{Disconnect, Input, RingError, Transport};

/// The limit on requests of one connection in one pass, so that others are served in between.
const REQUESTS_PER_PASS: usize = 64;
/// The limit on the cost of its transactions in one pass, in nodes created, removed, or looked up in a replay: a few
/// tenths of a millisecond.
const WORK_PER_PASS: u64 = 2048;
/// A connection is busy if its transactions cost more than this in a pass, which those of ordinary toolstacks and
/// drivers do not.
const BUSY_WORK: u64 = 256;
/// The capacity that an empty output buffer keeps.
const OUTPUT_KEPT_BYTES: usize = 32 << 10;

/// When a connection is served next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// When an event makes the connection ready.
    Event,
    /// In the next pass.
    Pass,
}

/// Serves each connection that was ready when the pass began; busy ones only for a limited time.
pub fn serve_ready(worker: &mut Worker) {
    // The ready connections are counted first: those made ready meanwhile wait for the next pass, so that this one
    // ends.
    let [busy, light] = [Demand::Busy, Demand::Light].map(|it| worker.clients.ready_count(it));
    for _ in 0..light {
        serve_next(worker, Demand::Light);
    }
    let clock = worker.core.shared.clock;
    // With a single busy connection there is no limit to compare with, and the clock costs a call.
    let began = if busy > 1 { clock() } else { worker.core.now };
    for left in (0..busy).rev() {
        serve_next(worker, Demand::Busy);
        if left > 0 && clock().duration_since(began) > BUSY_TIME {
            return;
        }
    }
}

/// Serves the first connection with this demand.
fn serve_next(worker: &mut Worker, demand: Demand) {
    let Some(slot) = worker.clients.next_ready(demand) else { return };
    let Some(mut connection) = worker.clients.take(slot) else { return };
    // The connection is out of the table meanwhile, so that requests may borrow both.
    let served = serve(worker, &mut connection)
        .and_then(|next| conclude_pass(worker, &mut connection, next));
    worker.clients.put_back(connection);
    match served {
        Ok(Next::Event) => {}
        Ok(Next::Pass) => worker.clients.make_ready(slot),
        Err(Disconnect::Gone) => close(worker, slot),
        Err(Disconnect::Broken(error)) => give_up(worker, slot, error),
    }
}

/// Ensures that a connection is served again when necessary. `next` is the requirement of the connection's ring.
fn conclude_pass(
    worker: &mut Worker,
    connection: &mut Connection,
    next: Next,
) -> Result<Next, Disconnect> {
    let core = &worker.core;
    let session = &mut connection.session;
    session.output.shrink(OUTPUT_KEPT_BYTES);
    let (slot, throttled) = (session.reply_to.connection, session.is_throttled(core));
    let flow = if throttled { Flow::Throttled } else { Flow::Free };
    if flow != connection.flow {
        connection.flow = flow;
        let domid = session.domid().0;
        tracing::trace!(target: log::WRL, domid, throttled, "throttling by a quota changed");
    }
    // The passing of time may make the connection ready: events expire, and a guest may make room without a
    // notification.
    if throttled || !session.output.is_empty() {
        worker.timers.begin_ticks(core.now, slot);
    } else {
        worker.timers.end_ticks(slot);
    }
    // Timers stay in the heap until they expire, so equal ones are not added again.
    if let Some(until) = session.next_timeout()
        && connection.timer != Some(until)
    {
        connection.timer = Some(until);
        worker.timers.set_deadline(until, slot);
    }
    listen_for_room(worker.poll.registry(), connection)?;
    // A held-back connection stays ready, since no notification reports that the backlog is gone.
    let (core, session) = (&worker.core, &connection.session);
    let behind = connection.is_held_back(core) && !session.is_quiesced();
    let again = behind || session.pending != Pending::Nothing && connection.may_read(core);
    let next = if again { Next::Pass } else { next };
    let is_busy = next == Next::Pass
        || !session.output.is_empty()
        || session.watches.has_deferred()
        || core.work > BUSY_WORK;
    connection.demand = if is_busy { Demand::Busy } else { Demand::Light };
    Ok(next)
}

/// Registers a socket for writability only while there is output for it: otherwise the worker would be woken each time
/// the client takes a reply.
///
/// # Errors
/// It cannot be registered: it would never be served again, so it is closed.
fn listen_for_room(registry: &Registry, connection: &mut Connection) -> Result<(), Disconnect> {
    let is_wanted = !connection.session.output.is_empty();
    if let Transport::Socket(socket) = &mut connection.transport
        && connection.interest.is_writable() != is_wanted
    {
        let room = Interest::READABLE | Interest::WRITABLE;
        let (interest, token) = (
            if is_wanted { room } else { Interest::READABLE },
            connection.session.reply_to.connection,
        );
        if let Err(error) = registry.reregister(socket, Token(token), interest) {
            tracing::warn!(%error, "client closed, its socket cannot be polled");
            return Err(Disconnect::Gone);
        }
        connection.interest = interest;
    }
    Ok(())
}

/// Serves a connection for a quantum. Returns when the connection has to be served next because of its guest's actions
/// meanwhile.
fn serve(worker: &mut Worker, connection: &mut Connection) -> Result<Next, Disconnect> {
    // The backlog is read once for the whole quantum: if `may_read` and the check afterwards read it separately, a
    // mailbox drained in between would leave the connection neither served nor ready.
    let backlog = worker.core.shared.mailboxes.backlog();
    if backlog != worker.core.backlog {
        tracing::trace!(target: log::WRL, ?backlog, "mailbox backlog changed");
    }
    (worker.core.backlog, worker.core.work) = (backlog, 0);
    if connection.session.is_quiesced() {
        connection.session.recharge_output();
        return Ok(Next::Event);
    }
    if reconnects(&mut worker.core, connection) || connection.stream == Stream::GivenUp {
        return Ok(end_pass(&worker.core, &mut worker.channels, connection));
    }
    if let Some(ring) = connection.ring() {
        ring.begin()?;
    }
    // The state has changed: the retried request checks whether it may proceed.
    let parked = &mut connection.session.parked;
    let waited = parked.take_if(|parked| matches!(parked, Parked::Reserved(_))).is_some();
    // Before the input: whether requests are taken depends on the room in the output.
    connection.flush()?;
    flush_deferred(&worker.core, connection)?;
    if connection.may_read(&worker.core) {
        let input = serve_requests(worker, connection)?;
        connection.flush()?;
        flush_deferred(&worker.core, connection)?;
        // A half-closed client still gets the replies to its requests.
        if input == Input::Closed && !connection.session.owes_anything() {
            return Err(Disconnect::Gone);
        }
    }
    // Whether it has written or not, or the next reservation would wait for the end of the gap.
    if waited {
        came_through(&worker.core, &connection.session);
    }
    Ok(end_pass(&worker.core, &mut worker.channels, connection))
}

/// Sends deferred events as far as there is room.
fn flush_deferred(core: &Core, connection: &mut Connection) -> Result<(), Disconnect> {
    if connection.session.watches.has_deferred() {
        queue_deferred(core, connection);
        connection.flush()?;
    }
    Ok(())
}

fn serve_requests(worker: &mut Worker, connection: &mut Connection) -> Result<Input, Disconnect> {
    let mut stage = std::mem::take(&mut worker.stage);
    stage.clear();
    stage.append(&mut connection.session.partial);
    let remainder = stage.len();
    // A whole message is buffered already, so the transport is not asked for more.
    let mut input = Input::More;
    if connection.session.pending == Pending::Nothing || remainder < MESSAGE_BYTES_MAX {
        input = connection.transport.read(&mut stage, READ_BYTES)?;
    }
    // Rights are read once a quantum; a change takes effect in the next one.
    let caller = connection.session.take_caller(&worker.core);
    let result = serve_messages(worker, connection, &caller, &stage);
    let session = &mut connection.session;
    session.caller = Some(caller);
    let used = *result.as_ref().unwrap_or(&0);
    let is_more = input == Input::More || connection.stream == Stream::HalfClosed;
    if is_more && input != Input::Closed && session.pending == Pending::Nothing {
        session.pending = Pending::Requests;
    }
    keep_rest(connection, &stage, used, remainder);
    // Also after an error: the buffer goes back to the worker.
    worker.stage = stage;
    result?;
    Ok(input)
}

/// Serves requests from the staged bytes, and returns the number of bytes consumed.
fn serve_messages(
    worker: &mut Worker,
    connection: &mut Connection,
    caller: &Caller,
    stage: &[u8],
) -> Result<usize, Disconnect> {
    let mut stream = stage;
    for _ in 0..REQUESTS_PER_PASS {
        let session = &mut connection.session;
        match serve_first(&mut worker.core, session, caller, stream) {
            Step::Served(rest) => stream = rest,
            Step::Incomplete | Step::Waits => return Ok(stage.len() - stream.len()),
            Step::TooLong(len) => {
                let most = REQUEST_PAYLOAD_BYTES_MAX;
                return Err(RingError::TooLong { len, most }.into());
            }
        }
        take_events(worker, connection);
        let core = &mut worker.core;
        // The backlog is never lowered within a quantum; see `serve`.
        core.backlog = core.backlog.max(core.shared.mailboxes.backlog());
        if core.work > WORK_PER_PASS || !connection.may_read(core) {
            break;
        }
    }
    // What is left was read already, so no notification will announce it.
    if !stream.is_empty() {
        connection.session.pending = Pending::Requests;
    }
    Ok(stage.len() - stream.len())
}

/// Ends a connection's quantum. For a ring it publishes the replies, then the consumed requests, sends one
/// notification, and unmasks the port.
///
/// A guest notifies only if it finds its request queue empty, or the reply queue full. So the guest may have written or
/// read without a notification between the reads and the publication here, and the ring is checked once more.
fn end_pass(core: &Core, channels: &mut EventChannels, connection: &mut Connection) -> Next {
    let reads = connection.may_read(core);
    let waits_for_room = !connection.session.output.is_empty();
    // The port of an abandoned ring stays unmasked, since the guest may request a reconnection.
    let listens = reads || waits_for_room || connection.stream == Stream::GivenUp;
    let slot = connection.session.reply_to.connection;
    let Some(ring) = connection.ring() else { return Next::Event };
    let (port, notify) = (ring.port, ring.publish());
    let unmask = listens && std::mem::take(&mut ring.masked);
    let has_news = reads && ring.has_requests() || waits_for_room && ring.has_room();
    if notify {
        channels.notify(port);
    }
    if unmask {
        channels.unmask(core, slot, port);
    }
    if has_news { Next::Pass } else { Next::Event }
}

/// Keeps the rest of the staged bytes, the first `remainder` of which were kept before. Whole requests of a ring that
/// have to wait stay in the page, for whichever worker or daemon serves the ring next. Half a request is taken out,
/// since a guest that has yet to write the other half notifies only a ring that it finds empty.
fn keep_rest(connection: &mut Connection, stage: &[u8], used: usize, remainder: usize) {
    let rest = &stage[used..];
    let Connection { session, transport, .. } = connection;
    match transport {
        Transport::Socket(_) => session.partial.extend_from_slice(rest),
        Transport::Ring(ring) => {
            if matches!(frame(rest), Frame::Incomplete(_)) {
                ring.consume(stage.len() - remainder);
                session.partial.extend_from_slice(rest);
            } else {
                ring.consume(used.saturating_sub(remainder));
                session.partial.extend_from_slice(stage.get(used..remainder).unwrap_or(&[]));
            }
        }
    }
}

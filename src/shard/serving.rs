//! One connection's part of a pass: bytes in, a bounded batch of requests, bytes out.

use std::time::Instant;

use mio::{Interest, Token};

use super::connection::{Connection, Parked};
use super::mailbox::Backlog;
use super::ready::BUSY_TIME;
use super::requests::{self, Outcome, RequestContext};
use super::thread::{TICK, Thread};
use super::trace;
use crate::log;
use crate::protocol::{Frame, MESSAGE_BYTES_MAX, REQUEST_PAYLOAD_BYTES_MAX, frame};
use crate::store::Caller;
use crate::sync::Arc;
use crate::transport::{Disconnect, Input, RingError, Transport};

/// Requests of one connection in one pass; the rest waits its turn.
const REQUESTS_PER_PASS: usize = 64;
/// What its transactions may cost before the pass ends, in nodes that are created, removed or looked up when a
/// log is run again: a few tenths of a millisecond.
const WORK_PER_PASS: u64 = 2048;
/// A connection is busy whose transactions cost more than this in a pass: more than those of toolstacks and drivers.
const BUSY_WORK: u64 = 256;
/// Bytes read from a socket at a time: enough for a batch of ordinary requests.
pub const READ_BYTES: usize = 16 << 10;
/// Capacity that an output buffer keeps when its client has everything.
const OUTPUT_KEPT_BYTES: usize = 32 << 10;

/// When a connection is served next.
enum Next {
    /// When something happens to it.
    Event,
    /// In the next pass.
    Pass,
}

impl Thread {
    /// Serves each connection that was ready when the pass began, busy ones as far as their time goes.
    pub(super) fn serve_ready(&mut self) {
        let (busy, others) = self.ready.counts();
        for _ in 0..others {
            self.serve_next(false);
        }
        let began = if busy > 1 { Instant::now() } else { self.now };
        for left in (0..busy).rev() {
            self.serve_next(true);
            if left > 0 && began.elapsed() > BUSY_TIME {
                return;
            }
        }
    }

    /// Serves the first of the busy connections, or of the others.
    fn serve_next(&mut self, is_busy: bool) {
        let Some(place) = self.ready.pop(is_busy) else { return };
        let served = self.with_connection(place, |thread, connection| {
            connection.ready = false;
            thread.serve(connection)?;
            thread.conclude_pass(connection)
        });
        match served {
            Some(Ok(Next::Event)) | None => {}
            Some(Ok(Next::Pass)) => self.make_ready(place),
            Some(Err(Disconnect::Gone)) => self.close(place),
            Some(Err(Disconnect::Broken(error))) => self.give_up(place, error),
        }
    }

    /// Returns whether a connection that was served has to be served in the next pass.
    fn conclude_pass(&mut self, connection: &mut Connection) -> Result<Next, Disconnect> {
        connection.output.shrink(OUTPUT_KEPT_BYTES);
        let throttled = self.is_throttled(connection);
        if throttled != connection.throttled {
            connection.throttled = throttled;
            let domid = connection.domid().0;
            tracing::trace!(target: log::WRL, domid, throttled, "a quota decides whether it is read");
        }
        if connection.needs_tick() || throttled {
            if self.ticking.is_empty() {
                self.next_tick = self.now + TICK;
            }
            self.ticking.insert(connection.asker.connection);
        } else {
            self.ticking.remove(&connection.asker.connection);
        }
        if !self.listen_for_room(connection) {
            // It would wait for ever, and its client with it.
            return Err(Disconnect::Gone);
        }
        // While others are behind, a connection stays ready: nothing tells when they caught up.
        let news = std::mem::take(&mut connection.look_again);
        let behind = self.is_held_back(connection) && !connection.is_quiesced;
        let again = behind || news || connection.more_input && self.may_read(connection);
        connection.is_busy = again
            || !connection.output.is_empty()
            || connection.watches.has_deferred()
            || self.work > BUSY_WORK;
        Ok(if again { Next::Pass } else { Next::Event })
    }

    /// A socket is watched for room only while something waits for it: otherwise every reply that
    /// a client takes would wake the thread. Returns whether it is watched as it should be.
    fn listen_for_room(&mut self, connection: &mut Connection) -> bool {
        let (wanted, token) = (!connection.output.is_empty(), Token(connection.asker.connection));
        if let Transport::Socket(socket) = &mut connection.transport
            && connection.listens_for_room != wanted
        {
            let interest =
                if wanted { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            if let Err(error) = self.poll.registry().reregister(socket, token, interest) {
                tracing::warn!(%error, "closed a client that cannot be watched for room");
                return false;
            }
            connection.listens_for_room = wanted;
        }
        true
    }

    /// One connection's part of a pass.
    fn serve(&mut self, connection: &mut Connection) -> Result<(), Disconnect> {
        // Kept until it is put back: were each asked anew, a mailbox that is emptied between the
        // two would leave the connection neither served nor ready.
        let backlog = self.shared.mailboxes.backlog();
        if backlog != self.backlog {
            tracing::trace!(target: log::WRL, ?backlog, "mailboxes decide whose requests are taken");
        }
        (self.backlog, self.work) = (backlog, 0);
        if connection.is_quiesced {
            connection.recharge_output();
            return Ok(());
        }
        if self.reconnects(connection) || connection.ignored {
            self.end_pass(connection);
            return Ok(());
        }
        if let Some(ring) = connection.ring() {
            ring.begin()?;
        }
        // Something changed: the request finds out whether it may go on.
        let waited = connection.parked.take_if(|parked| matches!(parked, Parked::Guard)).is_some();
        connection.flush()?;
        self.flush_deferred(connection)?;
        if self.may_read(connection) {
            let input = self.serve_requests(connection)?;
            connection.flush()?;
            self.flush_deferred(connection)?;
            // Who only stopped writing still gets the answers to what was written.
            if input == Input::Closed && !connection.owes_anything() {
                return Err(Disconnect::Gone);
            }
        }
        if waited {
            self.came_through(connection);
        }
        self.end_pass(connection);
        Ok(())
    }

    /// Sends the events that were deferred, as far as there is room.
    fn flush_deferred(&self, connection: &mut Connection) -> Result<(), Disconnect> {
        if connection.watches.has_deferred() {
            self.queue_deferred(connection);
            connection.flush()?;
        }
        Ok(())
    }

    /// Whether further requests of a connection may be taken now. Whatever changes the answer to
    /// yes makes the connection ready.
    pub(super) fn may_read(&self, connection: &Connection) -> bool {
        connection.parked.is_none()
            && self.stopping.is_none()
            && !connection.is_quiesced
            && !connection.ignored
            && connection.output.len() <= connection.output_limits().0
            && !self.is_throttled(connection)
            && !self.is_held_back(connection)
    }

    /// Whether the delivery of events is so far behind that a connection has to wait: guests first, of those
    /// the ones that have caused what is undelivered.
    fn is_held_back(&self, connection: &Connection) -> bool {
        match self.backlog {
            Backlog::Low => false,
            Backlog::Full => connection.is_guest() && connection.domain.undelivered() > 0,
            Backlog::Over => true,
        }
    }

    fn serve_requests(&mut self, connection: &mut Connection) -> Result<Input, Disconnect> {
        let mut stage = std::mem::take(&mut self.stage);
        stage.clear();
        stage.append(&mut connection.partial);
        let carried = stage.len();
        // While enough waits here, the transport is not asked whether it has more.
        let mut input = Input::More;
        if !connection.more_input || carried < MESSAGE_BYTES_MAX {
            input = connection.transport.read(&mut stage, READ_BYTES)?;
        }
        let result = self.serve_stage(connection, &stage);
        let used = *result.as_ref().unwrap_or(&0);
        let more_staged = connection.more_input;
        connection.more_input |= input == Input::More || connection.ends;
        keep_rest(connection, &stage, used, carried);
        self.stage = stage;
        result?;
        if input == Input::Closed {
            connection.more_input = more_staged;
        }
        Ok(input)
    }

    /// Takes requests from the staged bytes and answers how many bytes were used.
    fn serve_stage(
        &mut self,
        connection: &mut Connection,
        stage: &[u8],
    ) -> Result<usize, Disconnect> {
        let caller = self.caller(connection);
        let result = self.serve_messages(connection, &caller, stage);
        connection.caller = Some(caller);
        result
    }

    fn serve_messages(
        &mut self,
        connection: &mut Connection,
        caller: &Caller,
        stage: &[u8],
    ) -> Result<usize, Disconnect> {
        let mut stream = stage;
        connection.more_input = false;
        for _ in 0..REQUESTS_PER_PASS {
            match frame(stream) {
                Frame::Incomplete(_) => return Ok(stage.len() - stream.len()),
                Frame::TooLong(len) => {
                    let most = REQUEST_PAYLOAD_BYTES_MAX;
                    return Err(RingError::TooLong { len, most }.into());
                }
                Frame::Message { header, payload, rest } => {
                    if !std::mem::take(&mut connection.comes_again) {
                        trace::request(&connection.asker, &connection.domain, header, payload);
                    }
                    let thread = &mut *self;
                    let mut cx = RequestContext { thread, connection, caller, header };
                    match requests::serve(&mut cx, payload) {
                        Outcome::Used => {}
                        Outcome::Again => {
                            connection.comes_again = true;
                            break;
                        }
                    }
                    stream = rest;
                    self.take_events(connection);
                    self.backlog = self.backlog.max(self.shared.mailboxes.backlog());
                    if self.work > WORK_PER_PASS || !self.may_read(connection) {
                        break;
                    }
                }
            }
        }
        connection.more_input = !stream.is_empty();
        Ok(stage.len() - stream.len())
    }

    /// What becomes visible at the end of a connection's pass: for a ring replies, then consumed
    /// requests, then one notification; its port is heard again.
    ///
    /// A guest notifies only if it finds its request queue empty, or our queue full. So it may have
    /// written or read, without a word, between our look and our publication: look once more.
    fn end_pass(&mut self, connection: &mut Connection) {
        let reads = self.may_read(connection);
        let waits_for_room = !connection.output.is_empty();
        // A ring that is given up is heard because it may ask to reconnect.
        let listens = reads || waits_for_room || connection.ignored;
        let Some(ring) = connection.ring() else { return };
        let (port, notify) = (ring.port, ring.publish());
        let unmask = listens && std::mem::take(&mut ring.masked);
        let news = reads && ring.has_requests() || waits_for_room && ring.has_room();
        connection.look_again = news;
        if notify {
            self.notify(port);
        }
        if unmask {
            self.unmask(connection.asker.connection, port);
        }
    }

    /// Who asks, with the rights of this moment: as it was left with the connection, if it was, so that
    /// the control domain's references are not counted by all threads at each pass of a socket.
    pub(super) fn caller(&self, connection: &mut Connection) -> Caller {
        let subject = self.shared.store.registry().subject(&connection.domain);
        let epoch = self.shared.store.epoch();
        match connection.caller.take() {
            Some(caller) => Caller { subject, epoch, ..caller },
            None => Caller {
                domain: Arc::clone(&connection.domain),
                subject,
                epoch,
                unblocked: connection.unblocked.clone(),
            },
        }
    }
}

/// Keeps what was not used of the staged bytes, of which the first `carried` were kept before. Requests of a ring that
/// wait for their turn stay in the page, for whoever serves the ring next; but half a request is taken out, since a
/// guest that still writes the other half notifies only a ring that it finds empty.
fn keep_rest(connection: &mut Connection, stage: &[u8], used: usize, carried: usize) {
    let rest = &stage[used..];
    match &mut connection.transport {
        Transport::Socket(_) => connection.partial.extend_from_slice(rest),
        Transport::Ring(ring) => {
            if matches!(frame(rest), Frame::Incomplete(_)) {
                ring.consume(stage.len() - carried);
                connection.partial.extend_from_slice(rest);
            } else {
                ring.consume(used.saturating_sub(carried));
                connection.partial.extend_from_slice(stage.get(used..carried).unwrap_or(&[]));
            }
        }
    }
}

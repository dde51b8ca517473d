//! A thread: one poll, the connections that it serves, and the passes over them.
//!
//! A pass: wait for something to happen; take what other threads said; serve each connection that
//! is ready, a bounded batch of requests each; wake the threads that were told something. A request
//! runs from bytes in to bytes out here and nowhere else.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::Shared;
use super::connection::{Connection, Parked};
use super::domains::Carried;
use super::mailbox::{Mailbox, Message};
use crate::host::{Channels, Port};
use crate::protocol::{Frame, MESSAGE_BYTES_MAX, frame};
use crate::store::{Caller, Generations};
use crate::sync::{Arc, Ordering};
use crate::transport::{Input, RingError, Transport};
use crate::words::{Domid, ShardId};

/// Requests of one connection in one pass; the rest waits its turn.
const REQUESTS_PER_PASS: usize = 64;
/// Bytes read from a socket at a time: enough for a batch of ordinary requests.
const READ_BYTES: usize = 16 << 10;
/// Pending ports taken from the handle at a time.
const PORTS_PER_READ: usize = 128;
/// How often connections that time matters to are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How long a stop waits for requests that were taken to be answered.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks whether they are: other threads answer them too.
const STOP_POLL: Duration = Duration::from_millis(5);
/// Events taken from one poll.
const EVENTS_PER_POLL: usize = 1024;
/// Capacity that an output buffer keeps when its client has everything.
const OUTPUT_KEPT_BYTES: usize = 32 << 10;

/// The token of the mailbox's waker.
pub const WAKER: Token = Token(usize::MAX);
/// The token of the event-channel handle.
const CHANNELS: Token = Token(usize::MAX - 1);

/// A connection's place on its thread.
pub type Place = usize;

/// A thread's state.
pub struct Thread {
    pub(super) number: u16,
    pub(super) shared: Arc<Shared>,
    poll: Poll,
    pub(super) channels: Box<dyn Channels>,
    /// The port that fires when domains change, if this thread is the one that is told.
    pub(super) changes: Option<Port>,
    /// `None` while a connection is being served.
    pub(super) connections: Slab<Option<Box<Connection>>>,
    pub(super) rings: HashMap<Domid, Place, RandomState>,
    pub(super) ports: HashMap<Port, Place, RandomState>,
    /// What RELEASE leaves behind for an INTRODUCE that follows.
    pub(super) carried: HashMap<Domid, Carried, RandomState>,
    ready: VecDeque<Place>,
    ticking: HashSet<Place, RandomState>,
    /// A mailbox was full while the connection was served that was served last.
    held_back: bool,
    /// Messages that have to wait until the connection that is being served is back in its place.
    inbox: VecDeque<Message>,
    pub(super) generations: Generations,
    /// Numbers for connections and watches.
    pub(super) sequence: u64,
    /// Where input is laid out to be read.
    stage: Vec<u8>,
    pub(super) now: Instant,
    next_tick: Instant,
    /// No more requests are taken; until when those taken may still be answered.
    stopping: Option<Instant>,
}

impl Thread {
    /// A thread without connections, around the poll that its waker belongs to.
    ///
    /// # Errors
    /// If the handle cannot be polled.
    pub fn new(
        number: u16,
        shared: Arc<Shared>,
        poll: Poll,
        channels: Box<dyn Channels>,
    ) -> io::Result<Thread> {
        let fd = channels.raw_fd();
        poll.registry().register(&mut SourceFd(&fd), CHANNELS, Interest::READABLE)?;
        let now = Instant::now();
        Ok(Thread {
            number,
            shared,
            poll,
            channels,
            changes: None,
            connections: Slab::new(),
            rings: HashMap::default(),
            ports: HashMap::default(),
            carried: HashMap::default(),
            ready: VecDeque::new(),
            ticking: HashSet::default(),
            held_back: false,
            inbox: VecDeque::new(),
            generations: Generations::default(),
            sequence: 0,
            stage: Vec::with_capacity(READ_BYTES + MESSAGE_BYTES_MAX),
            now,
            next_tick: now,
            stopping: None,
        })
    }

    fn mailbox(&self) -> &Mailbox {
        &self.shared.mailboxes.0[usize::from(self.number)]
    }

    /// Makes this thread the one that is told when domains change, and serves the control domain's
    /// own ring.
    ///
    /// # Errors
    /// The host's.
    pub fn serve_control_domain(&mut self) -> io::Result<()> {
        self.changes = Some(self.channels.bind_changes()?);
        if let Some(port) = self.shared.host.control_port()? {
            let domain = Arc::clone(&self.shared.control_domain);
            self.connect_ring(&domain, Some(port))?;
        }
        Ok(())
    }

    /// Passes until told to stop.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        while !self.is_over() {
            if let Err(error) = self.poll.poll(&mut events, self.patience())
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, thread = self.number, "poll failed");
            }
            self.now = Instant::now();
            for event in &events {
                match event.token() {
                    WAKER => {}
                    CHANNELS => self.take_ports(),
                    Token(place) => self.socket_ready(place, event.is_read_closed()),
                }
            }
            self.take_messages();
            self.serve_ready();
            if self.now >= self.next_tick {
                self.tick();
            }
            self.shared.mailboxes.wake_all(self.number);
        }
        self.finish();
    }

    /// Whether nothing is left to be done: every request that was taken is answered, or it took too
    /// long.
    fn is_over(&self) -> bool {
        self.stopping.is_some_and(|until| {
            self.now >= until || self.shared.parked.load(Ordering::Relaxed) == 0
        })
    }

    /// How long the poll may wait.
    fn patience(&self) -> Option<Duration> {
        if self.stopping.is_some() {
            return Some(STOP_POLL);
        }
        if !self.ready.is_empty() || !self.inbox.is_empty() || !self.mailbox().is_empty() {
            Some(Duration::ZERO)
        } else if !self.ticking.is_empty() {
            Some(self.next_tick.saturating_duration_since(self.now))
        } else {
            None
        }
    }

    /// A socket has bytes or room. The end of its stream is reported once, maybe before the bytes
    /// in front of it were read.
    fn socket_ready(&mut self, place: Place, ends: bool) {
        if let Some(Some(connection)) = self.connections.get_mut(place) {
            connection.ends |= ends;
        }
        self.make_ready(place);
    }

    /// Puts a connection on the ready list, once.
    pub(super) fn make_ready(&mut self, place: Place) {
        if let Some(Some(connection)) = self.connections.get_mut(place)
            && !connection.ready
        {
            connection.ready = true;
            self.ready.push_back(place);
        }
    }

    /// Takes pending ports until none is left: the handle is watched edge-triggered.
    fn take_ports(&mut self) {
        let mut ports = [0; PORTS_PER_READ];
        loop {
            let count = match self.channels.pending(&mut ports) {
                Ok(0) => return,
                Ok(count) => count,
                Err(error) => {
                    tracing::error!(%error, thread = self.number, "cannot read event channels");
                    return;
                }
            };
            for &port in &ports[..count] {
                if Some(port) == self.changes {
                    self.domains_changed();
                    self.unmask(port);
                } else if let Some(&place) = self.ports.get(&port) {
                    self.port_pending(place);
                }
            }
        }
    }

    /// A guest notified: its port is masked until its ring was served.
    fn port_pending(&mut self, place: Place) {
        if let Some(Some(connection)) = self.connections.get_mut(place)
            && let Some(ring) = connection.ring()
        {
            ring.masked = true;
        }
        self.make_ready(place);
    }

    pub(super) fn unmask(&mut self, port: Port) {
        if let Err(error) = self.channels.unmask(port) {
            tracing::warn!(%error, port, "cannot unmask an event channel");
        }
    }

    /// Takes everything that other threads said.
    fn take_messages(&mut self) {
        while let Some(message) = self.inbox.pop_front().or_else(|| self.mailbox().pop()) {
            self.take_message(message, None);
        }
    }

    /// Between two requests of a connection: events must follow the reply that was just queued.
    /// What concerns domains waits until no connection is out of its place.
    fn take_events(&mut self, place: Place, connection: &mut Connection) {
        while self.inbox.is_empty()
            && let Some(message) = self.mailbox().pop()
        {
            match message {
                Message::Events(_) | Message::Answer(..) => {
                    self.take_message(message, Some((place, connection)));
                }
                other => self.inbox.push_back(other),
            }
        }
    }

    fn take_message(&mut self, message: Message, serving: Option<(Place, &mut Connection)>) {
        match message {
            Message::Events(batch) => self.deliver(batch, serving),
            Message::Answer(asker, result) => self.answered(asker, result, serving),
            Message::Domain(asker, domid, request) => self.domain_request(asker, domid, request),
            Message::DomainChanged(domid) => self.domain_changed(domid),
            Message::Accepted(socket) => self.accepted(socket),
            Message::Unblocked(domid) => {
                if let Some(&place) = self.rings.get(&domid) {
                    self.make_ready(place);
                }
            }
            Message::CheckWatches(reply) => {
                // Who asked may have given up waiting.
                let _ = reply.send(self.watch_list());
            }
            Message::Stop => self.stopping = Some(self.now + STOP_PATIENCE),
        }
    }

    fn accepted(&mut self, socket: std::os::unix::net::UnixStream) {
        let mut socket = mio::net::UnixStream::from_std(socket);
        let entry = self.connections.vacant_entry();
        let place = entry.key();
        let registry = self.poll.registry();
        if let Err(error) = registry.register(&mut socket, Token(place), Interest::READABLE) {
            tracing::warn!(%error, "cannot serve a client");
            return;
        }
        self.sequence += 1;
        let domain = Arc::clone(&self.shared.control_domain);
        let transport = Transport::Socket(socket);
        entry.insert(Some(Box::new(Connection::new(self.sequence, domain, transport))));
        self.shared.clients.fetch_add(1, Ordering::Relaxed);
    }

    /// Serves each connection that was ready when the pass began.
    fn serve_ready(&mut self) {
        for _ in 0..self.ready.len() {
            let Some(place) = self.ready.pop_front() else { return };
            let taken = self.connections.get_mut(place).and_then(Option::take);
            let Some(mut connection) = taken else { continue };
            connection.ready = false;
            let result = self.serve(place, &mut connection);
            match result {
                Ok(()) => self.put_back(place, connection),
                Err(None) => {
                    self.connections[place] = Some(connection);
                    self.close(place);
                }
                Err(Some(error)) => {
                    self.connections[place] = Some(connection);
                    self.give_up(place, error);
                }
            }
        }
    }

    fn put_back(&mut self, place: Place, mut connection: Box<Connection>) {
        connection.output.shrink(OUTPUT_KEPT_BYTES);
        if connection.needs_tick() || self.is_throttled(&connection) {
            if self.ticking.is_empty() {
                self.next_tick = self.now + TICK;
            }
            self.ticking.insert(place);
        } else {
            self.ticking.remove(&place);
        }
        self.listen_for_room(place, &mut connection);
        // While others are behind, whoever is ready stays so: nothing tells when they caught up.
        let news = std::mem::take(&mut connection.look_again);
        let again = self.held_back || news || connection.more_input && self.may_read(&connection);
        self.connections[place] = Some(connection);
        if again {
            self.make_ready(place);
        }
    }

    /// A socket is watched for room only while something waits for it: otherwise every reply that
    /// a client takes would wake the thread.
    fn listen_for_room(&mut self, place: Place, connection: &mut Connection) {
        let wanted = !connection.output.is_empty();
        if let Transport::Socket(socket) = &mut connection.transport
            && connection.listens_for_room != wanted
        {
            let interest =
                if wanted { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            if let Err(error) = self.poll.registry().reregister(socket, Token(place), interest) {
                tracing::warn!(%error, "cannot watch a client for room");
            }
            connection.listens_for_room = wanted;
        }
    }

    /// One connection's part of a pass.
    fn serve(
        &mut self,
        place: Place,
        connection: &mut Connection,
    ) -> Result<(), Option<RingError>> {
        // Kept until it is put back: were each asked anew, a mailbox that is emptied between the
        // two would leave the connection neither served nor ready.
        self.held_back = self.shared.mailboxes.are_full();
        if self.reconnects(place, connection) || connection.ignored {
            self.end_pass(connection);
            return Ok(());
        }
        if let Some(ring) = connection.ring() {
            ring.begin().map_err(Some)?;
        }
        if let Some(Parked::Guard(until)) = connection.parked
            && (self.now >= until || !self.shared.guards.any())
        {
            connection.parked = None;
        }
        connection.flush()?;
        if self.may_read(connection) {
            let input = self.serve_requests(place, connection)?;
            connection.flush()?;
            // Who only stopped writing still gets the answers to what was written.
            if input == Input::Closed && !connection.owes_anything() {
                return Err(None);
            }
        }
        self.end_pass(connection);
        Ok(())
    }

    /// Whether further requests of a connection may be taken now. Whatever changes the answer to
    /// yes makes the connection ready.
    fn may_read(&self, connection: &Connection) -> bool {
        connection.parked.is_none()
            && self.stopping.is_none()
            && !connection.ignored
            && connection.output.len() <= connection.output_limits().0
            && !self.is_throttled(connection)
            && !self.held_back
    }

    fn serve_requests(
        &mut self,
        place: Place,
        connection: &mut Connection,
    ) -> Result<Input, Option<RingError>> {
        let mut stage = std::mem::take(&mut self.stage);
        stage.clear();
        stage.append(&mut connection.partial);
        let carried = stage.len();
        // While enough waits here, the transport is not asked whether it has more.
        let mut input = Input::More;
        if !connection.more_input || carried < MESSAGE_BYTES_MAX {
            input = connection.transport.read(&mut stage, READ_BYTES).map_err(Some)?;
        }
        let result = self.serve_stage(place, connection, &stage);
        let used = *result.as_ref().unwrap_or(&0);
        let more_staged = connection.more_input;
        self.keep_rest(connection, &stage, used, carried, &input);
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
        place: Place,
        connection: &mut Connection,
        stage: &[u8],
    ) -> Result<usize, Option<RingError>> {
        let mut stream = stage;
        let caller = self.caller(connection);
        connection.more_input = false;
        for _ in 0..REQUESTS_PER_PASS {
            match frame(stream) {
                Frame::Incomplete(_) => return Ok(stage.len() - stream.len()),
                Frame::TooLong => return Err(Some(RingError::Protocol)),
                Frame::Message { header, payload, rest } => {
                    if !self.request(place, connection, &caller, header, payload) {
                        break;
                    }
                    stream = rest;
                    self.take_events(place, connection);
                    self.held_back |= self.shared.mailboxes.are_full();
                    if !self.may_read(connection) {
                        break;
                    }
                }
            }
        }
        connection.more_input = !stream.is_empty();
        Ok(stage.len() - stream.len())
    }

    /// Keeps what was not used. Requests of a ring that wait for their turn stay in the page, for
    /// whoever serves the ring next; but half a request is taken out, since a guest that still
    /// writes the other half notifies only a ring that it finds empty.
    fn keep_rest(
        &mut self,
        connection: &mut Connection,
        stage: &[u8],
        used: usize,
        carried: usize,
        input: &Input,
    ) {
        let rest = &stage[used..];
        connection.more_input |= *input == Input::More || connection.ends;
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
        if notify && let Err(error) = self.channels.notify(port) {
            tracing::debug!(%error, port, "cannot notify");
        }
        if unmask {
            self.unmask(port);
        }
    }

    /// Who asks, with the rights of this moment.
    pub(super) fn caller(&self, connection: &Connection) -> Caller {
        Caller {
            domain: Arc::clone(&connection.domain),
            subject: self.shared.store.registry().subject(&connection.domain),
            unblocked: connection.unblocked.clone(),
        }
    }

    /// Looks at the connections that time matters to.
    fn tick(&mut self) {
        self.next_tick = self.now + TICK;
        for place in self.ticking.iter().copied().collect::<Vec<_>>() {
            let taken = self.connections.get_mut(place).and_then(Option::take);
            let Some(mut connection) = taken else {
                self.ticking.remove(&place);
                continue;
            };
            self.refresh_transactions(&mut connection);
            self.expire_events(&mut connection);
            self.put_back(place, connection);
            self.make_ready(place);
        }
    }

    /// Forgets a socket's place in the poll.
    pub(super) fn deregister(&self, connection: &mut Connection) {
        if let Transport::Socket(socket) = &mut connection.transport
            && let Err(error) = self.poll.registry().deregister(socket)
        {
            tracing::debug!(%error, "cannot deregister a client");
        }
    }

    /// The home thread of a domain.
    pub(super) fn home_thread(&self, domid: Domid) -> u16 {
        let ShardId(shard) = self.shared.store.layout().of_domain(domid);
        shard
    }

    /// The end: what was taken has been answered; clients get what they can take.
    fn finish(&mut self) {
        for (_, connection) in &mut self.connections {
            if let Some(connection) = connection {
                // Who does not take it now will not get it.
                let _ = connection.flush();
                if let Some(ring) = connection.ring() {
                    let port = ring.port;
                    if ring.publish() {
                        let _ = self.channels.notify(port);
                    }
                }
            }
        }
    }
}

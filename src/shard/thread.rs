//! A thread: one poll, the connections that it serves, and the passes over them.
//!
//! A pass: wait for something to happen; take what other threads said; serve the connections that
//! are ready, a bounded batch of requests each; wake the threads that were told something. A request
//! runs from bytes in to bytes out here and nowhere else.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::Shared;
use super::connection::Connection;
use super::former::FormerWatches;
use super::mailbox::{Asker, Backlog, Mailbox, Message};
use super::messages::WEIGHT_PER_PASS;
use super::ready::ReadyList;
use super::recheck::Recheck;
use super::scan::Scan;
use super::serving::READ_BYTES;
use super::snapshots::Snapshot;
use super::state::{DomainState, Event};
use crate::host::{Channels, Pending, Port};
use crate::protocol::MESSAGE_BYTES_MAX;
use crate::store::Generations;
use crate::sync::{Arc, Ordering};
use crate::transport::Transport;
use crate::words::{Domid, ShardId};

/// Pending ports taken from the handle at a time.
const PORTS_PER_READ: usize = 128;
/// How often connections that time matters to are looked at.
pub const TICK: Duration = Duration::from_millis(250);
/// How often it looks whether they are: other threads answer them too.
const STOP_POLL: Duration = Duration::from_millis(5);
/// Events taken from one poll.
const EVENTS_PER_POLL: usize = 1024;

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
    pub(super) poll: Poll,
    pub(super) channels: Box<dyn Channels>,
    /// The port that fires when domains change, if this thread is the one that is told.
    pub(super) changes: Option<Port>,
    /// `None` while a connection is being served.
    pub(super) connections: Slab<Option<Box<Connection>>>,
    /// In order, so that the ring scan finds those that come next.
    pub(super) rings: BTreeMap<Domid, Place>,
    pub(super) scan: Scan,
    pub(super) ports: HashMap<Port, Place, RandomState>,
    /// The states of domains that are not absent, each with the birth of its incarnation.
    pub(super) states: HashMap<Domid, (u64, DomainState), RandomState>,
    /// Connections of rings that were released while they waited for an answer: their domains.
    pub(super) released: HashMap<u64, Domid, RandomState>,
    pub(super) ready: ReadyList,
    pub(super) ticking: HashSet<Place, RandomState>,
    /// Snapshots of transactions, the oldest first.
    pub(super) snapshots: VecDeque<Snapshot>,
    /// Connections that are looked at again at a time of their own.
    pub(super) alarms: BinaryHeap<Reverse<(Instant, Place)>>,
    /// How far the mailboxes were behind while the connection was served that was served last.
    pub(super) backlog: Backlog,
    /// Messages that have to wait until the connection that is being served is back in its place.
    pub(super) inbox: VecDeque<Message>,
    /// The weight of the events that may still be delivered in this pass.
    pub(super) may_deliver: usize,
    /// Taken from the mailbox's events and too much for a pass, the oldest first.
    pub(super) undelivered: VecDeque<Message>,
    /// Watches of connections that have ended or were reset.
    pub(super) former: FormerWatches,
    /// What the transactions of the connection that is being served have cost in this pass; see
    /// [`Transaction::work`](crate::store::Transaction::work).
    pub(super) work: u64,
    pub(super) generations: Generations,
    /// Numbers for connections and watches.
    pub(super) sequence: u64,
    /// Where input is laid out to be read.
    pub(super) stage: Vec<u8>,
    pub(super) now: Instant,
    pub(super) next_tick: Instant,
    /// What errors of the host may have hidden.
    pub(super) recheck: Recheck,
    /// No more requests are taken; until when those taken may still be answered.
    pub(super) stopping: Option<Instant>,
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
        let scan = Scan::new(shared.ring_scan_interval);
        Ok(Thread {
            number,
            shared,
            poll,
            channels,
            changes: None,
            connections: Slab::new(),
            rings: BTreeMap::new(),
            scan,
            ports: HashMap::default(),
            states: HashMap::default(),
            released: HashMap::default(),
            ready: ReadyList::default(),
            ticking: HashSet::default(),
            snapshots: VecDeque::new(),
            alarms: BinaryHeap::new(),
            backlog: Backlog::Low,
            inbox: VecDeque::new(),
            may_deliver: WEIGHT_PER_PASS,
            undelivered: VecDeque::new(),
            former: FormerWatches::default(),
            work: 0,
            generations: Generations::default(),
            sequence: 0,
            stage: Vec::with_capacity(READ_BYTES + MESSAGE_BYTES_MAX),
            now,
            next_tick: now,
            recheck: Recheck::default(),
            stopping: None,
        })
    }

    pub(super) fn mailbox(&self) -> &Mailbox {
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
            if let Some(connect) =
                self.step(&domain, Event::Introduce).ok().and_then(|it| it.connect)
            {
                self.connect_ring(&domain, None, port, connect)?;
            }
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
            self.may_deliver = WEIGHT_PER_PASS;
            for event in &events {
                match event.token() {
                    WAKER => {}
                    CHANNELS => self.take_ports(),
                    Token(place) => self.socket_ready(place, event.is_read_closed()),
                }
            }
            self.recheck_host();
            self.take_messages();
            self.take_out_former();
            self.ring_alarms();
            self.scan_rings();
            self.serve_ready();
            self.give_up_snapshots();
            if self.now >= self.next_tick {
                self.tick();
            }
            self.shared.store.registry().log_reports();
            self.shared.mailboxes.wake_all(self.number);
        }
        self.finish();
    }

    /// Whether nothing is left to be done: no thread takes requests any more and every one that was
    /// taken is answered, or it took too long.
    fn is_over(&self) -> bool {
        self.stopping.is_some_and(|until| {
            let threads = self.shared.mailboxes.0.len() as u64;
            let all_know = self.shared.stopping.load(Ordering::Acquire) == threads;
            let answered = self.shared.parked.load(Ordering::Relaxed) == 0;
            self.now >= until
                || all_know && answered && self.mailbox().is_empty() && self.undelivered.is_empty()
        })
    }

    /// How long the poll may wait.
    fn patience(&self) -> Option<Duration> {
        if self.stopping.is_some() {
            return Some(STOP_POLL);
        }
        let has_work = !self.ready.is_empty() || !self.inbox.is_empty() || !self.former.is_empty();
        if has_work || !self.mailbox().may_sleep(|| self.has_events()) {
            return Some(Duration::ZERO);
        }
        let tick = Some(self.next_tick).filter(|_| !self.ticking.is_empty());
        let alarm = self.alarms.peek().map(|Reverse((until, _))| *until);
        let times = tick.into_iter().chain(alarm).chain(self.recheck.due(self.now));
        let next = times.chain(self.next_to_give_up()).chain(self.scan.next()).min()?;
        Some(next.saturating_duration_since(self.now))
    }

    /// A socket has bytes or room. The end of its stream is reported once, maybe before the bytes
    /// in front of it were read.
    fn socket_ready(&mut self, place: Place, ends: bool) {
        if let Some(Some(connection)) = self.connections.get_mut(place) {
            connection.ends |= ends;
        }
        self.make_ready(place);
    }

    /// Takes a connection out of its place for as long as `work` has it beside the thread; `None` if it is not there,
    /// or is being served.
    pub(super) fn with_connection<R>(
        &mut self,
        place: Place,
        work: impl FnOnce(&mut Thread, &mut Connection) -> R,
    ) -> Option<R> {
        let mut connection = self.connections.get_mut(place)?.take()?;
        let result = work(self, &mut connection);
        self.connections[place] = Some(connection);
        Some(result)
    }

    /// Puts a connection on the ready list, once.
    pub(super) fn make_ready(&mut self, place: Place) {
        if let Some(Some(connection)) = self.connections.get_mut(place)
            && !connection.ready
        {
            connection.ready = true;
            self.ready.push(place, connection.is_busy);
        }
    }

    /// Takes pending ports until none is left: the handle is watched edge-triggered.
    pub(super) fn take_ports(&mut self) {
        let mut ports = [0; PORTS_PER_READ];
        loop {
            let Pending { count, error } = self.channels.pending(&mut ports);
            for &port in &ports[..count] {
                if Some(port) == self.changes {
                    self.changes_pending(port);
                } else if let Some(&place) = self.ports.get(&port) {
                    self.port_pending(place);
                }
            }
            if let Some(error) = error {
                return self.handle_failed(&error);
            }
            if count < ports.len() {
                return;
            }
        }
    }

    /// Domains changed. Their port is heard again, whatever the host said of them.
    pub(super) fn changes_pending(&mut self, port: Port) {
        self.domains_changed();
        if let Err(error) = self.channels.unmask(port) {
            self.handle_failed(&error);
        }
    }

    /// A guest notified: its port is masked until its ring was served.
    pub(super) fn port_pending(&mut self, place: Place) {
        if let Some(Some(connection)) = self.connections.get_mut(place)
            && let Some(ring) = connection.ring()
        {
            ring.masked = true;
        }
        self.make_ready(place);
    }

    pub(super) fn notify(&mut self, port: Port) {
        if let Err(error) = self.channels.notify(port) {
            tracing::debug!(%error, port, "cannot notify");
        }
    }

    /// Lets the port of a ring be reported again.
    pub(super) fn unmask(&mut self, place: Place, port: Port) {
        if let Err(error) = self.channels.unmask(port) {
            self.unmask_failed(place, &error);
        }
    }

    pub(super) fn accepted(&mut self, socket: std::os::unix::net::UnixStream) {
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
        let asker = Asker { thread: self.number, connection: place, id: self.sequence };
        let connection = Connection::new(asker, domain, Transport::Socket(socket));
        connection.trace(format_args!("create connection of a socket"));
        entry.insert(Some(Box::new(connection)));
        self.shared.clients.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks at the connections that time matters to.
    fn tick(&mut self) {
        self.next_tick = self.now + TICK;
        for place in self.ticking.iter().copied().collect::<Vec<_>>() {
            let ticked = self.with_connection(place, |thread, connection| {
                thread.expire_events(connection);
                thread.note_stall(connection);
            });
            if ticked.is_none() {
                self.ticking.remove(&place);
            }
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
            if let Some(connection) = connection
                && !connection.is_quiesced
            {
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

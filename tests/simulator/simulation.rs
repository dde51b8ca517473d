//! The daemon, its host and its clients, side by side with the model.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_send_buffer_size;
use xenstored::domain::{Limits, Quota, Registry};
use xenstored::host::RingPage;
use xenstored::server::Times;
use xenstored::server::stepped::Stepped;

use crate::client::{Action, Client, Known};
use crate::host::MemoryHost;
use crate::link::{GuestRing, Link};
use crate::naive::{Model, Op};
use crate::observer;
use crate::steps::{CLIENTS, CONTROL, GUESTS, SOCKETS, Setup, Step};

/// The timeout of a guest's events.
pub const EVENT_TIMEOUT: Duration = Duration::from_secs(20);
/// The interval of the ring scan.
const SCAN_INTERVAL: Duration = Duration::from_secs(30);
/// The age at which a transaction's snapshots are given up.
pub const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(1);
/// The events of a full mailbox.
const FULL: u64 = (1 << 16) + 1;
/// The socket buffers: the least that the kernel has.
const SOCKET_BYTES: usize = 1;

thread_local! {
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
    /// The time that passes with each look at the clock.
    static LOOK: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// The daemon's clock.
fn clock() -> Instant {
    let now = now();
    advance(LOOK.get());
    now
}

/// Returns the daemon's clock and timeouts.
pub fn times() -> Times {
    Times { clock, watch_event_timeout: EVENT_TIMEOUT, ring_scan_interval: SCAN_INTERVAL }
}

/// Returns the virtual time.
pub fn now() -> Instant {
    NOW.get().expect("a simulation runs on this thread")
}

fn advance(by: Duration) {
    NOW.set(Some(now() + by));
}

/// A daemon with its host and clients, and the model.
pub struct Simulation {
    pub setup: Setup,
    pub server: Stepped,
    pub host: MemoryHost,
    pub model: Model,
    /// All clients ever, by their number in the model.
    pub clients: Vec<Client>,
    /// The present client of each slot: sockets, then guests.
    pub slots: Vec<usize>,
    /// The clients that each worker has yet to accept.
    pub accepting: Vec<VecDeque<usize>>,
    /// The client of each connection by its name.
    pub connections: HashMap<String, usize>,
    /// The client whose ring is served, by domid.
    pub rings: BTreeMap<u16, usize>,
    /// The client of each request.
    pub requests: Vec<usize>,
    pub commits: u64,
    /// When each transaction began.
    pub begun: HashMap<usize, Instant>,
    pub loaded: Vec<bool>,
    /// A digest of what all clients received.
    pub received: DefaultHasher,
    /// The quiesced domains, with the indices in their pages once these may not change.
    pub quiesced: BTreeMap<u16, Option<(u32, u32)>>,
    /// The domains that died before an update and whose rings it has left.
    pub unnoticed: BTreeSet<u16>,
}

impl Simulation {
    /// Starts a daemon, whose guests are introduced.
    pub fn new(setup: &Setup) -> Result<Simulation, String> {
        NOW.set(Some(Instant::now()));
        LOOK.set(Duration::from_micros(setup.look_us));
        observer::take();
        let host = MemoryHost::new();
        let page = host.create(0);
        let limits = Limits::defaults();
        limits.set(Quota::Outstanding, setup.outstanding);
        let registry = Registry::new(limits, None);
        let server =
            Stepped::new(setup.workers, registry, Arc::new(host.clone()), times(), |store| {
                store.set_inline_nodes_max(setup.inline_nodes);
                store.set_looks_max(setup.looks, setup.looks);
            });
        let workers = usize::from(setup.workers);
        let mut simulation = Simulation {
            setup: setup.clone(),
            server: server.unwrap(),
            host,
            model: Model::new(&[]),
            clients: Vec::new(),
            slots: vec![usize::MAX; CLIENTS],
            accepting: vec![VecDeque::new(); workers],
            connections: HashMap::new(),
            rings: BTreeMap::new(),
            requests: Vec::new(),
            commits: 0,
            begun: HashMap::new(),
            loaded: vec![false; workers],
            received: DefaultHasher::new(),
            quiesced: BTreeMap::new(),
            unnoticed: BTreeSet::new(),
        };
        simulation.add_ring(0, page);
        simulation.follow()?;
        for slot in 0..SOCKETS {
            simulation.connect(slot, slot % workers);
        }
        for domid in GUESTS {
            simulation.create(domid);
        }
        simulation.calm()?;
        Ok(simulation)
    }

    /// Runs one step.
    pub fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Queue(slot, action, in_transaction) => {
                self.queue(self.slots[*slot], action, *in_transaction);
            }
            Step::Send(slot, limit) => _ = self.client(*slot).send(*limit),
            Step::Receive(slot, limit) => _ = self.receive(self.slots[*slot], *limit)?,
            Step::Pass(worker) => _ = self.pass(worker % usize::from(self.setup.workers))?,
            Step::Reap => _ = self.server.step_reaper(),
            Step::Match => _ = self.server.step_matcher(),
            Step::Silence(slot) => self.client(*slot).silence(),
            Step::Turn(slot) => self.turn(self.slots[*slot])?,
            Step::Advance(milliseconds) => advance(Duration::from_millis(*milliseconds)),
            Step::Load(worker) => self.load(*worker),
            Step::Live(domid) if self.host.exists(*domid) => self.destroy(*domid),
            Step::Live(domid) => self.create(*domid),
            Step::Reconnect(slot, worker) => {
                self.close(*slot);
                self.connect(*slot, *worker);
            }
            Step::Update => self.update()?,
            Step::Calm => self.calm()?,
        }
        Ok(())
    }

    fn client(&mut self, slot: usize) -> &mut Client {
        &mut self.clients[self.slots[slot]]
    }

    /// Queues a request.
    pub fn queue(&mut self, number: usize, action: &Action, in_transaction: bool) {
        let client = &mut self.clients[number];
        if matches!(client.link, Link::Closed) {
            return;
        }
        let mut action = action.clone();
        let mut tx = 0;
        match (&action, client.transaction) {
            (Action::Start, Known::No) => client.transaction = Known::Asked,
            (Action::Start, _) => return,
            (Action::End(_), Known::Open(id)) => {
                tx = id;
                client.transaction = Known::No;
            }
            (Action::End(_), _) => return,
            (Action::Reset, Known::Asked) => return,
            (Action::Reset, _) => client.transaction = Known::No,
            (Action::Store(_), Known::Open(id)) if in_transaction => tx = id,
            _ => {}
        }
        if tx != 0
            && let Action::Store(Op::SetPerms(_, perms)) = &mut action
        {
            // The tests of advisories cover what a transaction may commit over a death.
            "n0 r9".clone_into(perms);
        }
        self.requests.push(number);
        let req = u32::try_from(self.requests.len()).unwrap();
        self.clients[number].queue(req, tx, action);
    }

    fn connect(&mut self, slot: usize, worker: usize) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        for end in [&ours, &theirs] {
            set_socket_send_buffer_size(end, SOCKET_BYTES).unwrap();
        }
        let number = self.model.connect(0);
        let client = Client::new(format!("socket {slot}"), 0, Link::Socket(ours));
        self.clients.push(client);
        self.slots[slot] = number;
        let worker = worker % usize::from(self.setup.workers);
        self.accepting[worker].push_back(number);
        self.server.serve(theirs, u16::try_from(worker).unwrap()).unwrap();
    }

    fn close(&mut self, slot: usize) {
        let client = self.client(slot);
        client.link = Link::Closed;
        client.expected.clear();
    }

    fn add_ring(&mut self, domid: u16, page: RingPage) {
        let ring = GuestRing { domid, page, host: self.host.clone() };
        let number = self.model.connect(domid);
        self.clients.push(Client::new(format!("domain {domid}"), domid, Link::Ring(ring)));
        self.slots[slot_of(domid)] = number;
    }

    /// Creates a domain, which the first socket client introduces.
    fn create(&mut self, domid: u16) {
        let page = self.host.create(domid);
        self.add_ring(domid, page);
        let home = format!("/local/domain/{domid}");
        for action in [
            Action::Store(Op::Mkdir(home.clone())),
            Action::Store(Op::SetPerms(home, format!("n{domid}"))),
            Action::Introduce(domid),
        ] {
            self.queue(self.slots[0], &action, false);
        }
    }

    fn destroy(&mut self, domid: u16) {
        self.host.destroy(domid);
        self.close(slot_of(domid));
    }

    pub fn load(&mut self, worker: usize) {
        let worker = worker % self.loaded.len();
        if self.loaded[worker] {
            self.server.unload(worker, FULL);
        } else {
            self.server.load(worker, FULL);
        }
        self.loaded[worker] ^= true;
    }

    fn turn(&mut self, number: usize) -> Result<(), String> {
        self.clients[number].send(usize::MAX);
        for worker in 0..usize::from(self.setup.workers) {
            self.pass(worker)?;
        }
        self.receive(number, 1 << 16).map(|_| ())
    }

    /// Lets a client receive.
    pub fn receive(&mut self, number: usize, limit: usize) -> Result<bool, String> {
        self.waive_expired(number);
        let bytes = self.clients[number].receive(limit)?;
        (number, &bytes).hash(&mut self.received);
        Ok(!bytes.is_empty())
    }

    /// Runs a pass of a worker, and lets the model do what it did.
    pub fn pass(&mut self, worker: usize) -> Result<bool, String> {
        if !self.server.step_worker(worker) {
            return Ok(false);
        }
        self.follow()?;
        self.check_pass(worker)?;
        Ok(true)
    }

    /// Lets everything go on, with all clients reading, until nothing is left to do.
    pub fn calm(&mut self) -> Result<(), String> {
        for worker in 0..self.loaded.len() {
            if self.loaded[worker] {
                self.load(worker);
            }
        }
        for _ in 0..CALM_ROUNDS_MAX {
            while self.round()? {}
            // Only reservations end by time alone, and only by time the scan finds a ring.
            if self.waits_for_reservation() {
                advance(RESERVATION_STEP);
            } else if self.ends_silence() {
                advance(SCAN_INTERVAL);
            } else {
                return self.check_calm();
            }
        }
        Err("clients wait for reservations for ever".to_owned())
    }

    /// Shortens the silence of each client that has not notified by an interval of the scan. Returns whether there was
    /// any.
    fn ends_silence(&mut self) -> bool {
        let is_silent = |client: &mut Client| {
            let is_silent = client.silence > 0;
            client.silence = client.silence.saturating_sub(1);
            is_silent
        };
        self.clients.iter_mut().filter_map(|client| is_silent(client).then_some(())).count() > 0
    }

    fn round(&mut self) -> Result<bool, String> {
        let mut goes_on = false;
        for number in self.slots.clone() {
            if self.clients[number].wakes() {
                let sent = self.clients[number].send(usize::MAX);
                let has_more = sent | self.receive(number, 1 << 16)?;
                self.clients[number].is_awake = has_more;
                goes_on |= has_more;
            }
        }
        for worker in 0..usize::from(self.setup.workers) {
            goes_on |= self.pass(worker)?;
        }
        goes_on |= self.server.step_reaper();
        goes_on |= self.server.step_matcher();
        Ok(goes_on)
    }

    /// Lets all clients end, and checks that nothing is left of them.
    pub fn end(&mut self) -> Result<(), String> {
        for slot in 0..SOCKETS {
            self.close(slot);
        }
        for domid in GUESTS {
            if self.host.exists(domid) {
                self.destroy(domid);
            }
        }
        self.queue(self.slots[SOCKETS], &Action::Reset, false);
        self.calm()?;
        advance(SNAPSHOT_AGE_MAX);
        self.calm()?;
        self.check_end()
    }
}

/// Rounds in which reservations must have ended: each lasts for two steps at most, and each client waits for a few.
const CALM_ROUNDS_MAX: usize = 100;
const RESERVATION_STEP: Duration = Duration::from_millis(25);

/// Returns the slot of a domain's ring.
pub fn slot_of(domid: u16) -> usize {
    match GUESTS.iter().position(|guest| *guest == domid) {
        Some(at) => CONTROL + at,
        None => SOCKETS,
    }
}

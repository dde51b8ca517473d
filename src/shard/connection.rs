//! One client: its bytes, its watches, its transactions.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::time::Instant;

use foldhash::fast::RandomState;

use super::delivery::ChangeEvents;
use super::guards::Failing;
use super::mailbox::Asker;
use super::output::Output;
use super::stalls::Stall;
use super::trace;
use super::watches::{WatchId, Watches};
use crate::domain::{Domain, Load, Quota, Registry, Ticket};
use crate::protocol::{Header, ReplySlot};
use crate::store::{Caller, Transaction, Unblocked};
use crate::sync::Arc;
use crate::transport::{Disconnect, Ring, Transport};
use crate::words::{Domid, Errno, Path};

/// With more than this unsent, no further requests of a client are read: it has to read its replies.
pub const OUTPUT_PAUSE_BYTES: usize = 64 << 10;
/// With more than this unsent, the events of a watch collapse into one with the watch's own path.
pub const OUTPUT_COLLAPSE_BYTES: usize = 1 << 20;
/// With more than this unsent a socket client is closed: it sets watches and does not read.
const OUTPUT_CLOSE_BYTES: usize = 16 << 20;
/// The same three for a ring: a guest has 1,024 bytes of its own to keep up with.
pub const RING_PAUSE_BYTES: usize = 8 << 10;
/// See [`OUTPUT_COLLAPSE_BYTES`].
pub const RING_COLLAPSE_BYTES: usize = 64 << 10;
/// The control domain's kernel gets more. It learns of all backends by one watch, and an event that names
/// none of them tells it nothing: of a hundred domains that start at once 64 KiB wait for it, of 10,000 more
/// than 16 MiB. Each guest that fills it is held back, by requests and by bytes.
pub const KERNEL_COLLAPSE_BYTES: usize = 64 << 20;

/// What a transaction that no quota binds is charged with at a time, in bytes. All toolstacks have one
/// account: were it brought up to date with each request, all threads would write to it in turn.
const CHARGE_STEP: u64 = 16 << 10;

/// A transaction that a client has open.
pub struct OpenTransaction {
    /// What it did.
    pub transaction: Transaction,
    /// When its snapshots were taken, if it has any.
    pub snapshots_from: Option<Instant>,
    /// What is charged for it in the quota `memory`.
    pub charged: u64,
}

impl OpenTransaction {
    /// Sees to it that `needed` bytes are charged for a request on `path`; `false` if a quota of the caller's
    /// is reached.
    pub fn reserve(
        &mut self,
        registry: &Registry,
        caller: &Caller,
        needed: u64,
        path: Path<'_>,
    ) -> bool {
        let step = if caller.subject.privileged { CHARGE_STEP } else { 1 };
        let missing = needed.saturating_sub(self.charged).next_multiple_of(step);
        let domain = &caller.domain;
        if missing > 0 && !registry.reserve(domain, Quota::Memory, missing, Some(path)) {
            return false;
        }
        self.charged += missing;
        true
    }

    /// Charges what it holds, whatever the quota: what one request copies may be above it. A transaction whose
    /// snapshots were given up keeps its charge until its log has been run again, which takes as much anew.
    pub fn recharge(&mut self, caller: &Caller) {
        let is_privileged = caller.subject.privileged;
        let held = self.transaction.bytes() as u64;
        let step = if is_privileged { CHARGE_STEP } else { 1 };
        let held = held.next_multiple_of(step);
        if held < self.charged && (is_privileged || self.transaction.is_behind()) {
            return;
        }
        charge_anew(&caller.domain, &mut self.charged, held);
        self.transaction.note_charged();
    }
}

/// Charges `held` bytes in the quota `memory`, of which `charged` are charged already. What stays as it is is not
/// written: threads share the control domain's account.
fn charge_anew(domain: &Domain, charged: &mut u64, held: u64) {
    let before = std::mem::replace(charged, held);
    match held.cmp(&before) {
        Ordering::Greater => domain.account.charge(Quota::Memory, held - before),
        Ordering::Equal => {}
        Ordering::Less => _ = domain.account.release(Quota::Memory, before - held),
    }
}

/// Why a request of a client waits.
pub enum Parked {
    /// For an answer; the request that it is the answer to.
    Answer(Header),
    /// Until a turn comes or is over: then the same request is tried again.
    Guard,
}

/// A client.
pub struct Connection {
    /// Where its thread keeps it, under which number: what tells it from others that have its place before or after.
    pub asker: Asker,
    /// The domain whose rights it has.
    pub domain: Arc<Domain>,
    /// How its bytes come and go.
    pub transport: Transport,
    /// Bytes that were read and not used yet.
    pub partial: Vec<u8>,
    /// Whole messages wait in `partial` or in the transport.
    pub more_input: bool,
    /// Its guest did something since the last pass looked, and may not have said so.
    pub look_again: bool,
    /// It had more to do than one turn allows when it was served last; see [`ReadyList`](super::ready::ReadyList).
    pub is_busy: bool,
    /// Its client sends no more than what can be read already.
    pub ends: bool,
    /// It is at a quota: it has to be served before it may ask for more.
    pub throttled: bool,
    /// What waits to be sent.
    pub output: Output,
    /// What of `output` is charged in the quota `memory`.
    pub output_charged: u64,
    /// Its watches.
    pub watches: Watches,
    /// The number of the last of its former watches; see [`FormerWatches::are_out`](super::former::FormerWatches).
    pub former_watches: u64,
    /// Its transactions by id.
    pub transactions: HashMap<u32, OpenTransaction, RandomState>,
    /// The id that the next transaction is tried with.
    pub next_transaction: u32,
    /// What is remembered of those that failed.
    pub failing: Failing,
    /// No request of it is taken: its domain is quiescing or quiesced.
    pub is_quiesced: bool,
    /// Another number whenever something is added to it, unless it is the news of this host's domains: not used
    /// twice for a domid. See [`Connection::version`].
    pub additions: u64,
    /// Why it is not read.
    pub parked: Option<Parked>,
    /// While it waits for the settling of what it removed: the events that come meanwhile, its own
    /// first. They follow the reply.
    pub late: Option<Vec<(ChangeEvents, Option<Arc<Ticket>>)>>,
    /// Its next request was taken before and had to wait.
    pub comes_again: bool,
    /// What is known of it if it takes nothing.
    pub stall: Option<Stall>,
    /// When it is looked at again if it is parked for a guard.
    pub alarm: Option<Instant>,
    /// It is served no more: of a ring, for this reason.
    pub ignored: bool,
    /// Its socket is watched for room to write.
    pub listens_for_room: bool,
    /// It is on the ready list.
    pub ready: bool,
    /// Called when its domain may go on.
    pub unblocked: Option<Unblocked>,
    /// Who asked in its last pass.
    pub caller: Option<Caller>,
}

impl Connection {
    /// A new client.
    pub fn new(asker: Asker, domain: Arc<Domain>, transport: Transport) -> Connection {
        Connection {
            asker,
            domain,
            transport,
            partial: Vec::new(),
            more_input: false,
            look_again: false,
            is_busy: false,
            ends: false,
            throttled: false,
            output: Output::default(),
            output_charged: 0,
            watches: Watches::new(asker.id),
            former_watches: 0,
            transactions: HashMap::default(),
            next_transaction: 1,
            failing: Failing::default(),
            is_quiesced: false,
            additions: 0,
            parked: None,
            late: None,
            comes_again: false,
            stall: None,
            alarm: None,
            ignored: false,
            listens_for_room: false,
            ready: false,
            unblocked: None,
            caller: None,
        }
    }

    /// Its domain's number.
    pub fn domid(&self) -> Domid {
        self.domain.domid
    }

    /// Its ring, if it has one.
    pub fn ring(&mut self) -> Option<&mut Ring> {
        match &mut self.transport {
            Transport::Ring(ring) => Some(ring),
            Transport::Socket(_) => None,
        }
    }

    /// Whether it is a guest's: throttled and charged. Sockets and the control domain never are.
    pub fn is_guest(&self) -> bool {
        self.unblocked.is_some()
    }

    /// With more than this unsent it is not read, and events collapse.
    pub fn output_limits(&self) -> (usize, usize) {
        match self.transport {
            Transport::Ring(_) if self.is_guest() => (RING_PAUSE_BYTES, RING_COLLAPSE_BYTES),
            Transport::Ring(_) => (RING_PAUSE_BYTES, KERNEL_COLLAPSE_BYTES),
            Transport::Socket(_) => (OUTPUT_PAUSE_BYTES, OUTPUT_COLLAPSE_BYTES),
        }
    }

    /// Whether more waits for a socket than a client may leave unread.
    pub fn is_over_its_limit(&self) -> bool {
        matches!(self.transport, Transport::Socket(_)) && self.output.len() > OUTPUT_CLOSE_BYTES
    }

    /// Whether there is something that time alone changes: see the thread's tick.
    pub fn needs_tick(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether a request waits to be served or answered, or an answer to be taken.
    pub fn owes_anything(&self) -> bool {
        self.more_input || self.parked.is_some() || !self.output.is_empty()
    }

    /// Sends what the client takes.
    ///
    /// # Errors
    /// Why it ends.
    pub fn flush(&mut self) -> Result<(), Disconnect> {
        while !self.output.is_empty() {
            match self.transport.write(self.output.unsent())? {
                0 => break,
                len => self.output.advance(len),
            }
        }
        self.recharge_output();
        Ok(())
    }

    /// Queues the reply to a request.
    pub fn reply(
        &mut self,
        header: &Header,
        result: Result<&[u8], Errno>,
        ticket: Option<Arc<Ticket>>,
    ) {
        let slot = ReplySlot::begin(self.output.buffer(), header);
        if let Ok(payload) = result {
            self.output.buffer().extend_from_slice(payload);
        }
        let start = slot.finish(self.output.buffer(), result.map(|_| ()));
        self.replied(start, ticket);
    }

    /// Notes a reply that was written to the output's buffer, where it begins at `start`.
    pub fn replied(&mut self, start: usize, ticket: Option<Arc<Ticket>>) {
        trace::queued(&self.asker, &self.domain, &self.output, start);
        if self.is_guest() {
            self.output.note_reply(ticket);
        }
    }

    /// Queues an event of one of its watches: of this path, or of the watched one. Returns whether a message
    /// was added that is the client's to keep if the domain moves: an equal one may wait already, and special
    /// paths are the host's.
    pub fn queue_event(
        &mut self,
        id: WatchId,
        changed: Option<&[u8]>,
        ticket: Option<Arc<Ticket>>,
        now: Instant,
    ) -> bool {
        let Some(watch) = self.watches.get(id) else { return false };
        let path = watch.path.as_path();
        let shown = watch.shown(changed.unwrap_or(path.bytes()));
        let start = self.output.buffer().len();
        let bytes = self.output.push_event(shown, &watch.token, now);
        let added = bytes > 0;
        if added && let Some(ticket) = ticket {
            // Guests are charged with what they do not read.
            let unread = if self.is_guest() { 0 } else { bytes };
            self.output.hold_back(Load::unread(ticket, unread));
        }
        let is_kept = added && !path.is_special();
        trace::queued(&self.asker, &self.domain, &self.output, start);
        is_kept
    }

    /// Queues the event that was deferred first.
    pub fn queue_next_deferred(&mut self, now: Instant) {
        if let Some(id) = self.watches.next_deferred() {
            self.queue_event(id, None, None, now);
        }
    }

    /// Traces that it, or a thing of it, comes or goes.
    pub fn trace(&self, what: fmt::Arguments<'_>) {
        trace::object(&self.asker, &self.domain, what);
    }

    /// Brings the charge for unsent bytes up to date.
    pub fn recharge_output(&mut self) {
        if self.is_guest() {
            charge_anew(&self.domain, &mut self.output_charged, self.output.len() as u64);
        }
    }
}

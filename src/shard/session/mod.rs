//! A session: one client's protocol, without I/O, clock or threads. Bytes and events come in, bytes go out behind
//! [`Session::output`]; the time is [`Core::now`](core::Core::now), and when the client is to be looked at again is
//! [`Session::next_timeout`].

pub mod core;
pub mod deferred;
pub mod failing;
pub mod former;
pub mod open_transaction;
pub mod output;
pub mod reservations;
pub mod snapshots;
pub mod transactions;
pub mod watches;
pub mod watching;

use std::collections::HashMap;
use std::fmt;
use std::time::Instant;

use foldhash::fast::RandomState;

use self::core::Core;
use self::failing::Failing;
use self::open_transaction::{OpenTransaction, charge_anew};
use self::output::Output;
use self::watches::{ChangeEvents, WatchId, Watches};
use super::mailbox::Asker;
use super::trace;
use crate::domain::{Domain, Load, Quota, Ticket, UNDELIVERED_MAX, UNREAD_BYTES_MAX};
use crate::protocol::{Header, ReplySlot};
use crate::store::{Caller, Unblocked};
use crate::sync::{Arc, Ordering};
use crate::words::{Domid, Errno};

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

/// Why a request of a client waits.
pub enum Parked {
    /// For an answer; the request that it is the answer to.
    Answer(Header),
    /// Until a turn comes or is over, or this time: then the same request is tried again.
    Guard(Instant),
}

/// Whose client it is, which says what it may leave unread.
pub enum Kind {
    /// A process of the control domain.
    Socket,
    /// The control domain's kernel.
    Kernel,
    /// A guest: it is throttled and charged. This is called when its domain may go on.
    Guest(Unblocked),
}

/// Whether a client's domain is served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Its requests are taken.
    Running,
    /// No request of it is taken: its domain is quiescing or quiesced, and what it is may be exported.
    Quiesced,
}

/// What of a client's input is known to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Nothing, until something more comes.
    Nothing,
    /// Whole messages, in [`Session::partial`] or in the transport.
    Requests,
    /// The same, and the first of them was taken before and had to wait.
    Retry,
}

/// One client's protocol.
pub struct Session {
    /// Where its worker keeps it, under which number: what tells it from others that have its place before or after.
    pub asker: Asker,
    /// The domain whose rights it has.
    pub domain: Arc<Domain>,
    /// Whose client it is.
    pub kind: Kind,
    /// Bytes that were read and not used yet.
    pub partial: Vec<u8>,
    /// What else waits to be read.
    pub pending: Pending,
    /// What waits to be sent.
    pub output: Output,
    /// What of `output` is charged in the quota `memory`.
    pub output_charged: u64,
    /// Its watches.
    pub watches: Watches,
    /// The number of the last of its former watches; see [`FormerWatches::are_out`](former::FormerWatches::are_out).
    pub former_watches: u64,
    /// Its transactions by id.
    pub transactions: HashMap<u32, OpenTransaction, RandomState>,
    /// The id that the next transaction is tried with.
    pub next_transaction: u32,
    /// What is remembered of those that failed.
    pub failing: Failing,
    /// Whether its domain is served.
    pub service: Service,
    /// Another number whenever something is added to it, unless it is the news of this host's domains: not used
    /// twice for a domid. See [`Session::version`].
    pub additions: u64,
    /// Why it is not read.
    pub parked: Option<Parked>,
    /// While it waits for the settling of what it removed: the events that come meanwhile, its own
    /// first. They follow the reply.
    pub late: Option<Vec<(ChangeEvents, Option<Arc<Ticket>>)>>,
    /// Who asked in its last pass.
    pub caller: Option<Caller>,
}

impl Session {
    /// A new client.
    pub fn new(asker: Asker, domain: Arc<Domain>, kind: Kind) -> Session {
        Session {
            asker,
            domain,
            kind,
            partial: Vec::new(),
            pending: Pending::Nothing,
            output: Output::default(),
            output_charged: 0,
            watches: Watches::new(asker.id),
            former_watches: 0,
            transactions: HashMap::default(),
            next_transaction: 1,
            failing: Failing::default(),
            service: Service::Running,
            additions: 0,
            parked: None,
            late: None,
            caller: None,
        }
    }

    /// Its domain's number.
    pub fn domid(&self) -> Domid {
        self.domain.domid
    }

    /// Whether it is a guest's: throttled and charged. Sockets and the control domain never are.
    pub fn is_guest(&self) -> bool {
        matches!(self.kind, Kind::Guest(_))
    }

    /// Whether no request is taken because of what its domain does.
    pub fn is_quiesced(&self) -> bool {
        self.service == Service::Quiesced
    }

    /// With more than this unsent it is not read, and events collapse.
    pub fn output_limits(&self) -> (usize, usize) {
        match self.kind {
            Kind::Guest(_) => (RING_PAUSE_BYTES, RING_COLLAPSE_BYTES),
            Kind::Kernel => (RING_PAUSE_BYTES, KERNEL_COLLAPSE_BYTES),
            Kind::Socket => (OUTPUT_PAUSE_BYTES, OUTPUT_COLLAPSE_BYTES),
        }
    }

    /// Whether more waits for a socket than a client may leave unread.
    pub fn is_over_its_limit(&self) -> bool {
        matches!(self.kind, Kind::Socket) && self.output.len() > OUTPUT_CLOSE_BYTES
    }

    /// When it is to be served again though nothing happens to it.
    pub fn next_timeout(&self) -> Option<Instant> {
        match self.parked {
            Some(Parked::Guard(until)) => Some(until),
            Some(Parked::Answer(_)) | None => None,
        }
    }

    /// Whether a request waits to be served or answered, or an answer to be taken.
    pub fn owes_anything(&self) -> bool {
        self.pending != Pending::Nothing || self.parked.is_some() || !self.output.is_empty()
    }

    /// Another number whenever something changed that is carried and no node: what is on the way,
    /// watches, transactions, settings. Both parts only grow.
    pub fn version(&self) -> u64 {
        self.additions + self.domain.settings()
    }

    /// Something was added to it, which is of this version now: if it is exported, that was not all.
    pub fn outdate(&mut self, version: u64) {
        self.additions = version;
    }

    /// Whether a guest has to be served before it may ask for more. Above its quota of memory it has to read what
    /// waits for it, if anything does; what else it keeps only its own requests can end, and the next one that
    /// would add to it is refused.
    pub fn is_throttled(&self, core: &Core) -> bool {
        if !self.is_guest() {
            return false;
        }
        let (domain, registry) = (&self.domain, core.shared.store.registry());
        let used = |quota| domain.account.used(quota);
        let outstanding = used(Quota::Outstanding) + self.output.plain_replies() as u64;
        let (requests, bytes) =
            (registry.limit(domain, Quota::Outstanding), registry.limit(domain, Quota::Memory));
        requests != 0 && outstanding >= u64::from(requests)
            || bytes != 0 && self.output_charged > 0 && used(Quota::Memory) > u64::from(bytes)
            || domain.undelivered() >= UNDELIVERED_MAX
            || domain.unread_bytes() >= UNREAD_BYTES_MAX
    }

    /// Who asks, with the rights of this moment: as it was left with the session, if it was, so that
    /// the control domain's references are not counted by all threads at each pass of a socket.
    pub fn take_caller(&mut self, core: &Core) -> Caller {
        let subject = core.shared.store.registry().subject(&self.domain);
        let epoch = core.shared.store.epoch();
        match self.caller.take() {
            Some(caller) => Caller { subject, epoch, ..caller },
            None => {
                let unblocked = match &self.kind {
                    Kind::Guest(unblocked) => Some(Arc::clone(unblocked)),
                    Kind::Socket | Kind::Kernel => None,
                };
                Caller { domain: Arc::clone(&self.domain), subject, epoch, unblocked }
            }
        }
    }

    /// Parks it until another thread replies. Returns the handle to which the reply is addressed.
    pub fn park(&mut self, core: &Core, header: &Header) -> Asker {
        self.parked = Some(Parked::Answer(*header));
        core.shared.parked.fetch_add(1, Ordering::Relaxed);
        self.asker
    }

    /// Ends the wait; returns the request that it was for.
    pub fn unpark(&mut self, core: &Core) -> Option<Header> {
        match self.parked.take() {
            Some(Parked::Answer(header)) => {
                core.shared.parked.fetch_sub(1, Ordering::Relaxed);
                Some(header)
            }
            _ => None,
        }
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

    /// Brings the charge for what is unsent up to date.
    pub fn recharge_output(&mut self) {
        if self.is_guest() {
            charge_anew(&self.domain, &mut self.output_charged, self.output.charge_bytes());
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests;

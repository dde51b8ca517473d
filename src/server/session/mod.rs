//! A session: one client's protocol state, without I/O, clock or threads. Bytes and events come in, and bytes go out in
//! [`Session::output`]. The time is [`Core::now`](core::Core::now), and the next timeout [`Session::next_timeout`].

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
use super::author::Author;
use super::mailbox::ReplyTo;
use super::trace;
use crate::domain::{Domain, Load, Quota, Ticket, UNDELIVERED_MAX, UNREAD_BYTES_MAX};
use crate::protocol::{Header, ReplySlot};
use crate::store::{Caller, Unblocked};
use crate::sync::{Arc, Ordering};
use crate::types::{Domid, Errno};

/// With more unsent bytes than this, no further requests of a client are read until it reads its replies. This bounds
/// the memory of a client that sends requests and does not read (XSA-326).
pub const OUTPUT_PAUSE_BYTES: usize = 64 << 10;
/// With more unsent bytes than this, the events of a watch collapse into one with the watched path.
pub const OUTPUT_COLLAPSE_BYTES: usize = 1 << 20;
/// With more unsent bytes than this, a socket client is closed: it sets watches and does not read.
const OUTPUT_CLOSE_BYTES: usize = 16 << 20;
/// Like [`OUTPUT_PAUSE_BYTES`], for a ring: a guest reads at most 1,024 bytes at a time, the size of its response ring.
/// A ring is never closed for its output.
pub const RING_PAUSE_BYTES: usize = 8 << 10;
/// With more unsent bytes than this, the events of a guest are deferred: each watch gets one with the watched path once
/// there is room.
pub const RING_COLLAPSE_BYTES: usize = 64 << 10;
/// The limit for the control domain's kernel. The kernel learns of all backends by one watch, so a collapsed event,
/// which names no backend, is useless to it. A hundred domains that start at once cause 64 KiB of events for the
/// kernel, and 10,000 domains more than 16 MiB. Each guest that causes its events is held back, by requests and by
/// bytes.
pub const KERNEL_COLLAPSE_BYTES: usize = 64 << 20;

/// The reason why a client is not read, with the request that waits.
pub enum Parked {
    /// For a reply of another thread to the request with this header.
    Reply(Header),
    /// For a reservation, or for the end of one, until this time at the latest: then the request is retried.
    Reserved(Instant),
}

/// The kind of a client, on which its limits depend.
pub enum Kind {
    /// A process of the control domain.
    Socket,
    /// The control domain's kernel.
    Kernel,
    /// A guest, which is throttled and charged, with the callback to call when its domain may proceed.
    Guest(Unblocked),
}

/// Whether a client's requests are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The client's requests are taken.
    Running,
    /// The client's domain is quiescing or quiesced: no request is taken, and the session may be exported.
    Quiesced,
}

/// The known state of a client's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// No message is waiting.
    Nothing,
    /// Messages may be waiting, in [`Session::partial`] or in the transport.
    Requests,
    /// Messages may be waiting, and the first one was attempted before and had to wait.
    Retry,
}

/// One client's protocol state.
pub struct Session {
    /// The reply address: the session's slot and number on its worker.
    pub reply_to: ReplyTo,
    /// The domain whose rights the client has.
    pub domain: Arc<Domain>,
    /// The kind of client.
    pub kind: Kind,
    /// Bytes that were read and not consumed. Of a ring hardly more than a message, since others stay in the page.
    pub partial: Vec<u8>,
    /// Whether more input is waiting.
    pub pending: Pending,
    /// Replies and events to be sent.
    pub output: Output,
    /// The charge for `output` in the quota `memory`.
    pub output_charged: u64,
    pub watches: Watches,
    /// The number of the last of the session's former watches; see
    /// [`FormerWatches::are_out`](former::FormerWatches::are_out).
    pub former_watches: u64,
    /// The open transactions by id.
    pub transactions: HashMap<u32, OpenTransaction, RandomState>,
    /// The first id that the next transaction tries.
    pub next_transaction: u32,
    /// The memory of failed transactions.
    pub failing: Failing,
    /// Whether the domain's requests are taken.
    pub service: Service,
    /// A number that changes with every addition to the session except events of special paths, which concern this host
    /// only. Never reused for a domid. See [`Session::version`].
    pub additions: u64,
    /// The reason why the client is not read, if it is parked.
    pub parked: Option<Parked>,
    /// Post-reply events, while the session is parked until the reaper has settled its removal: the events queued
    /// meanwhile, its own first. Post-reply events must follow the reply.
    pub post_reply: Option<Vec<(ChangeEvents, Option<Arc<Ticket>>)>>,
    /// The caller of the last quantum, kept for the next one; see [`Session::take_caller`].
    pub caller: Option<Caller>,
    /// The process of a socket client, if the system tells.
    pub pid: Option<u32>,
    /// The client as the author of domains' states, once it has sent a request about a domain.
    pub author: Option<Arc<Author>>,
}

impl Session {
    /// Creates a session of a new client.
    pub fn new(reply_to: ReplyTo, domain: Arc<Domain>, kind: Kind) -> Session {
        Session {
            reply_to,
            domain,
            kind,
            partial: Vec::new(),
            pending: Pending::Nothing,
            output: Output::default(),
            output_charged: 0,
            // The connection's number is never reused on this worker, so neither is the generation of any list.
            watches: Watches::new(reply_to.id),
            former_watches: 0,
            transactions: HashMap::default(),
            next_transaction: 1,
            failing: Failing::default(),
            service: Service::Running,
            additions: 0,
            parked: None,
            post_reply: None,
            caller: None,
            pid: None,
            author: None,
        }
    }

    /// Returns the domid of the session's domain.
    pub fn domid(&self) -> Domid {
        self.domain.domid
    }

    /// Returns whether the client is a guest, which is throttled and charged. Clients of the control domain never are.
    pub fn is_guest(&self) -> bool {
        matches!(self.kind, Kind::Guest(_))
    }

    /// Returns whether no request is taken because the domain is quiescing or quiesced.
    pub fn is_quiesced(&self) -> bool {
        self.service == Service::Quiesced
    }

    /// Returns the numbers of unsent bytes above which the client is not read, and above which its events collapse or
    /// are deferred.
    pub fn output_limits(&self) -> (usize, usize) {
        match self.kind {
            Kind::Guest(_) => (RING_PAUSE_BYTES, RING_COLLAPSE_BYTES),
            Kind::Kernel => (RING_PAUSE_BYTES, KERNEL_COLLAPSE_BYTES),
            Kind::Socket => (OUTPUT_PAUSE_BYTES, OUTPUT_COLLAPSE_BYTES),
        }
    }

    /// Returns whether the output of a socket client is so large that it is closed.
    pub fn is_over_its_limit(&self) -> bool {
        matches!(self.kind, Kind::Socket) && self.output.len() > OUTPUT_CLOSE_BYTES
    }

    /// Returns when to serve the session even if nothing happens to it before.
    pub fn next_timeout(&self) -> Option<Instant> {
        match self.parked {
            Some(Parked::Reserved(until)) => Some(until),
            Some(Parked::Reply(_)) | None => None,
        }
    }

    /// Returns whether a request, a reply or an event is pending.
    pub fn owes_anything(&self) -> bool {
        self.pending != Pending::Nothing || self.parked.is_some() || !self.output.is_empty()
    }

    /// Returns a number that changes with everything an export saves except nodes: output, watches, transactions,
    /// settings. Both summands only grow, so no sum recurs.
    pub fn version(&self) -> u64 {
        self.additions + self.domain.settings()
    }

    /// Records an addition, which makes an export of an earlier version incomplete.
    pub fn outdate(&mut self, version: u64) {
        self.additions = version;
    }

    /// Returns whether a guest has too much outstanding to be read. A guest above its memory quota must read its
    /// pending output first, if there is any. Its other memory can only be freed by its own requests, so these are
    /// read, and requests that would use more memory are refused.
    pub fn is_throttled(&self, core: &Core) -> bool {
        if !self.is_guest() {
            return false;
        }
        let (domain, registry) = (&self.domain, core.registry());
        let used = |quota| domain.account.used(quota);
        // Only requests that caused events have a ticket and are in the account; the output counts the other replies.
        let outstanding = used(Quota::Outstanding) + self.output.plain_replies() as u64;
        let (requests, bytes) =
            (registry.limit(domain, Quota::Outstanding), registry.limit(domain, Quota::Memory));
        requests != 0 && outstanding >= u64::from(requests)
            || bytes != 0 && self.output_charged > 0 && used(Quota::Memory) > u64::from(bytes)
            || domain.undelivered() >= UNDELIVERED_MAX
            || domain.unread_bytes() >= UNREAD_BYTES_MAX
    }

    /// Returns the caller with its present rights. The caller is kept between passes, as otherwise all workers would
    /// contend for the reference count of the control domain in each pass of a socket.
    pub fn take_caller(&mut self, core: &Core) -> Caller {
        let subject = core.registry().subject(&self.domain);
        // Read before the first path is compared with the reserved ones: the store refuses a write if a reservation has
        // begun since.
        let epoch = core.shared.store.epoch();
        match self.caller.take() {
            Some(caller) => Caller { subject, epoch, ..caller },
            None => {
                let unblocked = match &self.kind {
                    Kind::Guest(unblocked) => Some(Arc::clone(unblocked)),
                    // They are never throttled, so no request of theirs needs a ticket.
                    Kind::Socket | Kind::Kernel => None,
                };
                Caller { domain: Arc::clone(&self.domain), subject, epoch, unblocked }
            }
        }
    }

    /// Parks the session until another thread replies. Returns the reply address.
    pub fn park(&mut self, core: &Core, header: &Header) -> ReplyTo {
        trace::waits(&self.reply_to, &self.domain, header);
        self.parked = Some(Parked::Reply(*header));
        // Counted for the stop, which waits until each parked connection has its reply.
        core.shared.parked.fetch_add(1, Ordering::Relaxed);
        self.reply_to
    }

    /// Ends the wait for a reply. Returns the header of the request.
    pub fn unpark(&mut self, core: &Core) -> Option<Header> {
        match self.parked.take() {
            Some(Parked::Reply(header)) => {
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

    /// Records a reply that was written to the output's buffer at offset `start`.
    pub fn replied(&mut self, start: usize, ticket: Option<Arc<Ticket>>) {
        trace::queued(&self.reply_to, &self.domain, &self.output, start);
        // Only a guest's replies count as outstanding.
        if self.is_guest() {
            self.output.note_reply(ticket);
        }
    }

    /// Queues an event of a watch, with the changed path, or the watched one if that is `None`. Returns whether this
    /// added a message that an export has to save. No message is added if an equal event is pending, and none has to be
    /// saved if the path is special, as special paths concern this host only.
    pub fn queue_event(
        &mut self,
        id: WatchId,
        changed: Option<&[u8]>,
        ticket: Option<Arc<Ticket>>,
        now: Instant,
    ) -> bool {
        // It may have been removed since the event was found.
        let Some(watch) = self.watches.get(id) else { return false };
        let path = watch.path.as_path();
        let shown = watch.shown(changed.unwrap_or(path.bytes()));
        let start = self.output.buffer().len();
        let bytes = self.output.push_event(shown, &watch.token, now);
        let added = bytes > 0;
        if added && let Some(ticket) = ticket {
            // A guest is charged for its own unread bytes; those of the control domain's kernel count against the
            // domain that caused the event.
            let unread = if self.is_guest() { 0 } else { bytes };
            self.output.hold_back(Load::unread(ticket, unread));
        }
        // Otherwise each domain that leaves this host would invalidate the marks of all that watch `@releaseDomain`.
        let is_kept = added && !path.is_special();
        trace::queued(&self.reply_to, &self.domain, &self.output, start);
        is_kept
    }

    /// Queues the oldest deferred event.
    pub fn queue_next_deferred(&mut self, now: Instant) {
        if let Some(id) = self.watches.next_deferred() {
            self.queue_event(id, None, None, now);
        }
    }

    /// Traces the creation or end of the session or of one of its objects.
    pub fn trace(&self, what: fmt::Arguments<'_>) {
        trace::object(&self.reply_to, &self.domain, what);
    }

    /// Updates the charge for the unsent bytes.
    pub fn recharge_output(&mut self) {
        if self.is_guest() {
            charge_anew(&self.domain, &mut self.output_charged, self.output.charge_bytes());
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests;

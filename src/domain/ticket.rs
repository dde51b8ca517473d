//! Tracking of unfinished requests.

use std::fmt;

use super::{Domain, Quota, Registry};
use crate::sync::{Arc, AtomicU64, Ordering};

/// A reference to an unfinished guest request, held by its reply and by each event that it caused, until these are
/// delivered, merged or dropped. The last reference releases the slot in the quota `outstanding` and, if the quota
/// blocked the ring, reports that it is unblocked.
pub struct Ticket {
    domain: Arc<Domain>,
    registry: Arc<Registry>,
    /// A function, as this layer must not know the workers that serve rings.
    unblocked: Arc<dyn Fn(&Domain) + Send + Sync>,
}

impl Ticket {
    /// Creates a ticket for one request of `domain`; `unblocked` is called on whichever thread drops the last
    /// reference.
    pub fn new(
        domain: &Arc<Domain>,
        registry: &Arc<Registry>,
        unblocked: &Arc<dyn Fn(&Domain) + Send + Sync>,
    ) -> Arc<Ticket> {
        // Not refused above the limit: the request has been executed. The limit stops the reading of further ones.
        domain.account.charge(Quota::Outstanding, 1);
        Arc::new(Ticket {
            domain: Arc::clone(domain),
            registry: Arc::clone(registry),
            unblocked: Arc::clone(unblocked),
        })
    }
}

// The limit is compared by `>=`, as it may have been lowered meanwhile: a call too many only makes the worker look at
// the ring.
impl Drop for Ticket {
    fn drop(&mut self) {
        let before = self.domain.account.release(Quota::Outstanding, 1);
        let limit = self.registry.limit(&self.domain, Quota::Outstanding);
        if limit != 0 && before >= u64::from(limit) {
            (self.unblocked)(&self.domain);
        }
    }
}

/// The weight of events caused by a guest's request, while they are in transit. Back-pressure: a guest's ring is not
/// read while its events weigh too much at any stage.
pub struct Load {
    ticket: Arc<Ticket>,
    stage: Stage,
    weight: u64,
}

/// A stage in the delivery of a guest's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not yet delivered by any thread; weighed in watches to be notified.
    Undelivered,
    /// Pending in the ring of the control domain's kernel; weighed in bytes.
    Unread,
}

/// The weight of a guest's undelivered events at which its ring is no longer read: as many watches as a guest may set.
/// The last request may exceed the limit.
pub const UNDELIVERED_MAX: u64 = 1024;
/// The same limit for events that the control domain's kernel has not read, in bytes: all guests together fill its
/// ring, and beyond a limit the events of a watch collapse into one. Events that other guests do not read are charged
/// to those guests, and do not hold back the guest that caused them.
pub const UNREAD_BYTES_MAX: u64 = 32 << 10;

impl Stage {
    fn weight_of(self, domain: &Domain) -> &AtomicU64 {
        match self {
            Stage::Undelivered => &domain.undelivered,
            Stage::Unread => &domain.unread_bytes,
        }
    }

    fn max(self) -> u64 {
        match self {
            Stage::Undelivered => UNDELIVERED_MAX,
            Stage::Unread => UNREAD_BYTES_MAX,
        }
    }
}

impl Load {
    /// Creates the load of undelivered events of this weight, caused by a request.
    pub fn undelivered(ticket: &Arc<Ticket>, weight: u64) -> Load {
        Load::new(ticket, Stage::Undelivered, weight)
    }

    /// Creates the load of an event of `bytes` bytes that is pending for the control domain's kernel.
    pub fn unread(ticket: Arc<Ticket>, bytes: usize) -> Load {
        Load::new(&ticket, Stage::Unread, bytes as u64)
    }

    fn new(ticket: &Arc<Ticket>, stage: Stage, weight: u64) -> Load {
        stage.weight_of(&ticket.domain).fetch_add(weight, Ordering::Relaxed);
        Load { ticket: Arc::clone(ticket), stage, weight }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let Ticket { domain, unblocked, .. } = &*self.ticket;
        // Exactly one drop crosses the limit, so that the worker gets one message and not one for each event.
        let before = self.stage.weight_of(domain).fetch_sub(self.weight, Ordering::AcqRel);
        let max = self.stage.max();
        if before >= max && before - self.weight < max {
            unblocked(domain);
        }
    }
}

/// Memory held for a guest besides its nodes, watches and transactions, charged for this value's lifetime.
pub struct Held {
    domain: Arc<Domain>,
    bytes: u64,
}

impl Held {
    /// Charges `bytes` to the quota `memory`, regardless of its limit.
    pub fn new(domain: &Arc<Domain>, bytes: u64) -> Held {
        // Not refused: the memory is in use already, and a guest above its quota is not read.
        domain.account.charge(Quota::Memory, bytes);
        Held { domain: Arc::clone(domain), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.domain.account.release(Quota::Memory, self.bytes);
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Load({} {:?} of {})", self.weight, self.stage, self.ticket.domain.domid)
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({})", self.domain.domid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::domain::Limits;

    type Unblocked = Arc<dyn Fn(&Domain) + Send + Sync>;

    /// Creates a domain, and a function that counts its calls.
    fn counted() -> (Arc<Registry>, Arc<Domain>, Unblocked, Arc<AtomicU64>) {
        let registry = Arc::new(Registry::new(Limits::defaults(), None));
        let domain = registry.admit(crate::types::Domid(5), 1).unwrap();
        let calls = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&calls);
        let unblocked = Arc::new(move |_: &Domain| _ = counted.fetch_add(1, Ordering::Relaxed));
        (registry, domain, unblocked, calls)
    }

    #[test]
    fn end_of_a_request_unblocks_only_a_domain_at_its_limit() {
        let (registry, domain, unblocked, calls) = counted();
        for (limit, expected) in [(0, 0), (2, 1), (3, 1)] {
            registry.set_limit(Some(&domain), Quota::Outstanding, limit);
            let two = [(); 2].map(|()| Ticket::new(&domain, &registry, &unblocked));
            drop(two);
            assert_eq!(calls.load(Ordering::Relaxed), expected, "at a limit of {limit}");
        }
        let ticket = Ticket::new(&domain, &registry, &unblocked);
        assert_eq!(format!("{ticket:?}"), "Ticket(5)");
    }

    #[test]
    fn delivery_unblocks_a_domain_above_the_undelivered_limit() {
        let (registry, domain, unblocked, calls) = counted();
        let ticket = Ticket::new(&domain, &registry, &unblocked);
        let loads = [1, UNDELIVERED_MAX - 1, 1].map(|weight| Load::undelivered(&ticket, weight));
        assert_eq!(domain.undelivered(), UNDELIVERED_MAX + 1);
        let mut called = loads.into_iter().map(|load| {
            drop(load);
            calls.load(Ordering::Relaxed)
        });
        assert!(called.by_ref().eq([0, 1, 1]));
        assert_eq!(domain.undelivered(), 0);
        // Events that others have not read are counted separately.
        let bytes = usize::try_from(UNREAD_BYTES_MAX).unwrap();
        let unread = Load::unread(Arc::clone(&ticket), bytes);
        assert_eq!((domain.unread_bytes(), domain.undelivered()), (UNREAD_BYTES_MAX, 0));
        drop(unread);
        assert_eq!((domain.unread_bytes(), calls.load(Ordering::Relaxed)), (0, 2));
    }
}

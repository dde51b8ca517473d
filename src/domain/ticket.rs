//! A request that is not over yet.

use std::fmt;

use super::{Domain, Quota, Registry};
use crate::sync::Arc;

/// Held by everything that a guest's request still waits for: its reply and each event that it
/// caused, until delivered, merged or dropped. The last one gone gives the place in the quota
/// `outstanding` back and, if the ring was blocked by it, says so.
pub struct Ticket {
    domain: Arc<Domain>,
    registry: Arc<Registry>,
    unblocked: Arc<dyn Fn(&Domain) + Send + Sync>,
}

impl Ticket {
    /// A ticket for one request of `domain`; `unblocked` is called from whatever thread ends it.
    pub fn new(
        domain: &Arc<Domain>,
        registry: &Arc<Registry>,
        unblocked: &Arc<dyn Fn(&Domain) + Send + Sync>,
    ) -> Arc<Ticket> {
        domain.account.charge(Quota::Outstanding, 1);
        Arc::new(Ticket {
            domain: Arc::clone(domain),
            registry: Arc::clone(registry),
            unblocked: Arc::clone(unblocked),
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let before = self.domain.account.release(Quota::Outstanding, 1);
        let limit = self.registry.limit(&self.domain, Quota::Outstanding);
        if limit != 0 && before >= u64::from(limit) {
            (self.unblocked)(&self.domain);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({})", self.domain.domid)
    }
}

//! The domain table of the simulated host, which replaces a hypervisor's.

use std::collections::BTreeSet;
use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Weak;

use rustix::io::write;
use slab::Slab;
use zerocopy::IntoBytes;

use super::lines::{Listed, Reason, SimError};
use crate::host::{DomainState, Port, RingPage};
use crate::sync::{Arc, Mutex};
use crate::types::Domid;

/// The port of every domain's end of its xenstore channel. The port does not identify the domain, as on a real host,
/// where the domain builder allocates this port first in every domain.
pub const XENSTORE_PORT: Port = 1;

/// The lowest local port. Higher than any remote port, so that a remote port passed in its place is refused.
const FIRST_LOCAL_PORT: Port = 16;

/// Domains in one reply to `list`. At 14 bytes each at most, the line stays below 4 KiB.
pub const LIST_MAX: usize = 256;

/// The resources of a new domain. The guest has the other end of the channel, and the page too.
pub struct Parts {
    /// The ring page.
    pub page: RingPage,
    /// The daemon's end of the event channel: the only descriptor that a domain costs.
    pub channel: OwnedFd,
}

/// An existing domain.
struct Domain {
    unique_id: u64,
    shutdown: Option<Reason>,
    page: RingPage,
    /// Bindings refer to it weakly: the channel of a destroyed domain closes at once, so it can neither be notified
    /// nor reported, even while a binding remains.
    channel: Arc<OwnedFd>,
    bound: Option<Port>,
}

/// The object to which a local port is bound.
enum Bound {
    Domain { domid: Domid, unique_id: u64 },
    Changes,
}

/// A domain's channel, claimed for one handle.
pub struct Claim {
    /// The local port.
    pub port: Port,
    /// The daemon's end of the channel; dead once the domain is destroyed.
    pub channel: Weak<OwnedFd>,
}

/// All domains. Every method holds the lock only for the table, never across a system call.
pub struct Domains {
    table: Mutex<Table>,
}

struct Table {
    /// One slot for each possible domid (256 KiB), so a look-up is an index.
    domains: Vec<Option<Box<Domain>>>,
    /// The domid last allocated to a client that requested no specific one.
    last: u16,
    /// The last unique_id. Never reused.
    unique_id: u64,
    /// Local ports in use.
    ports: Slab<Bound>,
    /// Domains that shut down or died since the last [`Domains::changed`].
    changed: BTreeSet<Domid>,
    /// The eventfd signalled when a domain shuts down or dies.
    bell: Option<Arc<OwnedFd>>,
}

impl Domains {
    /// Creates an empty table.
    pub fn new() -> Domains {
        let domains = (0..Domid::FIRST_RESERVED).map(|_| None).collect();
        let table = Table {
            domains,
            last: 0,
            unique_id: 0,
            ports: Slab::new(),
            changed: BTreeSet::new(),
            bell: None,
        };
        Domains { table: Mutex::new(table) }
    }

    /// Adds a domain: as `domid`, or as the next free domid above the last one allocated (wrapping to 1), as in Xen.
    pub fn insert(&self, domid: Option<Domid>, parts: Parts) -> Result<Domid, SimError> {
        let mut table = self.table.lock();
        let domid = match domid {
            Some(domid) if table.get(domid).is_some() => return Err(SimError::Exists),
            Some(domid) => domid,
            None => table.next_free().ok_or(SimError::Full)?,
        };
        table.unique_id += 1;
        let domain = Domain {
            unique_id: table.unique_id,
            shutdown: None,
            page: parts.page,
            channel: Arc::new(parts.channel),
            bound: None,
        };
        let slot = table.domains.get_mut(usize::from(domid.0)).ok_or(SimError::NoDomain)?;
        *slot = Some(Box::new(domain));
        Ok(domid)
    }

    /// Destroys a domain. The domain's channel is closed; its page lives until the last mapping is removed.
    pub fn destroy(&self, domid: Domid) -> Result<(), SimError> {
        let mut table = self.table.lock();
        let slot = table.domains.get_mut(usize::from(domid.0)).ok_or(SimError::NoDomain)?;
        let domain = slot.take().ok_or(SimError::NoDomain)?;
        let bell = table.change(domid);
        drop(table);
        ring(bell);
        drop(domain);
        Ok(())
    }

    /// Shuts a domain down, or resumes it (`None`).
    pub fn set_shutdown(&self, domid: Domid, reason: Option<Reason>) -> Result<(), SimError> {
        let mut table = self.table.lock();
        table.get_mut(domid).ok_or(SimError::NoDomain)?.shutdown = reason;
        // A hypervisor announces a domain's shutdown, but not its resumption.
        let bell = reason.and_then(|_| table.change(domid));
        drop(table);
        ring(bell);
        Ok(())
    }

    /// Returns the first [`LIST_MAX`] domains from `from` upwards.
    pub fn list(&self, from: Domid) -> Vec<Listed> {
        let table = self.table.lock();
        let slots = (0u16..).zip(&table.domains).skip(usize::from(from.0));
        let listed = slots.filter_map(|(domid, slot)| {
            slot.as_ref().map(|d| Listed { domid: Domid(domid), shutdown: d.shutdown })
        });
        listed.take(LIST_MAX).collect()
    }

    /// Returns a domain's state, as a hypervisor would report it.
    pub fn state(&self, domid: Domid) -> Option<DomainState> {
        let table = self.table.lock();
        table.get(domid).map(|domain| DomainState {
            unique_id: domain.unique_id,
            shutdown: domain.shutdown.is_some(),
            dying: false, // Destruction is immediate.
        })
    }

    /// Returns the daemon's end of a domain's channel.
    pub fn channel(&self, domid: Domid) -> Option<Arc<OwnedFd>> {
        self.table.lock().get(domid).map(|domain| domain.channel.clone())
    }

    /// Returns a view of a domain's page.
    pub fn page(&self, domid: Domid) -> Option<RingPage> {
        self.table.lock().get(domid).map(|domain| domain.page.clone())
    }

    /// Returns the domains that shut down or died since the last call.
    pub fn changed(&self) -> Vec<Domid> {
        let changed = mem::take(&mut self.table.lock().changed);
        changed.into_iter().collect()
    }

    /// Claims a domain's channel for one binding.
    ///
    /// # Errors
    /// `NotFound` for an unknown domain, `InvalidInput` if the port is not the domain's xenstore port, `ResourceBusy`
    /// if it is already bound.
    pub fn claim(&self, domid: Domid, remote: Port) -> io::Result<Claim> {
        let mut table = self.table.lock();
        let domain = table.get(domid).ok_or(io::ErrorKind::NotFound)?;
        if remote != XENSTORE_PORT {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if domain.bound.is_some() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let channel = Arc::downgrade(&domain.channel);
        let unique_id = domain.unique_id;
        let port = table.new_port(Bound::Domain { domid, unique_id })?;
        if let Some(domain) = table.get_mut(domid) {
            domain.bound = Some(port);
        }
        Ok(Claim { port, channel })
    }

    /// Claims the change notifications for one binding; they are signalled on the eventfd `bell`.
    ///
    /// # Errors
    /// `AlreadyExists` if they are already claimed.
    pub fn claim_changes(&self, bell: Arc<OwnedFd>) -> io::Result<Port> {
        let mut table = self.table.lock();
        if table.bell.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let port = table.new_port(Bound::Changes)?;
        table.bell = Some(bell.clone());
        let missed = !table.changed.is_empty();
        drop(table);
        ring(missed.then_some(bell));
        Ok(port)
    }

    /// Releases a local port and its claim.
    pub fn release(&self, port: Port) {
        let mut table = self.table.lock();
        let key = port.checked_sub(FIRST_LOCAL_PORT).map(|key| key as usize);
        match key.and_then(|key| table.ports.try_remove(key)) {
            Some(Bound::Changes) => table.bell = None,
            Some(Bound::Domain { domid, unique_id }) => {
                // The domid may have a new incarnation by now, with a binding of its own.
                if let Some(domain) = table.get_mut(domid).filter(|d| d.unique_id == unique_id) {
                    domain.bound = None;
                }
            }
            None => {}
        }
    }
}

impl Table {
    fn get(&self, domid: Domid) -> Option<&Domain> {
        self.domains.get(usize::from(domid.0))?.as_deref()
    }

    fn get_mut(&mut self, domid: Domid) -> Option<&mut Domain> {
        self.domains.get_mut(usize::from(domid.0))?.as_deref_mut()
    }

    fn next_free(&mut self) -> Option<Domid> {
        let first = self.last + 1;
        let mut numbers = (first..Domid::FIRST_RESERVED).chain(1..first);
        let free = numbers.find(|&number| self.get(Domid(number)).is_none())?;
        self.last = free;
        Some(Domid(free))
    }

    fn new_port(&mut self, bound: Bound) -> io::Result<Port> {
        let port = Port::try_from(self.ports.vacant_key()).map_err(io::Error::other)?;
        self.ports.insert(bound);
        Ok(port + FIRST_LOCAL_PORT)
    }

    /// Records that a domain changed. Returns the eventfd, to be signalled after the lock is released.
    fn change(&mut self, domid: Domid) -> Option<Arc<OwnedFd>> {
        self.changed.insert(domid);
        self.bell.clone()
    }
}

/// Signals an eventfd, if there is one. The write fails only if the count is full, in which case the eventfd is
/// already readable.
fn ring(bell: Option<Arc<OwnedFd>>) {
    if let Some(bell) = bell {
        let _ = write(bell.as_fd(), 1u64.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::fds::{new_channel, new_page};
    use super::*;

    fn insert(domains: &Domains, domid: Option<Domid>) -> Result<Domid, SimError> {
        let (_, page) = new_page()?;
        let (channel, _) = new_channel()?;
        domains.insert(domid, Parts { page, channel })
    }

    #[test]
    fn domids_count_up_and_wrap_to_1() {
        let domains = Domains::new();
        let next = || insert(&domains, None).unwrap().0;
        assert_eq!([next(), next()], [1, 2]);
        domains.destroy(Domid(1)).unwrap();
        assert_eq!(next(), 3, "a freed domid is not reused at once");
        domains.table.lock().last = Domid::FIRST_RESERVED - 2;
        assert_eq!([next(), next(), next()], [Domid::FIRST_RESERVED - 1, 1, 4]);
        assert!(matches!(insert(&domains, Some(Domid(4))), Err(SimError::Exists)));
        assert!(matches!(insert(&domains, Some(Domid::SELF)), Err(SimError::NoDomain)));
    }

    #[test]
    fn create_fails_once_every_domid_is_in_use() {
        let domains = Domains::new();
        let (_, page) = new_page().unwrap();
        let (channel, _) = new_channel().unwrap();
        let channel = Arc::new(channel); // Shared, as the test cannot open 32,752 descriptors.
        for slot in &mut domains.table.lock().domains {
            let (page, channel) = (page.clone(), channel.clone());
            let domain = Domain { unique_id: 0, shutdown: None, page, channel, bound: None };
            *slot = Some(Box::new(domain));
        }
        assert!(matches!(insert(&domains, None), Err(SimError::Full)));
        domains.destroy(Domid(700)).unwrap();
        assert_eq!(insert(&domains, None).unwrap(), Domid(700));
    }
}

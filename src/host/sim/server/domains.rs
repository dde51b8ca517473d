//! The domain table of the simulated host, which replaces a hypervisor's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{retry_on_intr, write};
use zerocopy::IntoBytes;

use crate::host::sim::lines::{LIST_MAX, Listed, Reason, SimError};
use crate::host::sim::states::States;
use crate::sync::Arc;
use crate::types::Domid;

/// The host's half of a domain, which outlives every daemon. The guest has the other end of the channel, and the page
/// too.
pub struct Parts {
    /// The ring page's memory file.
    pub page: OwnedFd,
    /// The host's end of the event channel, of which the daemon gets a copy.
    pub channel: OwnedFd,
}

/// An existing domain.
struct Domain {
    shutdown: Option<Reason>,
    page: Arc<OwnedFd>,
    channel: Arc<OwnedFd>,
}

/// All domains.
pub struct Domains {
    /// One slot for each possible domid (256 KiB), so a look-up is an index.
    domains: Vec<Option<Box<Domain>>>,
    /// The domid last allocated to a client that requested no specific one.
    last: u16,
    /// The number of changes so far.
    changes: u64,
    /// The number of existing domains.
    count: usize,
    states: States,
    /// The memory file of `states` and the eventfd signalled when a domain shuts down or dies, for the daemon.
    shared: [Arc<OwnedFd>; 2],
}

impl Domains {
    /// Creates an empty table.
    pub fn new() -> io::Result<Domains> {
        let (file, states) = States::new()?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Domains {
            domains: (0..Domid::FIRST_RESERVED).map(|_| None).collect(),
            last: 0,
            changes: 0,
            count: 0,
            states,
            shared: [Arc::new(file), Arc::new(bell)],
        })
    }

    /// Adds a domain: as `domid`, or as the next free domid above the last one allocated (wrapping to 1), as in Xen.
    pub fn insert(&mut self, domid: Option<Domid>, parts: Parts) -> Result<Domid, SimError> {
        let domid = match domid {
            Some(domid) if self.get(domid).is_ok() => return Err(SimError::Exists),
            Some(domid) => domid,
            None => self.next_free().ok_or(SimError::Full)?,
        };
        let slot = self.domains.get_mut(usize::from(domid.0)).ok_or(SimError::NoDomain)?;
        let (page, channel) = (Arc::new(parts.page), Arc::new(parts.channel));
        *slot = Some(Box::new(Domain { shutdown: None, page, channel }));
        self.states.create(domid, self.changes);
        self.changes += 1;
        self.count += 1;
        Ok(domid)
    }

    /// Destroys a domain. Its channel hangs up once the daemon has closed its copy, too.
    pub fn destroy(&mut self, domid: Domid) -> Result<(), SimError> {
        let slot = self.domains.get_mut(usize::from(domid.0)).ok_or(SimError::NoDomain)?;
        slot.take().ok_or(SimError::NoDomain)?;
        self.count -= 1;
        self.states.remove(domid);
        self.ring();
        Ok(())
    }

    /// Shuts a domain down, or resumes it (`None`).
    pub fn set_shutdown(&mut self, domid: Domid, reason: Option<Reason>) -> Result<(), SimError> {
        let slot = self.domains.get_mut(usize::from(domid.0));
        let domain = slot.and_then(Option::as_deref_mut).ok_or(SimError::NoDomain)?;
        domain.shutdown = reason;
        self.states.set_shutdown(domid, reason.is_some(), self.changes);
        self.changes += 1;
        // A hypervisor announces a domain's shutdown, but not its resumption.
        if reason.is_some() {
            self.ring();
        }
        Ok(())
    }

    /// Returns the first [`LIST_MAX`] domains from `from` upwards.
    pub fn list(&self, from: Domid) -> Vec<Listed> {
        let slots = (0u16..).zip(&self.domains).skip(usize::from(from.0));
        let listed = slots.filter_map(|(domid, slot)| {
            slot.as_ref().map(|d| Listed { domid: Domid(domid), shutdown: d.shutdown })
        });
        listed.take(LIST_MAX).collect()
    }

    /// Returns the number of domains besides the control domain.
    pub fn guests(&self) -> usize {
        self.count.saturating_sub(1)
    }

    /// Returns a domain's page.
    pub fn page(&self, domid: Domid) -> Result<Arc<OwnedFd>, SimError> {
        self.get(domid).map(|domain| domain.page.clone())
    }

    /// Returns the host's end of a domain's channel.
    pub fn channel(&self, domid: Domid) -> Result<Arc<OwnedFd>, SimError> {
        self.get(domid).map(|domain| domain.channel.clone())
    }

    /// Returns the table of states and the eventfd signalled when a domain shuts down or dies, for the daemon.
    pub fn shared(&self) -> [Arc<OwnedFd>; 2] {
        self.shared.clone()
    }

    /// Returns whether a process holds the other end of a guest's channel. Costs a look at each domain.
    pub fn has_living_guest(&self) -> bool {
        let guests = self.domains.iter().skip(1).filter_map(Option::as_deref);
        guests.map(|domain| domain.channel.as_fd()).any(|channel| {
            let mut fds = [PollFd::from_borrowed_fd(channel, PollFlags::empty())];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let polled = retry_on_intr(|| poll(&mut fds, Some(&now)));
            polled.is_ok() && !fds[0].revents().contains(PollFlags::HUP)
        })
    }

    fn get(&self, domid: Domid) -> Result<&Domain, SimError> {
        let slot = self.domains.get(usize::from(domid.0));
        slot.and_then(Option::as_deref).ok_or(SimError::NoDomain)
    }

    fn next_free(&mut self) -> Option<Domid> {
        let first = self.last + 1;
        let mut numbers = (first..Domid::FIRST_RESERVED).chain(1..first);
        let free = numbers.find(|&number| self.get(Domid(number)).is_err())?;
        self.last = free;
        Some(Domid(free))
    }

    /// Notifies the daemon that a domain changed. The write fails only if the count is full, in which case the eventfd
    /// is already readable. Without a daemon the notification stays for the next one.
    fn ring(&self) {
        let [_, bell] = &self.shared;
        let _ = write(bell.as_fd(), 1u64.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::sim::fds::{new_channel, new_page};

    fn parts() -> Parts {
        let (channel, _) = new_channel().unwrap();
        Parts { page: new_page().unwrap(), channel }
    }

    fn insert(domains: &mut Domains, domid: Option<Domid>) -> Result<Domid, SimError> {
        domains.insert(domid, parts())
    }

    #[test]
    fn domids_count_up_and_wrap_to_1() {
        let mut domains = Domains::new().unwrap();
        let next = |domains: &mut Domains| insert(domains, None).unwrap().0;
        assert_eq!([next(&mut domains), next(&mut domains)], [1, 2]);
        domains.destroy(Domid(1)).unwrap();
        assert_eq!(next(&mut domains), 3, "a freed domid is not reused at once");
        domains.last = Domid::FIRST_RESERVED - 2;
        let wrapped = [next(&mut domains), next(&mut domains), next(&mut domains)];
        assert_eq!(wrapped, [Domid::FIRST_RESERVED - 1, 1, 4]);
        assert!(matches!(insert(&mut domains, Some(Domid(4))), Err(SimError::Exists)));
        assert!(matches!(insert(&mut domains, Some(Domid::SELF)), Err(SimError::NoDomain)));
    }

    #[test]
    fn create_fails_once_every_domid_is_in_use() {
        let mut domains = Domains::new().unwrap();
        let Parts { page, channel } = parts();
        // Shared, as the test cannot open 65,504 descriptors.
        let (page, channel) = (Arc::new(page), Arc::new(channel));
        for slot in &mut domains.domains {
            let (page, channel) = (page.clone(), channel.clone());
            *slot = Some(Box::new(Domain { shutdown: None, page, channel }));
        }
        domains.count = domains.domains.len();
        assert!(matches!(insert(&mut domains, None), Err(SimError::Full)));
        domains.destroy(Domid(700)).unwrap();
        assert_eq!(insert(&mut domains, None).unwrap(), Domid(700));
    }
}

//! The domains' states in memory that host and daemon share, so that the daemon reads a state without asking the host,
//! for which its threads would have to wait.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::fds::has_fixed_length;
use crate::host::page::PAGE_BYTES;
use crate::host::{DomainState, RingPage};
use crate::types::Domid;

/// Size of a domain's entry.
const ENTRY_BYTES: usize = 2 * size_of::<u32>();

/// Offset in an entry of the incarnation's number.
const INCARNATION: usize = 0;

/// Offset in an entry of the number of the last change, shifted by one, and [`SHUTDOWN`]; 0 if there is no such domain.
const CHANGE: usize = size_of::<u32>();

/// Set in the word of a domain that shut down.
const SHUTDOWN: u32 = 1;

/// Entries in a page of the table.
const PER_PAGE: usize = PAGE_BYTES / ENTRY_BYTES;

/// Pages of the table: an entry for each domid.
const PAGES: usize = (Domid::FIRST_RESERVED as usize).div_ceil(PER_PAGE);

/// The table of states, which the host alone writes. The host numbers all changes, so a domain that changed and changed
/// back has another word. Numbers recur after 2^31 changes, far more than happen before a daemon has read the table.
pub struct States {
    pages: Vec<RingPage>,
}

impl States {
    /// Creates the table of a host without domains. Returns its memory file, too.
    pub fn new() -> io::Result<(OwnedFd, States)> {
        let file = memfd_create("domain-states", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, (PAGES * PAGE_BYTES) as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let states = States::map(file.as_fd())?;
        Ok((file, states))
    }

    /// Maps a host's table.
    ///
    /// # Errors
    /// `InvalidData` if the file has another length or could shrink; those of mmap(2).
    pub fn map(file: BorrowedFd<'_>) -> io::Result<States> {
        if !has_fixed_length(file, PAGES * PAGE_BYTES) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let offsets = (0..PAGES).map(|page| (page * PAGE_BYTES) as u64);
        let pages = offsets.map(|offset| RingPage::map(file, offset)).collect::<io::Result<_>>()?;
        Ok(States { pages })
    }

    fn word(&self, domid: Domid, offset: usize) -> Option<&AtomicU32> {
        let number = usize::from(domid.0);
        let page = self.pages.get(number / PER_PAGE)?;
        Some(page.word(number % PER_PAGE * ENTRY_BYTES + offset))
    }

    fn load(&self, domid: Domid, offset: usize) -> u32 {
        self.word(domid, offset).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(&self, domid: Domid, offset: usize, value: u32) {
        if let Some(word) = self.word(domid, offset) {
            word.store(value, Ordering::Release);
        }
    }

    /// Returns a word that differs after each change of a domain, 0 if there is no such domain. Costs a read of memory.
    pub fn change(&self, domid: Domid) -> u32 {
        self.load(domid, CHANGE)
    }

    /// Returns a domain's state, as a hypervisor would report it. Costs two reads of memory. If the domain's incarnation
    /// changes in between, the shutdown may be that of the former one; the host's notification follows.
    pub fn get(&self, domid: Domid) -> Option<DomainState> {
        let change = self.change(domid);
        (change != 0).then(|| DomainState {
            unique_id: self.load(domid, INCARNATION).into(),
            shutdown: change & SHUTDOWN != 0,
            dying: false, // Destruction is immediate.
        })
    }

    /// Enters a new incarnation of a domain, the host's change number `count`.
    pub fn create(&self, domid: Domid, count: u64) {
        self.store(domid, INCARNATION, number(count));
        self.set_shutdown(domid, false, count);
    }

    /// Enters a domain's shutdown or resumption, the host's change number `count`.
    pub fn set_shutdown(&self, domid: Domid, shutdown: bool, count: u64) {
        let flag = if shutdown { SHUTDOWN } else { 0 };
        self.store(domid, CHANGE, (number(count) << 1) | flag);
    }

    /// Removes a domain.
    pub fn remove(&self, domid: Domid) {
        self.store(domid, CHANGE, 0);
    }
}

/// Returns a number from 1 to 2^31 - 1.
fn number(count: u64) -> u32 {
    let max = u32::MAX >> 1;
    u32::try_from(count % u64::from(max)).unwrap_or(0) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_an_entry_for_each_domid() {
        let (file, states) = States::new().unwrap();
        let daemons = States::map(file.as_fd()).unwrap();
        let last = Domid(Domid::FIRST_RESERVED - 1);
        for (count, domid) in [(0, Domid(0)), (10, Domid(511)), (20, Domid(512)), (30, last)] {
            assert_eq!((daemons.get(domid), daemons.change(domid)), (None, 0));
            states.create(domid, count);
            let state = DomainState { unique_id: count + 1, shutdown: false, dying: false };
            assert_eq!(daemons.get(domid), Some(state));
            states.set_shutdown(domid, true, count + 1);
            assert_eq!(daemons.get(domid), Some(DomainState { shutdown: true, ..state }));
            let before = daemons.change(domid);
            states.set_shutdown(domid, false, count + 2);
            assert_eq!(daemons.get(domid), Some(state));
            states.set_shutdown(domid, true, count + 3);
            assert_ne!(daemons.change(domid), before);
            states.remove(domid);
            assert_eq!((daemons.get(domid), daemons.change(domid)), (None, 0));
        }
        assert_eq!(states.get(Domid::SELF), None);
    }

    #[test]
    fn numbers_wrap_without_0() {
        let max = u64::from(u32::MAX >> 1);
        assert_eq!([number(0), number(max - 1), number(max)], [1, u32::MAX >> 1, 1]);
    }
}

//! Beginnings and ends of domain incarnations, on the birth clock.

use super::Domid;
use crate::sync::{AtomicU64, Ordering, room_for};

/// The birth of each living domain and the last death of each domid, on the birth clock; 0 for none.
pub struct Births {
    /// Tables by domid, so that permission checks take no lock.
    births: Box<[AtomicU64]>,
    /// The deaths, kept apart from the births because permission checks read only births.
    deaths: Box<[AtomicU64]>,
}

impl Births {
    /// The control domain's birth, earlier than every other stamp.
    pub const CONTROL: u64 = 1;

    /// Makes the tables with only the control domain alive.
    pub fn new() -> Births {
        let table = || (0..room_for(Domid::FIRST_RESERVED)).map(|_| AtomicU64::new(0)).collect();
        let births = Births { births: table(), deaths: table() };
        births.begin(Domid::CONTROL, Births::CONTROL);
        births
    }

    /// Returns the birth of the domain's current incarnation, 0 if there is none.
    pub fn of(&self, domid: Domid) -> u64 {
        // A reserved domid has no slot, so an entry for one never holds. (`DOMID_ANY` is compared before.)
        self.births.get(usize::from(domid.0)).map_or(0, |birth| birth.load(Ordering::Acquire))
    }

    /// Begins an incarnation of `domid`, born at `birth` on the clock.
    pub fn begin(&self, domid: Domid, birth: u64) {
        if let Some(slot) = self.births.get(usize::from(domid.0)) {
            slot.store(birth, Ordering::Release);
        }
    }

    /// Ends the current incarnation. `death` must be later on the clock than every stamp set during it.
    pub fn end(&self, domid: Domid, death: u64) {
        // First, so that an entry which is still shown for a moment no longer applies.
        self.begin(domid, 0);
        if let Some(slot) = self.deaths.get(usize::from(domid.0)) {
            slot.store(death, Ordering::Release);
        }
    }

    /// Returns whether an entry about `domid` set at `stamp` refers to the current incarnation.
    pub fn holds(&self, domid: Domid, stamp: u64) -> bool {
        let birth = self.of(domid);
        0 < birth && birth <= stamp
    }

    /// Returns whether an incarnation of `domid` died after `stamp`. An entry set at `stamp` for that domid is then
    /// stale: it refers neither to the dead incarnation nor to the next.
    pub fn died_since(&self, domid: Domid, stamp: u64) -> bool {
        let death = self.deaths.get(usize::from(domid.0));
        death.is_some_and(|death| death.load(Ordering::Acquire) > stamp)
    }
}

impl Default for Births {
    fn default() -> Births {
        Births::new()
    }
}

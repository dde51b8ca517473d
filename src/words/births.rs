//! When incarnations of domains begin and end, on the birth clock.

use super::Domid;
use crate::sync::{AtomicU64, Ordering, room_for};

/// The birth of each living domain and the last death of each number, on the birth clock; 0 for none.
pub struct Births {
    births: Box<[AtomicU64]>,
    /// Apart from the births, as permission checks look at those only.
    deaths: Box<[AtomicU64]>,
}

impl Births {
    /// The control domain's birth: before everything.
    pub const CONTROL: u64 = 1;

    /// Tables in which only the control domain lives.
    pub fn new() -> Births {
        let table = || (0..room_for(Domid::FIRST_RESERVED)).map(|_| AtomicU64::new(0)).collect();
        let births = Births { births: table(), deaths: table() };
        births.begin(Domid::CONTROL, Births::CONTROL);
        births
    }

    /// The birth of the domain's present incarnation, 0 if there is none.
    pub fn of(&self, domid: Domid) -> u64 {
        self.births.get(usize::from(domid.0)).map_or(0, |birth| birth.load(Ordering::Acquire))
    }

    /// Begins an incarnation.
    pub fn begin(&self, domid: Domid, birth: u64) {
        if let Some(slot) = self.births.get(usize::from(domid.0)) {
            slot.store(birth, Ordering::Release);
        }
    }

    /// Ends the present incarnation. `death` is later on the clock than all that was set before.
    pub fn end(&self, domid: Domid, death: u64) {
        self.begin(domid, 0);
        if let Some(slot) = self.deaths.get(usize::from(domid.0)) {
            slot.store(death, Ordering::Release);
        }
    }

    /// Whether an entry about `domid` set at `stamp` means the present incarnation.
    pub fn holds(&self, domid: Domid, stamp: u64) -> bool {
        let birth = self.of(domid);
        0 < birth && birth <= stamp
    }

    /// Whether an incarnation of `domid` died after `stamp`: then what was set at `stamp` for that
    /// number means no domain any more, neither the dead one nor the next.
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

//! The timers of connections that are served even if nothing happens to them.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use crate::server::mailbox::Slot;

/// The interval in which connections that wait for time to pass are served.
pub const TICK: Duration = Duration::from_millis(250);

/// A worker's timers.
pub struct Timers {
    /// Connections with a timer of their own. A superseded one stays until it expires, and then makes its connection
    /// ready in vain.
    deadlines: BinaryHeap<Reverse<(Instant, Slot)>>,
    /// Connections served with each tick. Ordered, so that runs of the simulator can be repeated.
    ticking: BTreeSet<Slot>,
    // Stale while no connection ticks; `begin_ticks` sets it anew.
    next_tick: Instant,
}

impl Timers {
    /// Creates an empty set of timers.
    pub fn new(now: Instant) -> Timers {
        Timers { deadlines: BinaryHeap::new(), ticking: BTreeSet::new(), next_tick: now }
    }

    /// Returns when the next timer or tick is due.
    pub fn next(&self) -> Option<Instant> {
        let tick = Some(self.next_tick).filter(|_| !self.ticking.is_empty());
        let deadline = self.deadlines.peek().map(|Reverse((until, _))| *until);
        tick.into_iter().chain(deadline).min()
    }

    /// Sets a timer of a connection.
    pub fn set_deadline(&mut self, until: Instant, slot: Slot) {
        self.deadlines.push(Reverse((until, slot)));
    }

    /// Takes a connection whose timer has expired.
    pub fn take_due(&mut self, now: Instant) -> Option<Slot> {
        let &Reverse((until, slot)) = self.deadlines.peek()?;
        if until > now {
            return None;
        }
        self.deadlines.pop();
        Some(slot)
    }

    /// Adds a connection to the ticks.
    pub fn begin_ticks(&mut self, now: Instant, slot: Slot) {
        // The last tick may be long ago, since a worker without ticking connections is not woken.
        if self.ticking.is_empty() {
            self.next_tick = now + TICK;
        }
        self.ticking.insert(slot);
    }

    /// Removes a connection from the ticks.
    pub fn end_ticks(&mut self, slot: Slot) {
        self.ticking.remove(&slot);
    }

    /// Begins the next tick if it is due, and returns its connections.
    pub fn take_tick(&mut self, now: Instant) -> Vec<Slot> {
        if now < self.next_tick {
            return Vec::new();
        }
        self.next_tick = now + TICK;
        self.ticking.iter().copied().collect()
    }
}

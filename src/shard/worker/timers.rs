//! When connections are looked at though nothing happens to them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::shard::mailbox::Place;

/// How often connections that time matters to are looked at.
pub const TICK: Duration = Duration::from_millis(250);

/// A worker's timers.
pub struct Timers {
    /// Connections that are looked at again at a time of their own.
    alarms: BinaryHeap<Reverse<(Instant, Place)>>,
    /// Connections that are looked at with each tick.
    ticking: HashSet<Place, RandomState>,
    next_tick: Instant,
}

impl Timers {
    /// None yet.
    pub fn new(now: Instant) -> Timers {
        Timers { alarms: BinaryHeap::new(), ticking: HashSet::default(), next_tick: now }
    }

    /// When the next is due.
    pub fn next(&self) -> Option<Instant> {
        let tick = Some(self.next_tick).filter(|_| !self.ticking.is_empty());
        let alarm = self.alarms.peek().map(|Reverse((until, _))| *until);
        tick.into_iter().chain(alarm).min()
    }

    /// A connection is looked at again at this time.
    pub fn set_alarm(&mut self, until: Instant, place: Place) {
        self.alarms.push(Reverse((until, place)));
    }

    /// Takes a connection whose time has come.
    pub fn take_alarm(&mut self, now: Instant) -> Option<Place> {
        let &Reverse((until, place)) = self.alarms.peek()?;
        if until > now {
            return None;
        }
        self.alarms.pop();
        Some(place)
    }

    /// A connection is looked at with each tick from now on.
    pub fn begin_ticks(&mut self, now: Instant, place: Place) {
        if self.ticking.is_empty() {
            self.next_tick = now + TICK;
        }
        self.ticking.insert(place);
    }

    /// A connection is not looked at with ticks any more.
    pub fn end_ticks(&mut self, place: Place) {
        self.ticking.remove(&place);
    }

    /// If it is time, begins the next tick, and returns the connections that are looked at.
    pub fn take_tick(&mut self, now: Instant) -> Vec<Place> {
        if now < self.next_tick {
            return Vec::new();
        }
        self.next_tick = now + TICK;
        self.ticking.iter().copied().collect()
    }
}

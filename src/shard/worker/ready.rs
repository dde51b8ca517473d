//! The connections that are to be served: those that did little when they were served last, and busy ones.
//!
//! A busy connection had more to do than one turn allows: more requests, more events than its client takes at a
//! time, a long transaction. In each pass all others are served first, and then busy ones for a limited time. So a
//! client that asks little waits for one turn of a busy one, however many of these there are; and as at least one
//! of them has its turn in each pass, they wait for each other and not for ever.

use std::collections::VecDeque;
use std::time::Duration;

use crate::shard::mailbox::Place;

/// Busy connections are served for this long in a pass, and the one that is being served to the end of its turn:
/// about ten turns. Then the thread looks at what happened meanwhile, at the cost of a few microseconds.
pub const BUSY_TIME: Duration = Duration::from_micros(250);

/// Whether a connection had more to do than one turn allows when it was served last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// It had not.
    Light,
    /// It had: it is served after the others.
    Busy,
}

/// Each connection is in one of the lists at most.
#[derive(Default)]
pub struct ReadyList {
    light: VecDeque<Place>,
    busy: VecDeque<Place>,
}

impl ReadyList {
    /// Appends a connection that is not in the list.
    pub fn push(&mut self, place: Place, demand: Demand) {
        self.list(demand).push_back(place);
    }

    /// Whether no connection is to be served.
    pub fn is_empty(&self) -> bool {
        self.light.is_empty() && self.busy.is_empty()
    }

    /// How many busy connections there are, or how many others.
    pub fn count(&self, demand: Demand) -> usize {
        match demand {
            Demand::Light => self.light.len(),
            Demand::Busy => self.busy.len(),
        }
    }

    /// Takes the first busy connection or the first of the others.
    pub fn pop(&mut self, demand: Demand) -> Option<Place> {
        self.list(demand).pop_front()
    }

    fn list(&mut self, demand: Demand) -> &mut VecDeque<Place> {
        match demand {
            Demand::Light => &mut self.light,
            Demand::Busy => &mut self.busy,
        }
    }
}

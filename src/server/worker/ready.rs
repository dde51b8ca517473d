//! The ready list: connections with little work in their last quantum, and busy ones.
//!
//! A busy connection had more work than fits into a quantum: more requests, more events than its client takes at a
//! time, a long transaction. In each pass all others are served first, then busy ones for a limited time. So a client
//! with little work waits for about one quantum of a busy one, however many of these there are. Each pass serves at
//! least one busy connection, so none starves.

use std::collections::VecDeque;
use std::time::Duration;

use crate::server::mailbox::Slot;

/// The time for which a pass serves busy connections, about ten quanta; the last quantum is not cut short. Then the
/// worker polls again, at the cost of a few microseconds.
pub const BUSY_TIME: Duration = Duration::from_micros(250);

/// Whether a connection had more work than fits into its last quantum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// The connection had no more work than fits.
    Light,
    /// The connection had more work, so it is served after the others.
    Busy,
}

/// The ready connections, each in one of the lists.
#[derive(Default)]
pub struct ReadyList {
    light: VecDeque<Slot>,
    busy: VecDeque<Slot>,
}

impl ReadyList {
    /// Appends a connection that is in neither list.
    pub fn push(&mut self, slot: Slot, demand: Demand) {
        self.list(demand).push_back(slot);
    }

    /// Returns whether no connection is ready.
    pub fn is_empty(&self) -> bool {
        self.light.is_empty() && self.busy.is_empty()
    }

    /// Returns the number of ready connections with this demand.
    pub fn count(&self, demand: Demand) -> usize {
        match demand {
            Demand::Light => self.light.len(),
            Demand::Busy => self.busy.len(),
        }
    }

    /// Takes the first connection with this demand.
    pub fn pop(&mut self, demand: Demand) -> Option<Slot> {
        self.list(demand).pop_front()
    }

    fn list(&mut self, demand: Demand) -> &mut VecDeque<Slot> {
        match demand {
            Demand::Light => &mut self.light,
            Demand::Busy => &mut self.busy,
        }
    }
}

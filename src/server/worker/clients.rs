//! The connections of a worker, by slot and by domain, and its ready list.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use slab::Slab;

use super::connection::Connection;
use super::ready::{Demand, ReadyList};
use crate::server::mailbox::Slot;
use crate::types::Domid;

/// The state of a connection in the table. A connection is boxed, as each quantum moves it out of the table and back.
enum Entry {
    /// The connection has nothing to do.
    Idle(Box<Connection>),
    /// The connection is on the ready list.
    Ready(Box<Connection>),
    /// The connection is being served by the function that has taken it out of the table. Its slot is not free, so no
    /// other connection can get it.
    Served,
}

/// The connections of a worker.
#[derive(Default)]
pub struct Clients {
    slots: Slab<Entry>,
    /// Ordered, so that the ring scan can continue after any domain.
    rings: BTreeMap<Domid, Slot>,
    ready: ReadyList,
}

impl Clients {
    /// Returns the slot of the next connection.
    pub fn next_slot(&self) -> Slot {
        self.slots.vacant_key()
    }

    /// Adds a connection in the slot [`Clients::next_slot`].
    pub fn add(&mut self, connection: Connection) {
        // Nothing was added since `next_slot`, so the connection gets that slot.
        self.slots.insert(Entry::Idle(Box::new(connection)));
    }

    /// Removes a connection, unless it is being served.
    pub fn remove(&mut self, slot: Slot) -> Option<Box<Connection>> {
        match self.slots.get(slot)? {
            Entry::Served => None,
            Entry::Idle(_) | Entry::Ready(_) => match self.slots.remove(slot) {
                Entry::Idle(connection) | Entry::Ready(connection) => Some(connection),
                Entry::Served => None,
            },
        }
    }

    /// Returns a connection, unless it is being served.
    pub fn get(&self, slot: Slot) -> Option<&Connection> {
        match self.slots.get(slot)? {
            Entry::Idle(connection) | Entry::Ready(connection) => Some(connection),
            Entry::Served => None,
        }
    }

    /// Returns a connection, unless it is being served.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Connection> {
        match self.slots.get_mut(slot)? {
            Entry::Idle(connection) | Entry::Ready(connection) => Some(connection),
            Entry::Served => None,
        }
    }

    /// Returns a connection that is neither ready nor being served.
    pub fn idle(&mut self, slot: Slot) -> Option<&mut Connection> {
        match self.slots.get_mut(slot)? {
            Entry::Idle(connection) => Some(connection),
            Entry::Ready(_) | Entry::Served => None,
        }
    }

    /// Takes a connection out of its slot to serve it, until [`Clients::put_back`].
    pub fn take(&mut self, slot: Slot) -> Option<Box<Connection>> {
        match std::mem::replace(self.slots.get_mut(slot)?, Entry::Served) {
            Entry::Idle(connection) | Entry::Ready(connection) => Some(connection),
            Entry::Served => None,
        }
    }

    /// Puts a connection back into its slot.
    pub fn put_back(&mut self, connection: Box<Connection>) {
        let slot = connection.session.reply_to.connection;
        // The slot is still its own: `remove` does not free it while it is served.
        self.slots[slot] = Entry::Idle(connection);
    }

    /// Appends a connection to the ready list, unless it is there already or being served.
    pub fn make_ready(&mut self, slot: Slot) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        *entry = match std::mem::replace(entry, Entry::Served) {
            Entry::Idle(connection) => {
                self.ready.push(slot, connection.demand);
                Entry::Ready(connection)
            }
            // A connection being served is made ready by `serve_next` at its end, if necessary.
            other => other,
        };
    }

    /// Appends all connections to the ready list.
    pub fn make_all_ready(&mut self) {
        let slots: Vec<Slot> = self.slots.iter().map(|(slot, _)| slot).collect();
        slots.into_iter().for_each(|slot| self.make_ready(slot));
    }

    /// Returns whether any connection is ready.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Returns the number of ready connections with this demand.
    pub fn ready_count(&self, demand: Demand) -> usize {
        self.ready.count(demand)
    }

    /// Takes the slot of the first ready connection with this demand. The connection may be gone. A slot that was
    /// reused is served once in vain.
    pub fn next_ready(&mut self, demand: Demand) -> Option<Slot> {
        self.ready.pop(demand)
    }

    /// Returns the connections that are not being served, with their slots.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Connection)> {
        self.slots.iter().filter_map(|(slot, entry)| match entry {
            Entry::Idle(connection) | Entry::Ready(connection) => Some((slot, &**connection)),
            Entry::Served => None,
        })
    }

    /// Returns the connections that are not being served.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.slots.iter_mut().filter_map(|(_, entry)| match entry {
            Entry::Idle(connection) | Entry::Ready(connection) => Some(&mut **connection),
            Entry::Served => None,
        })
    }

    /// Returns the slot of a domain's ring, if this worker serves it.
    pub fn of_domain(&self, domid: Domid) -> Option<Slot> {
        self.rings.get(&domid).copied()
    }

    /// Records the slot of a domain's ring.
    pub fn add_ring(&mut self, domid: Domid, slot: Slot) {
        self.rings.insert(domid, slot);
    }

    /// Removes a domain's ring.
    pub fn remove_ring(&mut self, domid: Domid) {
        self.rings.remove(&domid);
    }

    /// Returns the number of rings.
    pub fn ring_count(&self) -> usize {
        self.rings.len()
    }

    /// Returns the rings after that of the domain `last`, or all, in the order of their domains.
    pub fn rings_after(&self, last: Option<Domid>) -> impl Iterator<Item = (Domid, Slot)> {
        // Continues after any domid, even if its ring is gone.
        let from = last.map_or(Unbounded, Excluded);
        self.rings.range((from, Unbounded)).map(|(&domid, &slot)| (domid, slot))
    }

    /// Returns the last domain with a ring.
    pub fn last_ring(&self) -> Option<Domid> {
        self.rings.last_key_value().map(|(domid, _)| *domid)
    }
}

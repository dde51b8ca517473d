//! The connections of a worker, by slot and by domain, and its ready list.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use slab::Slab;

use super::connection::Connection;
use super::ready::{Demand, ReadyList};
use crate::shard::mailbox::Place;
use crate::words::Domid;

/// The state of a connection in the table.
enum Slot {
    /// It has nothing to do.
    Idle(Box<Connection>),
    /// It is on the ready list.
    Ready(Box<Connection>),
    /// It is being served by the function that has taken it out.
    Served,
}

/// The connections of a worker.
#[derive(Default)]
pub struct Clients {
    slots: Slab<Slot>,
    /// Ordered, so that the ring scan can continue after any domain.
    rings: BTreeMap<Domid, Place>,
    ready: ReadyList,
}

impl Clients {
    /// Returns the slot of the next connection.
    pub fn next_place(&self) -> Place {
        self.slots.vacant_key()
    }

    /// Adds a connection in the slot [`Clients::next_place`].
    pub fn add(&mut self, connection: Connection) {
        self.slots.insert(Slot::Idle(Box::new(connection)));
    }

    /// Removes a connection, unless it is being served.
    pub fn remove(&mut self, place: Place) -> Option<Box<Connection>> {
        match self.slots.get(place)? {
            Slot::Served => None,
            Slot::Idle(_) | Slot::Ready(_) => match self.slots.remove(place) {
                Slot::Idle(connection) | Slot::Ready(connection) => Some(connection),
                Slot::Served => None,
            },
        }
    }

    /// Returns a connection, unless it is being served.
    pub fn get(&self, place: Place) -> Option<&Connection> {
        match self.slots.get(place)? {
            Slot::Idle(connection) | Slot::Ready(connection) => Some(connection),
            Slot::Served => None,
        }
    }

    /// Returns a connection, unless it is being served.
    pub fn get_mut(&mut self, place: Place) -> Option<&mut Connection> {
        match self.slots.get_mut(place)? {
            Slot::Idle(connection) | Slot::Ready(connection) => Some(connection),
            Slot::Served => None,
        }
    }

    /// Returns a connection that is neither ready nor being served.
    pub fn idle(&mut self, place: Place) -> Option<&mut Connection> {
        match self.slots.get_mut(place)? {
            Slot::Idle(connection) => Some(connection),
            Slot::Ready(_) | Slot::Served => None,
        }
    }

    /// Takes a connection out of its slot to serve it, until [`Clients::put_back`].
    pub fn take(&mut self, place: Place) -> Option<Box<Connection>> {
        match std::mem::replace(self.slots.get_mut(place)?, Slot::Served) {
            Slot::Idle(connection) | Slot::Ready(connection) => Some(connection),
            Slot::Served => None,
        }
    }

    /// Puts a connection back into its slot.
    pub fn put_back(&mut self, connection: Box<Connection>) {
        let place = connection.session.asker.connection;
        self.slots[place] = Slot::Idle(connection);
    }

    /// Appends a connection to the ready list, unless it is there already or being served.
    pub fn make_ready(&mut self, place: Place) {
        let Some(slot) = self.slots.get_mut(place) else { return };
        *slot = match std::mem::replace(slot, Slot::Served) {
            Slot::Idle(connection) => {
                self.ready.push(place, connection.demand);
                Slot::Ready(connection)
            }
            other => other,
        };
    }

    /// Returns whether any connection is ready.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Returns the number of ready connections with this demand.
    pub fn ready_count(&self, demand: Demand) -> usize {
        self.ready.count(demand)
    }

    /// Takes the slot of the first ready connection with this demand. The connection may be gone.
    pub fn next_ready(&mut self, demand: Demand) -> Option<Place> {
        self.ready.pop(demand)
    }

    /// Returns the connections that are not being served, with their slots.
    pub fn iter(&self) -> impl Iterator<Item = (Place, &Connection)> {
        self.slots.iter().filter_map(|(place, slot)| match slot {
            Slot::Idle(connection) | Slot::Ready(connection) => Some((place, &**connection)),
            Slot::Served => None,
        })
    }

    /// Returns the connections that are not being served.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.slots.iter_mut().filter_map(|(_, slot)| match slot {
            Slot::Idle(connection) | Slot::Ready(connection) => Some(&mut **connection),
            Slot::Served => None,
        })
    }

    /// Returns the slot of a domain's ring, if this worker serves it.
    pub fn of_domain(&self, domid: Domid) -> Option<Place> {
        self.rings.get(&domid).copied()
    }

    /// Notes the slot of a domain's ring.
    pub fn add_ring(&mut self, domid: Domid, place: Place) {
        self.rings.insert(domid, place);
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
    pub fn rings_after(&self, last: Option<Domid>) -> impl Iterator<Item = (Domid, Place)> {
        let from = last.map_or(Unbounded, Excluded);
        self.rings.range((from, Unbounded)).map(|(&domid, &place)| (domid, place))
    }

    /// Returns the last domain with a ring.
    pub fn last_ring(&self) -> Option<Domid> {
        self.rings.last_key_value().map(|(domid, _)| *domid)
    }
}

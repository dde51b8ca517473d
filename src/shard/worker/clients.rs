//! The connections of a worker, by place and by domain, and which of them are to be served.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use slab::Slab;

use super::connection::Connection;
use super::ready::{Demand, ReadyList};
use crate::shard::mailbox::Place;
use crate::words::Domid;

/// Where a connection is kept.
enum Slot {
    /// Nothing happened to it.
    Idle(Box<Connection>),
    /// It is on the ready list.
    Ready(Box<Connection>),
    /// It is being served, by the function that has taken it.
    Served,
}

/// The connections of a worker.
#[derive(Default)]
pub struct Clients {
    slots: Slab<Slot>,
    /// In order, so that the ring scan finds those that come next.
    rings: BTreeMap<Domid, Place>,
    ready: ReadyList,
}

impl Clients {
    /// Where the next connection will have its place.
    pub fn next_place(&self) -> Place {
        self.slots.vacant_key()
    }

    /// Adds a connection, at [`Clients::next_place`].
    pub fn add(&mut self, connection: Connection) {
        self.slots.insert(Slot::Idle(Box::new(connection)));
    }

    /// Takes a connection out for good, unless it is being served.
    pub fn remove(&mut self, place: Place) -> Option<Box<Connection>> {
        match self.slots.get(place)? {
            Slot::Served => None,
            Slot::Idle(_) | Slot::Ready(_) => match self.slots.remove(place) {
                Slot::Idle(connection) | Slot::Ready(connection) => Some(connection),
                Slot::Served => None,
            },
        }
    }

    /// A connection, unless it is being served.
    pub fn get(&self, place: Place) -> Option<&Connection> {
        match self.slots.get(place)? {
            Slot::Idle(connection) | Slot::Ready(connection) => Some(connection),
            Slot::Served => None,
        }
    }

    /// A connection, unless it is being served.
    pub fn get_mut(&mut self, place: Place) -> Option<&mut Connection> {
        match self.slots.get_mut(place)? {
            Slot::Idle(connection) | Slot::Ready(connection) => Some(connection),
            Slot::Served => None,
        }
    }

    /// A connection that is not about to be served.
    pub fn idle(&mut self, place: Place) -> Option<&mut Connection> {
        match self.slots.get_mut(place)? {
            Slot::Idle(connection) => Some(connection),
            Slot::Ready(_) | Slot::Served => None,
        }
    }

    /// Takes a connection out of its place to serve it, until [`Clients::put_back`].
    pub fn take(&mut self, place: Place) -> Option<Box<Connection>> {
        match std::mem::replace(self.slots.get_mut(place)?, Slot::Served) {
            Slot::Idle(connection) | Slot::Ready(connection) => Some(connection),
            Slot::Served => None,
        }
    }

    /// Puts a connection back that was served.
    pub fn put_back(&mut self, connection: Box<Connection>) {
        let place = connection.session.asker.connection;
        self.slots[place] = Slot::Idle(connection);
    }

    /// Puts a connection on the ready list, once.
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

    /// Whether a connection is to be served.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How many busy connections are on the ready list, or how many others.
    pub fn ready_count(&self, demand: Demand) -> usize {
        self.ready.count(demand)
    }

    /// Takes the first place of a busy connection from the ready list, or of another. The connection may be gone.
    pub fn next_ready(&mut self, demand: Demand) -> Option<Place> {
        self.ready.pop(demand)
    }

    /// All connections that are not being served, with their places.
    pub fn iter(&self) -> impl Iterator<Item = (Place, &Connection)> {
        self.slots.iter().filter_map(|(place, slot)| match slot {
            Slot::Idle(connection) | Slot::Ready(connection) => Some((place, &**connection)),
            Slot::Served => None,
        })
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.slots.iter_mut().filter_map(|(_, slot)| match slot {
            Slot::Idle(connection) | Slot::Ready(connection) => Some(&mut **connection),
            Slot::Served => None,
        })
    }

    /// Where the connection of a domain's ring is, if it has one here.
    pub fn of_domain(&self, domid: Domid) -> Option<Place> {
        self.rings.get(&domid).copied()
    }

    /// Notes where the connection of a domain's ring is.
    pub fn add_ring(&mut self, domid: Domid, place: Place) {
        self.rings.insert(domid, place);
    }

    /// A domain's ring is served no more.
    pub fn remove_ring(&mut self, domid: Domid) {
        self.rings.remove(&domid);
    }

    /// How many rings there are.
    pub fn ring_count(&self) -> usize {
        self.rings.len()
    }

    /// The rings after that of a domain, or all, in the order of their domains.
    pub fn rings_after(&self, last: Option<Domid>) -> impl Iterator<Item = (Domid, Place)> {
        let from = last.map_or(Unbounded, Excluded);
        self.rings.range((from, Unbounded)).map(|(&domid, &place)| (domid, place))
    }

    /// The domain of the last ring.
    pub fn last_ring(&self) -> Option<Domid> {
        self.rings.last_key_value().map(|(domid, _)| *domid)
    }
}

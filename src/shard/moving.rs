//! A domain that leaves or arrives, on its home thread: its connection as a value, and back.
//!
//! ```text
//!   quiesced connection -- carry --> Client --> stream            stream --> Client -- arrive --+
//!          |  ^                                                                                 v
//!          |  +------------------------- INTRODUCE takes it up ------------------------------ Moved
//!          +-- RELEASE with a mark: the same Client ----------------------------------------->--+
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::connection::Connection;
use super::gathering::Share;
use super::output::Output;
use super::thread::{Place, Thread};
use crate::domain::{Domain, OwnSettings, Quota};
use crate::migrate::presence::Presence;
use crate::migrate::state::Client;
use crate::migrate::stream::{Connection as Sent, Transport as SentBy, Watch as SentWatch};
use crate::store::{Seen, Transaction};
use crate::sync::Arc;
use crate::words::{
    ABS_PATH_MAX, Domid, Errno, Path, PathBuf, PathSpace, domain_of_home, has_homes_below,
};

/// What is kept of a connection that is quiesced.
#[derive(Default)]
pub struct Quiesced {
    /// Who is to be told when it is still.
    pub waiting: Vec<Share>,
    /// Another number whenever something is added to the connection, unless it is the news of this
    /// host's domains: not used twice for a domid.
    pub version: u64,
    /// The export of it that was answered last.
    pub mark: Option<Mark>,
    /// It came by an import and was not served since.
    pub arrived: Option<Before>,
}

/// What an import changed of a domain that nobody had introduced.
pub struct Before {
    /// The homes that it brought.
    seen: Seen,
    /// What was set before.
    settings: OwnSettings,
}

/// An export that was answered: what it saw.
pub struct Mark {
    /// Its name; not used twice for a domid, not by the next daemon either.
    pub number: u64,
    /// See [`Connection::version`].
    version: u64,
    /// The domain's homes.
    seen: Seen,
}

/// What RELEASE with a mark or an import leaves for INTRODUCE, which begins quiesced.
pub struct Moved {
    /// Of the domain's life.
    pub birth: u64,
    client: Client,
    /// The domain's homes as they were then.
    seen: Seen,
    /// By an import, before which this was set.
    arrived: Option<OwnSettings>,
}

impl Thread {
    /// A number that this thread has not used.
    pub(super) fn next_number(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// What is kept of a domain that is quiesced, also if it is not still yet.
    pub(super) fn quiesced_state(&mut self, domid: Domid) -> Option<&mut Quiesced> {
        let place = self.rings.get(&domid)?;
        self.connections.get_mut(*place)?.as_mut()?.quiesce.as_mut()
    }

    fn quiesced(&mut self, domid: Domid) -> Result<&mut Connection, Errno> {
        let place = self.rings.get(&domid).ok_or(Errno::ENOENT)?;
        let slot = self.connections.get_mut(*place).and_then(Option::as_mut);
        slot.filter(|connection| connection.is_still()).map(|slot| &mut **slot).ok_or(Errno::EAGAIN)
    }

    /// What a quiesced domain's connection is, and its version. Cost: its watches and unsent bytes.
    ///
    /// # Errors
    /// `ENOENT` if it is not introduced, `EAGAIN` if it is not still (any more).
    pub(super) fn carry(&mut self, domid: Domid) -> Result<(Client, u64), Errno> {
        let (thread, now) = (self.number, self.now);
        let connection = self.quiesced(domid)?;
        while connection.watches.has_deferred() {
            connection.queue_next_deferred(thread, now);
        }
        let version = connection.version();
        let evtchn = connection.ring().map_or(0, |ring| ring.remote);
        let (output_begun, output) = connection.output.unsent_with_begun();
        let sent = Sent {
            id: u32::from(domid.0),
            transport: SentBy::Ring(domid, None, evtchn),
            input: connection.partial.clone(),
            output_begun,
            output,
            unique_id: Some(connection.domain.unique_id),
        };
        let watches = connection.watches.in_order(0).map(|watch| SentWatch {
            connection: sent.id,
            path: watch.shown(watch.path.as_path().bytes()).to_vec(),
            token: watch.token.to_vec(),
            depth: watch.depth,
        });
        let watches = watches.collect();
        let ids = connection.transactions.keys();
        let transactions = ids.map(|&id| (id, BTreeMap::new())).collect();
        Ok((Client { connection: sent, watches, transactions }, version))
    }

    /// Gives an export of a domain, which saw this version and these homes, its mark.
    ///
    /// # Errors
    /// As [`Thread::carry`]; `EAGAIN` also if the connection has another version.
    pub(super) fn mark(&mut self, domid: Domid, version: u64, seen: Seen) -> Result<u64, Errno> {
        let number = self.shared.marks_from.wrapping_add(self.next_number());
        let connection = self.quiesced(domid)?;
        let is_same = connection.version() == version;
        let quiesced = connection.quiesce.as_mut().filter(|_| is_same);
        quiesced.ok_or(Errno::EAGAIN)?.mark = Some(Mark { number, version, seen });
        Ok(number)
    }

    /// What is left of a domain that is released, given the mark of an export.
    ///
    /// # Errors
    /// `EAGAIN` if the mark does not stand for what is there now.
    pub(super) fn leave(&mut self, domid: Domid, number: u64) -> Result<Moved, Errno> {
        let (client, version) = self.carry(domid)?;
        let connection = self.quiesced(domid)?;
        let birth = connection.domain.birth;
        let quiesced = connection.quiesce.as_mut().ok_or(Errno::EAGAIN)?;
        let stands = |mark: &mut Mark| (mark.number, mark.version) == (number, version);
        let mark = quiesced.mark.take_if(stands).ok_or(Errno::EAGAIN)?;
        if !self.shared.store.changed_since(&mark.seen).is_empty() {
            return Err(Errno::EAGAIN);
        }
        Ok(Moved { birth, client, seen: mark.seen, arrived: None })
    }

    /// Keeps a domain's number free for an import that is under way; answers who it is.
    ///
    /// # Errors
    /// [`Presence::Absent`] if the host has no such domain, else the state that is in the way.
    pub(super) fn expect(&mut self, domid: Domid) -> Result<Arc<Domain>, Presence> {
        // A former life may have ended without our having heard of it yet.
        self.domain_changed(domid);
        let domain = self.shared.known_domain(domid).ok_or(Presence::Absent)?;
        match self.standing(domid).presence {
            Presence::Absent => {}
            taken => return Err(taken),
        }
        self.arriving.insert(domid, domain.own_settings());
        Ok(domain)
    }

    /// Ends [`Thread::expect`]: with the connection and the homes that arrived, or with nothing.
    ///
    /// # Errors
    /// `ENOENT` if the domain died meanwhile.
    pub(super) fn arrive(
        &mut self,
        domain: &Domain,
        arrived: Option<(Client, Seen)>,
    ) -> Result<(), Errno> {
        let before = self.arriving.remove(&domain.domid);
        let Some((client, seen)) = arrived else { return Ok(()) };
        let before = before.ok_or(Errno::ENOENT)?;
        let present = self.shared.store.registry().get(domain.domid);
        present.filter(|present| present.birth == domain.birth).ok_or(Errno::ENOENT)?;
        domain.set_origin(client.connection.unique_id.unwrap_or(0));
        let moved = Moved { birth: domain.birth, client, seen, arrived: Some(before) };
        self.moved.insert(domain.domid, moved);
        Ok(())
    }

    /// Gives a domain up that arrived and was not served since: what was set of it before is so again.
    /// Answers the homes that it brought, and whether it was introduced.
    ///
    /// # Errors
    /// `EINVAL` if it is no such domain.
    pub(super) fn discard(&mut self, domid: Domid) -> Result<(Seen, bool), Errno> {
        let domain = self.shared.store.registry().get(domid).ok_or(Errno::EINVAL)?;
        let introduced = self.rings.get(&domid).copied();
        let Before { seen, settings } = match introduced {
            Some(_) => {
                let quiesced = self.quiesced_state(domid);
                quiesced.and_then(|quiesced| quiesced.arrived.take()).ok_or(Errno::EINVAL)?
            }
            None => {
                let arrived = self.moved.get_mut(&domid).and_then(|moved| moved.arrived.take());
                let settings = arrived.ok_or(Errno::EINVAL)?;
                let moved = self.moved.remove(&domid).ok_or(Errno::EINVAL)?;
                Before { seen: moved.seen, settings }
            }
        };
        self.shared.store.registry().restore(&domain, &settings);
        domain.set_origin(0);
        if let Some(place) = introduced {
            self.disconnect_ring(place);
        }
        Ok((seen, introduced.is_some()))
    }

    /// Makes a connection what it was elsewhere, quiesced. Cost: that of setting its watches.
    pub(super) fn take_up(&mut self, place: Place, connection: &mut Connection, moved: Moved) {
        let Moved { client, seen, arrived, .. } = moved;
        connection.partial = client.connection.input;
        connection.output = Output::of(client.connection.output, client.connection.output_begun);
        connection.recharge_output();
        let changed: BTreeSet<PathBuf> =
            self.shared.store.changed_since(&seen).into_iter().collect();
        let came: BTreeSet<&[u8]> =
            seen.homes.iter().map(|(root, _)| root.as_path().bytes()).collect();
        let layout = self.shared.store.layout();
        for watch in &client.watches {
            let mut space = PathSpace::new();
            let resolved = Path::resolve(&watch.path, connection.domid(), ABS_PATH_MAX, &mut space);
            // A state has no watches but those with a path, though maybe one twice.
            let Ok(path) = resolved else { continue };
            let new = (&*watch.path, &*watch.token, watch.depth);
            let new = self.new_watch(path, new);
            if connection.watches.contains(path, &new.token) {
                continue;
            }
            connection.domain.account.charge(Quota::Watches, 1);
            connection.domain.account.charge(Quota::Memory, new.charge_bytes());
            let id = self.insert_watch(place, connection, new);
            let root = layout.home(path).root;
            let came_along =
                domain_of_home(root) == Some(connection.domid()) || came.contains(root.bytes());
            let is_changed = changed.contains(root.bytes());
            if is_changed || !came_along || has_homes_below(path) {
                self.fire_once(connection, id);
            }
        }
        for &id in client.transactions.keys() {
            connection.domain.account.charge(Quota::Transactions, 1);
            self.insert_transaction(connection, id, Transaction::reserved());
        }
        let arrived = arrived.map(|settings| Before { seen, settings });
        let version = self.next_number();
        connection.quiesce = Some(Quiesced { version, arrived, ..Quiesced::default() });
        connection.domain.set_quiesced(true);
    }
}

impl Moved {
    /// The state of its domain, and of one that arrived the event channel that the stream names.
    pub fn presence(&self) -> (Presence, u32) {
        match (&self.arrived, self.client.connection.transport) {
            (None, _) => (Presence::Left, 0),
            (Some(_), SentBy::Ring(_, _, evtchn)) => (Presence::Arrived, evtchn),
            (Some(_), SentBy::Socket(_)) => (Presence::Arrived, 0),
        }
    }
}

impl Connection {
    /// Another number whenever something changed that is carried and no node: what is on the way,
    /// watches, transactions, settings. Both parts only grow.
    fn version(&self) -> u64 {
        self.quiesce.as_ref().map_or(0, |quiesced| quiesced.version) + self.domain.settings()
    }

    /// Something was added to it, which is of this version now: if it is exported, that was not all.
    pub(super) fn outdate(&mut self, version: u64) {
        if let Some(quiesced) = &mut self.quiesce {
            quiesced.version = version;
        }
    }
}

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
use super::output::Output;
use super::rings::Carried;
use super::state::{Event, Imported};
use super::thread::Thread;
use crate::domain::{Domain, OwnSettings, Quota};
use crate::migration::stream::state::Client;
use crate::migration::stream::{Connection as Sent, Transport as SentBy, Watch as SentWatch};
use crate::store::{Seen, Transaction};
use crate::sync::Arc;
use crate::words::{
    ABS_PATH_MAX, Domid, Errno, Path, PathBuf, PathSpace, Presence, domain_of_home, has_homes_below,
};

/// What was there before an import of a domain that was not introduced.
pub struct Before {
    /// What others had set of the domain.
    pub settings: OwnSettings,
    /// What a RELEASE had left, for an INTRODUCE of the same ring.
    pub carried: Option<Box<Carried>>,
}

/// An export that was replied to: what it saw.
pub struct Mark {
    /// Its name; not used twice for a domid, not by the next daemon either.
    pub number: u64,
    /// See [`Connection::version`].
    pub version: u64,
    /// The domain's homes.
    pub seen: Seen,
}

/// What RELEASE with a mark or an import leaves for INTRODUCE, which begins quiesced.
pub struct Moved {
    /// The connection.
    pub client: Client,
    /// The domain's homes as they were then.
    pub seen: Seen,
}

impl Thread {
    /// A number that this thread has not used.
    pub(super) fn next_number(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn quiesced(&mut self, domid: Domid) -> Result<&mut Connection, Errno> {
        match self.presence(domid) {
            Presence::Quiesced | Presence::Exported | Presence::ArrivedIntroduced => {
                let place = self.rings.get(&domid).ok_or(Errno::ENOENT)?;
                let slot = self.connections.get_mut(*place).and_then(Option::as_deref_mut);
                slot.ok_or(Errno::ENOENT)
            }
            Presence::Running | Presence::Quiescing => Err(Errno::EAGAIN),
            Presence::Absent | Presence::Arriving | Presence::Arrived | Presence::Left => {
                Err(Errno::ENOENT)
            }
        }
    }

    /// What a quiesced domain's connection is, and its version. Cost: its watches and unsent bytes.
    ///
    /// # Errors
    /// `ENOENT` if it is not introduced, `EAGAIN` if it is not quiesced (any more).
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
        if connection.version() != version {
            return Err(Errno::EAGAIN);
        }
        self.step_of(domid, Event::Exported(Mark { number, version, seen }))?;
        Ok(number)
    }

    /// Returns the connection that a RELEASE with the mark of an export ends.
    ///
    /// # Errors
    /// `EAGAIN` if the mark does not stand for what is there now.
    pub(super) fn leave(&mut self, domid: Domid, number: u64) -> Result<Box<Client>, Errno> {
        let (client, version) = self.carry(domid)?;
        let mark = self.mark_of(domid).ok_or(Errno::EAGAIN)?;
        if (mark.number, mark.version) != (number, version) {
            return Err(Errno::EAGAIN);
        }
        if !self.shared.store.changed_since(&mark.seen).is_empty() {
            self.step_of(domid, Event::Outdated)?;
            return Err(Errno::EAGAIN);
        }
        Ok(Box::new(client))
    }

    /// Keeps a domain's number free for an import that is under way; answers who it is.
    ///
    /// # Errors
    /// [`Presence::Absent`] if the host has no such domain, else the state that is in the way.
    pub(super) fn expect(&mut self, domid: Domid) -> Result<Arc<Domain>, Presence> {
        // A former life may have ended without our having heard of it yet.
        self.domain_changed(domid);
        let domain = self.shared.known_domain(domid).ok_or(Presence::Absent)?;
        let begins = Event::ImportBegins(domain.own_settings());
        match self.step(&domain, begins) {
            Ok(_) => Ok(domain),
            Err(_) => Err(self.presence(domid)),
        }
    }

    /// Ends [`Thread::expect`]: with the connection and the homes that arrived, or with nothing.
    ///
    /// # Errors
    /// `ENOENT` if the domain died meanwhile.
    pub(super) fn arrive(
        &mut self,
        domain: &Arc<Domain>,
        arrived: Option<(Client, Seen)>,
    ) -> Result<(), Errno> {
        let origin = arrived.as_ref().map(|(client, _)| client.connection.unique_id.unwrap_or(0));
        let moved = arrived.map(|(client, seen)| Box::new(Moved { client, seen }));
        self.step(domain, Event::ImportEnds(moved))?;
        if let Some(origin) = origin {
            domain.set_origin(origin);
        }
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
        let taken_back = self.step(&domain, Event::Discard)?.taken_back;
        let Imported { seen, before } = taken_back.ok_or(Errno::EINVAL)?;
        self.shared.store.registry().restore(&domain, &before.settings);
        domain.set_origin(0);
        if let Some(place) = introduced {
            self.disconnect_ring(place);
        }
        Ok((seen, introduced.is_some()))
    }

    /// Makes a connection what it was elsewhere, quiesced, and returns the homes that it had. Cost: that of setting
    /// its watches.
    pub(super) fn take_up(&mut self, connection: &mut Connection, moved: Moved) -> Seen {
        let Moved { client, seen } = moved;
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
            let id = self.insert_watch(connection, new);
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
        connection.is_quiesced = true;
        connection.outdate(self.next_number());
        seen
    }
}

impl Moved {
    /// Returns the event channel that the connection had.
    pub fn port(&self) -> u32 {
        match self.client.connection.transport {
            SentBy::Ring(_, _, evtchn) => evtchn,
            SentBy::Socket(_) => 0,
        }
    }
}

impl Connection {
    /// Another number whenever something changed that is carried and no node: what is on the way,
    /// watches, transactions, settings. Both parts only grow.
    fn version(&self) -> u64 {
        self.additions + self.domain.settings()
    }

    /// Something was added to it, which is of this version now: if it is exported, that was not all.
    pub(super) fn outdate(&mut self, version: u64) {
        self.additions = version;
    }
}

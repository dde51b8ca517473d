//! Domains that arrive, on their home thread: a number is kept free for an import, which then ends, and may be taken back.

use super::super::rings::Carried;
use super::super::state::{Event, Imported};
use super::super::thread::Thread;
use super::saved_connection::SavedConnection;
use crate::domain::{Domain, OwnSettings};
use crate::migration::stream::state::Client;
use crate::store::DomainSnapshot;
use crate::sync::Arc;
use crate::words::{Domid, Errno, Presence};

/// What was there before an import of a domain that was not introduced.
pub struct Before {
    /// What others had set of the domain.
    pub settings: OwnSettings,
    /// What a RELEASE had left, for an INTRODUCE of the same ring.
    pub carried: Option<Box<Carried>>,
}

impl Thread {
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
        arrived: Option<(Client, DomainSnapshot)>,
    ) -> Result<(), Errno> {
        let origin = arrived.as_ref().map(|(client, _)| client.connection.unique_id.unwrap_or(0));
        let moved = arrived.map(|(client, seen)| Box::new(SavedConnection { client, seen }));
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
    pub(super) fn discard(&mut self, domid: Domid) -> Result<(DomainSnapshot, bool), Errno> {
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
}

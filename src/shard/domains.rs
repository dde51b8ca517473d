//! What happens to one domain: INTRODUCE, RELEASE, RESUME, SET_TARGET, shutdown and death. All of
//! it happens on the domain's home thread, between requests, so it is serial and no thread waits.

use super::connection::Connection;
use super::mailbox::{Asker, Message};
use super::requests::ACK;
use super::rings::Carried;
use super::state::Event;
use super::thread::Thread;
use crate::domain::Domain;
use crate::host::{Gfn, Port};
use crate::protocol::Header;
use crate::protocol::operations::DomainRequest;
use crate::store::Caller;
use crate::sync::{Arc, Ordering};
use crate::words::{Domid, Errno, INTRODUCE_DOMAIN, RELEASE_DOMAIN, ShardId, Subject};

impl Thread {
    /// Serves a request about a domain whose home thread this is. The answer goes out before the
    /// event that reports what was done: no client sees an event of its own before its reply.
    pub(super) fn domain_request(&mut self, asker: Asker, domid: Domid, request: DomainRequest) {
        let reported = |special| (ACK.to_vec(), special);
        let silent = |()| (ACK.to_vec(), None);
        let result = match request {
            DomainRequest::Introduce(gfn, port) => self.introduce(domid, gfn, port).map(reported),
            DomainRequest::Release(mark) => self.release(domid, mark).map(reported),
            DomainRequest::Resume => self.resume(domid).map(silent),
            DomainRequest::SetTarget(target) => self.set_target(domid, target).map(silent),
            DomainRequest::ListWatches(index, listing) => {
                self.list_watches(domid, index, listing).map(|list| (list, None))
            }
            DomainRequest::AddWatches(watches) => self.add_watches(domid, &watches).map(silent),
            DomainRequest::StartTransaction(id) => self.reserve_transaction(domid, id).map(silent),
        };
        let event = result.as_ref().ok().and_then(|(_, special)| *special);
        let answer = Message::Answer(asker, result.map(|(reply, _)| reply));
        self.shared.mailboxes.post(asker.thread, answer);
        if let Some(special) = event {
            self.shared.store.publish_special(special, domid);
        }
    }

    fn introduce(
        &mut self,
        domid: Domid,
        gfn: Option<Gfn>,
        port: Port,
    ) -> Result<Option<&'static [u8]>, Errno> {
        // A former life may have ended without our having heard of it yet.
        self.domain_changed(domid);
        let domain = self.shared.known_domain(domid).ok_or(Errno::EINVAL)?;
        let Some(connect) = self.step(&domain, Event::Introduce)?.connect else {
            let place = *self.rings.get(&domid).ok_or(Errno::EIO)?;
            return self.introduce_again(place, port).map(|()| None);
        };
        match self.connect_ring(&domain, gfn, port, connect) {
            Ok(()) => Ok((domid != Domid::CONTROL).then_some(INTRODUCE_DOMAIN)),
            Err(error) => {
                tracing::warn!(%error, domid = domid.0, port, "cannot introduce a domain");
                Err(Errno::EINVAL)
            }
        }
    }

    fn release(&mut self, domid: Domid, mark: Option<u64>) -> Result<Option<&'static [u8]>, Errno> {
        let &place = self.rings.get(&domid).ok_or(Errno::ENOENT)?;
        self.deliver_ahead(place);
        if mark.is_some() && self.has_pending_events() {
            // Some of these may be the domain's, of which its new host knows nothing.
            return Err(Errno::EAGAIN);
        }
        let client = mark.map(|mark| self.leave(domid, mark)).transpose()?;
        let Some((connection, waits)) = self.disconnect_ring(place) else {
            return Err(Errno::ENOENT);
        };
        let domain = Arc::clone(&connection.domain);
        let event = match client {
            Some(client) => Event::ReleaseWithMark(client),
            None => Event::Release(self.carry_on(connection, waits)),
        };
        self.step(&domain, event)?;
        if mark.is_some() {
            tracing::info!(domid = domid.0, mark, "released with a mark");
        }
        Ok(Some(RELEASE_DOMAIN))
    }

    /// Returns what an ended connection had in hand, if it is anything, for an INTRODUCE of the same ring.
    fn carry_on(
        &mut self,
        mut connection: Box<Connection>,
        waits: Option<Header>,
    ) -> Option<Box<Carried>> {
        let position = connection.ring().map(|ring| ring.position()).unwrap_or_default();
        let partial = std::mem::take(&mut connection.partial);
        let output = std::mem::take(&mut connection.output).carried();
        let waits = waits.map(|header| (connection.asker.id, header));
        if waits.is_some() {
            self.released.insert(connection.asker.id, connection.domid());
        }
        let is_empty = partial.is_empty() && output.is_empty() && waits.is_none();
        (!is_empty).then(|| Box::new(Carried { position, partial, output, waits }))
    }

    fn resume(&mut self, domid: Domid) -> Result<(), Errno> {
        self.connected_domain(domid)?.swap_shutdown(false);
        Ok(())
    }

    fn set_target(&mut self, domid: Domid, target: Domid) -> Result<(), Errno> {
        let domain = self.connected_domain(domid)?;
        let target = self.connected_domain(target)?;
        self.shared.store.registry().set_target(&domain, &target);
        Ok(())
    }

    fn connected_domain(&self, domid: Domid) -> Result<Arc<Domain>, Errno> {
        let domain = self.shared.store.registry().get(domid);
        domain.filter(|domain| domain.is_introduced()).ok_or(Errno::ENOENT)
    }

    /// Asks the host which domains changed, and tells their home threads.
    pub(super) fn domains_changed(&mut self) {
        // Only a host that cannot tell which changed makes this look at all of them.
        let registry = self.shared.store.registry();
        let mut known = std::iter::once_with(|| registry.known()).flatten();
        let mut changed = Vec::new();
        let asked = self.shared.host.changed(&mut known, &mut changed);
        for domid in changed {
            let home = self.home_thread(domid);
            self.shared.mailboxes.post(home, Message::DomainChanged(domid));
        }
        if let Err(error) = asked {
            self.changed_failed(&error);
        }
    }

    /// A domain whose home thread this is shut down or died, or nothing happened to it.
    pub(super) fn domain_changed(&mut self, domid: Domid) {
        let Some(domain) = self.shared.store.registry().get(domid) else { return };
        let state = match self.shared.host.domain(domid) {
            Ok(state) => state.filter(|state| state.unique_id == domain.unique_id && !state.dying),
            Err(error) => return self.domain_failed(domid, &error),
        };
        match state {
            None if domid != Domid::CONTROL => self.domain_died(&domain),
            Some(state) if state.shutdown && domain.is_introduced() => {
                let reported = domain.swap_shutdown(true);
                if !reported {
                    self.shared.store.publish_special(RELEASE_DOMAIN, domid);
                }
            }
            _ => {}
        }
    }

    /// Its connection ends, its rights end, its nodes go, then everybody is told.
    fn domain_died(&mut self, domain: &Arc<Domain>) {
        let was_introduced = domain.is_introduced();
        if let Some(&place) = self.rings.get(&domain.domid) {
            self.disconnect_ring(place);
        }
        // Of an incarnation that is gone already nothing is left.
        let _ = self.step(domain, Event::Died);
        if !self.shared.store.registry().bury(domain) {
            return;
        }
        let store = Arc::clone(&self.shared.store);
        let by = self.shared.daemon_caller();
        for executed in store.sweep(domain, &by, &mut self.generations) {
            if let Some(rest) = store.settle(executed.removed) {
                store.reap(rest, Box::new(|| {}));
            }
        }
        if was_introduced {
            store.publish_special(RELEASE_DOMAIN, domain.domid);
        }
        self.shared.deaths.fetch_add(1, Ordering::Relaxed);
    }
}

impl super::Shared {
    /// The incarnation of a domain that the host says exists; it becomes known by this.
    pub(super) fn known_domain(&self, domid: Domid) -> Option<Arc<Domain>> {
        let registry = self.store.registry();
        if let Some(domain) = registry.get(domid) {
            return Some(domain);
        }
        let living = || self.host.domain(domid).ok().flatten().filter(|state| !state.dying);
        let id = living()?.unique_id;
        let domain = registry.admit(domid, id)?;
        // If it died since the host was asked, that was told while nobody knew it.
        if living().is_none_or(|state| state.unique_id != id) {
            let ShardId(home) = self.store.layout().of_domain(domid);
            self.mailboxes.send(home, Message::DomainChanged(domid));
        }
        Some(domain)
    }

    /// The daemon itself, as the one who asks.
    pub(super) fn daemon_caller(&self) -> Caller {
        let domain = Arc::clone(&self.control_domain);
        Caller { domain, subject: Subject::CONTROL, epoch: self.store.epoch(), unblocked: None }
    }
}

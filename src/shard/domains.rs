//! What happens to one domain: INTRODUCE, RELEASE, RESUME, SET_TARGET, shutdown and death. All of
//! it happens on the domain's home thread, between requests, so it is serial and no thread waits.

use super::connection::Connection;
use super::mailbox::{Asker, Message};
use super::requests::ACK;
use super::thread::{Place, Thread};
use crate::domain::{Domain, Quota};
use crate::host::Port;
use crate::store::{Caller, Unblocked};
use crate::sync::{Arc, Ordering};
use crate::transport::{Ring, RingError, Transport};
use crate::words::{Domid, Errno, INTRODUCE_DOMAIN, RELEASE_DOMAIN, Subject};

/// A request about a domain, for its home thread.
pub enum DomainRequest {
    /// Talk to the domain; its unbound port.
    Introduce(Port),
    /// Talk to it no more.
    Release,
    /// Report its shutdown again.
    Resume,
    /// Give it the rights of another.
    SetTarget(Domid),
}

/// What RELEASE keeps for an INTRODUCE of the same ring: so the pair changes nothing that the
/// guest can see of its stream.
pub struct Carried {
    birth: u64,
    position: (u32, u32),
    partial: Vec<u8>,
    output: Vec<u8>,
}

impl Thread {
    /// Serves a request about a domain whose home thread this is. The answer goes out before the
    /// event that reports what was done: no client sees an event of its own before its reply.
    pub(super) fn domain_request(&mut self, asker: Asker, domid: Domid, request: DomainRequest) {
        let (result, event) = match request {
            DomainRequest::Introduce(port) => self.introduce(domid, port),
            DomainRequest::Release => self.release(domid),
            DomainRequest::Resume => (self.resume(domid), None),
            DomainRequest::SetTarget(target) => (self.set_target(domid, target), None),
        };
        let result = result.map(|()| ACK.to_vec());
        if let Some(mailbox) = self.shared.mailboxes.of(asker.thread) {
            mailbox.push(Message::Answer(asker, result));
        }
        if let Some(special) = event {
            self.shared.store.publish_special(special, domid, true);
        }
    }

    fn introduce(
        &mut self,
        domid: Domid,
        port: Port,
    ) -> (Result<(), Errno>, Option<&'static [u8]>) {
        let Some(domain) = self.shared.known_domain(domid) else {
            return (Err(Errno::EINVAL), None);
        };
        if let Some(&place) = self.rings.get(&domid) {
            return (self.introduce_again(place, port), None);
        }
        match self.connect_ring(&domain, Some(port)) {
            Ok(()) => (Ok(()), (domid != Domid::CONTROL).then_some(INTRODUCE_DOMAIN)),
            Err(error) => {
                tracing::warn!(%error, domid = domid.0, port, "cannot introduce a domain");
                (Err(Errno::EINVAL), None)
            }
        }
    }

    /// Maps a domain's ring, binds its port, and serves it from now on.
    pub(super) fn connect_ring(
        &mut self,
        domain: &Arc<Domain>,
        port: Option<Port>,
    ) -> std::io::Result<()> {
        let domid = domain.domid;
        let page = self.shared.host.map_ring(domid)?;
        let remote = Ring::named_port(&page).or(port).ok_or(std::io::ErrorKind::NotConnected)?;
        let port = self.channels.bind_interdomain(domid, remote)?;
        let mut ring = Ring::new(page, port);
        ring.offer(domain.features());
        ring.connected();
        let position = ring.position();
        self.sequence += 1;
        let transport = Transport::Ring(ring);
        let mut connection = Connection::new(self.sequence, Arc::clone(domain), transport);
        if !self.shared.store.registry().is_privileged(domid) {
            connection.unblocked = Some(self.unblocked());
        }
        if let Some(carried) = self.carried.remove(&domid)
            && (carried.birth, carried.position) == (domain.birth, position)
        {
            connection.partial = carried.partial;
            *connection.output.buffer() = carried.output;
            connection.recharge_output();
        }
        let place = self.connections.insert(Some(Box::new(connection)));
        self.rings.insert(domid, place);
        self.ports.insert(port, place);
        domain.set_introduced(true);
        // What the guest wrote before its port was bound raised nothing.
        self.make_ready(place);
        if let Err(error) = self.channels.notify(port) {
            tracing::debug!(%error, port, "cannot notify");
        }
        Ok(())
    }

    /// Tells this thread when the domain may go on, from whatever thread finds out.
    fn unblocked(&self) -> Unblocked {
        let (mailboxes, thread) = (self.shared.mailboxes.clone(), self.number);
        Arc::new(move |domain| mailboxes.send(thread, Message::Unblocked(domain.domid)))
    }

    /// INTRODUCE of a known domain makes its event channel and its connection new; the page is not
    /// written.
    fn introduce_again(&mut self, place: Place, remote: Port) -> Result<(), Errno> {
        let Some(Some(mut connection)) = self.connections.get_mut(place).map(Option::take) else {
            return Err(Errno::EIO);
        };
        self.reset(place, &mut connection);
        let was_ignored = std::mem::take(&mut connection.ignored);
        let domid = connection.domid();
        let bound = connection.ring().map(|ring| ring.port).map(|old| {
            self.ports.remove(&old);
            self.unbind(old);
            self.channels.bind_interdomain(domid, remote)
        });
        let result = match bound {
            Some(Ok(port)) => {
                self.ports.insert(port, place);
                if let Some(ring) = connection.ring() {
                    (ring.port, ring.masked) = (port, false);
                    ring.connected();
                    if was_ignored {
                        ring.mend();
                    }
                }
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        };
        self.connections[place] = Some(connection);
        self.make_ready(place);
        result
    }

    fn unbind(&mut self, port: Port) {
        if let Err(error) = self.channels.unbind(port) {
            tracing::debug!(%error, port, "cannot unbind");
        }
    }

    /// Forgets what a connection had in hand, but leaves its stream whole.
    fn reset(&mut self, place: Place, connection: &mut Connection) {
        self.drop_watches(place, connection);
        self.drop_transactions(connection);
        self.shared.guards.lift(self.asker(place, connection), &self.shared.mailboxes);
        connection.output.keep_begun();
        connection.recharge_output();
        self.unpark(connection);
        // An answer to what it asked before is not for it any more.
        self.sequence += 1;
        connection.id = self.sequence;
    }

    /// A guest that asked to reconnect gets a new beginning (xenstore-ring.txt, "The ring
    /// reconnection feature").
    pub(super) fn reconnects(&mut self, place: Place, connection: &mut Connection) -> bool {
        if !connection.ring().is_some_and(|ring| ring.wants_reconnect()) {
            return false;
        }
        self.reset(place, connection);
        connection.output = Default::default();
        connection.recharge_output();
        connection.partial.clear();
        connection.more_input = false;
        connection.ignored = false;
        if let Some(ring) = connection.ring() {
            ring.reconnect();
        }
        true
    }

    fn release(&mut self, domid: Domid) -> (Result<(), Errno>, Option<&'static [u8]>) {
        let Some(&place) = self.rings.get(&domid) else { return (Err(Errno::ENOENT), None) };
        if let Some(mut connection) = self.disconnect_ring(place) {
            let birth = connection.domain.birth;
            let position = connection.ring().map(|ring| ring.position()).unwrap_or_default();
            let partial = std::mem::take(&mut connection.partial);
            let output = connection.output.take_unsent();
            if !partial.is_empty() || !output.is_empty() {
                let carried = Carried { birth, position, partial, output };
                self.carried.insert(domid, carried);
            }
        }
        (Ok(()), Some(RELEASE_DOMAIN))
    }

    /// Serves a ring no more: unbound, unmapped, forgotten. The incarnation lives on.
    fn disconnect_ring(&mut self, place: Place) -> Option<Box<Connection>> {
        let mut connection = self.connections.try_remove(place)??;
        self.reset_silently(place, &mut connection);
        self.unpark(&mut connection);
        connection.domain.set_introduced(false);
        self.rings.remove(&connection.domid());
        if let Some(ring) = connection.ring() {
            let port = ring.port;
            ring.publish();
            self.ports.remove(&port);
            self.unbind(port);
        }
        Some(connection)
    }

    /// What every end of a connection has in common.
    fn reset_silently(&mut self, place: Place, connection: &mut Connection) {
        self.drop_watches(place, connection);
        self.drop_transactions(connection);
        self.shared.guards.lift(self.asker(place, connection), &self.shared.mailboxes);
        let charged = std::mem::take(&mut connection.output_charged);
        connection.domain.account.release(Quota::Memory, charged);
    }

    /// Closes a socket's connection.
    pub(super) fn close(&mut self, place: Place) {
        if let Some(Some(mut connection)) = self.connections.try_remove(place) {
            // Whatever of its last replies it still takes.
            let _ = connection.flush();
            self.unpark(&mut connection);
            self.deregister(&mut connection);
            self.shared.clients.fetch_sub(1, Ordering::Relaxed);
            self.reset_silently(place, &mut connection);
        }
    }

    /// Gives a connection up for what it did: a socket is closed; a ring is not looked at any more
    /// until it reconnects, but its domain stays known until it is really dead (XSA-325).
    pub(super) fn give_up(&mut self, place: Place, error: RingError) {
        let Some(Some(mut connection)) = self.connections.get_mut(place).map(Option::take) else {
            return;
        };
        let domid = connection.domid().0;
        tracing::warn!(domid, ?error, "a connection is given up");
        match connection.ring() {
            None => {
                self.connections[place] = Some(connection);
                self.close(place);
            }
            Some(_) => {
                self.reset(place, &mut connection);
                connection.output = Default::default();
                connection.recharge_output();
                connection.partial.clear();
                connection.ignored = true;
                if let Some(ring) = connection.ring() {
                    ring.give_up(error);
                    let (port, _) = (ring.port, ring.publish());
                    ring.masked = false;
                    let _ = self.channels.notify(port);
                    self.unmask(port);
                }
                self.connections[place] = Some(connection);
            }
        }
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
        match self.shared.host.changed(&mut known) {
            Ok(changed) => {
                for domid in changed {
                    let home = self.home_thread(domid);
                    self.shared.mailboxes.send(home, Message::DomainChanged(domid));
                }
            }
            Err(error) => tracing::error!(%error, "the host does not say which domains changed"),
        }
    }

    /// A domain whose home thread this is shut down or died, or nothing happened to it.
    pub(super) fn domain_changed(&mut self, domid: Domid) {
        let Some(domain) = self.shared.store.registry().get(domid) else { return };
        let state = match self.shared.host.domain(domid) {
            Ok(state) => state.filter(|state| state.unique_id == domain.unique_id && !state.dying),
            Err(error) => {
                tracing::error!(%error, domid = domid.0, "the host does not say whether it lives");
                return;
            }
        };
        match state {
            None if domid != Domid::CONTROL => self.domain_died(&domain),
            Some(state) if state.shutdown && domain.is_introduced() => {
                let reported = domain.swap_shutdown(true);
                if !reported {
                    self.shared.store.publish_special(RELEASE_DOMAIN, domid, true);
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
        self.carried.remove(&domain.domid);
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
            store.publish_special(RELEASE_DOMAIN, domain.domid, true);
        }
        self.shared.deaths.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a guest has to be served before it may ask for more.
    pub(super) fn is_throttled(&self, connection: &Connection) -> bool {
        if !connection.is_guest() {
            return false;
        }
        let (domain, registry) = (&connection.domain, self.shared.store.registry());
        let used = |quota| domain.account.used(quota);
        let outstanding = used(Quota::Outstanding) + connection.output.plain_replies() as u64;
        let (requests, bytes) =
            (registry.limit(domain, Quota::Outstanding), registry.limit(domain, Quota::Memory));
        requests != 0 && outstanding >= u64::from(requests)
            || bytes != 0 && used(Quota::Memory) > u64::from(bytes)
    }
}

impl super::Shared {
    /// The incarnation of a domain that the host says exists; it becomes known by this.
    pub(super) fn known_domain(&self, domid: Domid) -> Option<Arc<Domain>> {
        let registry = self.store.registry();
        if let Some(domain) = registry.get(domid) {
            return Some(domain);
        }
        let state = self.host.domain(domid).ok().flatten().filter(|state| !state.dying)?;
        registry.admit(domid, state.unique_id)
    }

    /// The daemon itself, as the one who asks.
    pub(super) fn daemon_caller(&self) -> Caller {
        let domain = Arc::clone(&self.control_domain);
        Caller { domain, subject: Subject::CONTROL, unblocked: None }
    }
}

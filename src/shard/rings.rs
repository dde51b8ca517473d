//! The connections of rings: how they begin, begin anew and end; and how every connection ends.

use super::connection::Connection;
use super::mailbox::Message;
use super::thread::{Place, Thread};
use crate::domain::{Domain, Quota};
use crate::host::Port;
use crate::store::Unblocked;
use crate::sync::{Arc, Ordering};
use crate::transport::{Ring, RingError, Transport};
use crate::words::Errno;

/// What RELEASE keeps for an INTRODUCE of the same ring: so the pair changes nothing that the
/// guest can see of its stream.
pub struct Carried {
    pub birth: u64,
    pub position: (u32, u32),
    pub partial: Vec<u8>,
    pub output: Vec<u8>,
}

impl Thread {
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
        self.notify(port);
        Ok(())
    }

    /// Tells this thread when the domain may go on, from whatever thread finds out.
    fn unblocked(&self) -> Unblocked {
        let (mailboxes, thread) = (self.shared.mailboxes.clone(), self.number);
        Arc::new(move |domain| mailboxes.send(thread, Message::Unblocked(domain.domid)))
    }

    /// INTRODUCE of a known domain makes its event channel and its connection new; the page is not
    /// written.
    pub(super) fn introduce_again(&mut self, place: Place, remote: Port) -> Result<(), Errno> {
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
            _ => {
                // The number may become another domain's.
                if let Some(ring) = connection.ring() {
                    ring.port = 0;
                }
                Err(Errno::EINVAL)
            }
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

    /// Takes back what a connection asked of others: what every end and reset has in common.
    fn withdraw(&mut self, place: Place, connection: &mut Connection) {
        self.drop_watches(place, connection);
        self.drop_transactions(connection);
        self.shared.guards.lift(self.asker(place, connection), &self.shared.mailboxes);
        self.unpark(connection);
    }

    /// Forgets what a connection had in hand, but leaves its stream whole.
    fn reset(&mut self, place: Place, connection: &mut Connection) {
        self.withdraw(place, connection);
        connection.output.keep_begun();
        connection.recharge_output();
        // An answer to what it asked before is not for it any more.
        self.sequence += 1;
        connection.id = self.sequence;
    }

    /// Forgets what a connection had in hand, its stream too.
    fn reset_stream(&mut self, place: Place, connection: &mut Connection) {
        self.reset(place, connection);
        connection.output = Default::default();
        connection.recharge_output();
        connection.partial.clear();
        connection.more_input = false;
    }

    /// A guest that asked to reconnect gets a new beginning (xenstore-ring.txt, "The ring
    /// reconnection feature").
    pub(super) fn reconnects(&mut self, place: Place, connection: &mut Connection) -> bool {
        if !connection.ring().is_some_and(|ring| ring.wants_reconnect()) {
            return false;
        }
        self.reset_stream(place, connection);
        connection.ignored = false;
        if let Some(ring) = connection.ring() {
            ring.reconnect();
        }
        true
    }

    /// Serves a ring no more: unbound, unmapped, forgotten. The incarnation lives on.
    pub(super) fn disconnect_ring(&mut self, place: Place) -> Option<Box<Connection>> {
        let mut connection = self.connections.try_remove(place)??;
        self.end(place, &mut connection);
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

    /// What the ends of all connections have in common.
    fn end(&mut self, place: Place, connection: &mut Connection) {
        self.withdraw(place, connection);
        let charged = std::mem::take(&mut connection.output_charged);
        connection.domain.account.release(Quota::Memory, charged);
    }

    /// Closes a socket's connection.
    pub(super) fn close(&mut self, place: Place) {
        if let Some(Some(mut connection)) = self.connections.try_remove(place) {
            // Whatever of its last replies it still takes.
            let _ = connection.flush();
            self.deregister(&mut connection);
            self.shared.clients.fetch_sub(1, Ordering::Relaxed);
            self.end(place, &mut connection);
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
                self.reset_stream(place, &mut connection);
                connection.ignored = true;
                if let Some(ring) = connection.ring() {
                    ring.give_up(error);
                    let (port, _) = (ring.port, ring.publish());
                    ring.masked = false;
                    self.notify(port);
                    self.unmask(port);
                }
                self.connections[place] = Some(connection);
            }
        }
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

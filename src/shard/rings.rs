//! The connections of rings: how they begin, begin anew and end; and how every connection ends.

use super::connection::Connection;
use super::mailbox::{Asker, Message};
use super::output::Output;
use super::state::{Connect, Connected, Event, Imported};
use super::thread::{Place, Thread};
use super::trace;
use crate::domain::{Domain, Notice, Quota, UNDELIVERED_MAX, UNREAD_BYTES_MAX};
use crate::host::{Gfn, Port};
use crate::protocol::{Header, ReplySlot};
use crate::store::Unblocked;
use crate::sync::{Arc, Ordering};
use crate::transport::{Ring, RingError, Transport};
use crate::words::{Domid, Errno};

/// What RELEASE keeps for an INTRODUCE of the same ring: so the pair changes nothing that the
/// guest can see of its stream.
pub struct Carried {
    pub position: (u32, u32),
    pub partial: Vec<u8>,
    pub output: Output,
    /// The request whose answer is somebody else's to give (its RM is being settled), and the number
    /// of the connection that it is for.
    pub waits: Option<(u64, Header)>,
}

impl Carried {
    /// The answer to its request came.
    pub fn answered(&mut self, id: u64, result: Result<&[u8], Errno>) {
        if let Some((_, header)) = self.waits.take_if(|(waits, _)| *waits == id) {
            let slot = ReplySlot::begin(self.output.buffer(), &header);
            self.output.buffer().extend_from_slice(result.unwrap_or_default());
            slot.finish(self.output.buffer(), result.map(|_| ()));
        }
    }
}

impl Thread {
    /// Maps a domain's ring, binds its port, and serves it from now on.
    pub(super) fn connect_ring(
        &mut self,
        domain: &Arc<Domain>,
        gfn: Option<Gfn>,
        port: Port,
        connect: Connect,
    ) -> std::io::Result<()> {
        let domid = domain.domid;
        let (mut ring, port) = match self.map_ring(domid, gfn, port) {
            Ok(mapped) => mapped,
            Err(error) => {
                // The domain is gone if this is refused.
                let _ = self.step(domain, Event::ConnectFailed(connect));
                return Err(error);
            }
        };
        ring.offer(domain.features());
        // A domain that moved and asked for a new beginning gets it with UNQUIESCE, as if it had stayed.
        if matches!(connect, Connect::New(_)) {
            ring.connected();
        }
        let position = ring.position();
        self.sequence += 1;
        let transport = Transport::Ring(ring);
        let place = self.connections.vacant_key();
        let asker = Asker { thread: self.number, connection: place, id: self.sequence };
        let mut connection = Connection::new(asker, Arc::clone(domain), transport);
        if !self.shared.store.registry().is_privileged(domid) {
            connection.unblocked = Some(self.unblocked());
        }
        let connected = self.take_over(&mut connection, connect, position);
        connection.trace(format_args!("create connection of a ring"));
        self.connections.insert(Some(Box::new(connection)));
        self.rings.insert(domid, place);
        self.scan.ring_added(self.now, self.rings.len());
        self.ports.insert(port, place);
        // The state is Connecting, which takes it.
        let _ = self.step(domain, Event::Connected(connected));
        // What the guest wrote before its port was bound raised nothing.
        self.make_ready(place);
        self.notify(port);
        Ok(())
    }

    fn map_ring(
        &mut self,
        domid: Domid,
        gfn: Option<Gfn>,
        port: Port,
    ) -> std::io::Result<(Ring, Port)> {
        let page = self.shared.host.map_ring(domid, gfn)?;
        let remote = Ring::named_port(&page).unwrap_or(port);
        let port = self.channels.bind_interdomain(domid, remote)?;
        Ok((Ring::new(page, port, remote), port))
    }

    /// Gives a new connection what its domain had in hand before.
    fn take_over(
        &mut self,
        connection: &mut Connection,
        connect: Connect,
        position: (u32, u32),
    ) -> Connected {
        match connect {
            Connect::New(carried) => {
                if let Some(carried) = carried.filter(|carried| carried.position == position) {
                    connection.partial = carried.partial;
                    connection.output = carried.output;
                    connection.recharge_output();
                    if let Some((id, header)) = carried.waits {
                        connection.asker.id = id;
                        self.park(connection, &header);
                    }
                }
                Connected::New
            }
            Connect::Left(moved) => {
                self.restore_connection(connection, *moved);
                Connected::Left
            }
            Connect::Arrived(moved, before) => {
                let seen = self.restore_connection(connection, *moved);
                Connected::Arrived(Imported { seen, before })
            }
        }
    }

    /// Tells this thread when the domain may go on, from whatever thread finds out.
    fn unblocked(&self) -> Unblocked {
        let (mailboxes, thread) = (self.shared.mailboxes.clone(), self.number);
        Arc::new(move |domain| mailboxes.send(thread, Message::Unblocked(domain.domid)))
    }

    /// INTRODUCE of a known domain makes its event channel and its connection new; the page is not
    /// written.
    pub(super) fn introduce_again(&mut self, place: Place, remote: Port) -> Result<(), Errno> {
        let introduced = self.with_connection(place, |thread, connection| {
            thread.withdraw(connection);
            connection.output.drop_events();
            connection.recharge_output();
            thread.bind_again(connection, remote)
        });
        self.make_ready(place);
        introduced.ok_or(Errno::EIO)?
    }

    /// Makes the event channel of a ring new.
    fn bind_again(&mut self, connection: &mut Connection, remote: Port) -> Result<(), Errno> {
        let was_ignored = std::mem::take(&mut connection.ignored);
        let (place, domid) = (connection.asker.connection, connection.domid());
        let ring = connection.ring().ok_or(Errno::EINVAL)?;
        self.ports.remove(&ring.port);
        self.unbind(ring.port);
        let Ok(port) = self.channels.bind_interdomain(domid, remote) else {
            // The number may become another domain's.
            ring.port = 0;
            return Err(Errno::EINVAL);
        };
        self.ports.insert(port, place);
        (ring.port, ring.remote, ring.masked) = (port, remote, false);
        ring.connected();
        if was_ignored {
            ring.mend();
        }
        Ok(())
    }

    fn unbind(&mut self, port: Port) {
        if let Err(error) = self.channels.unbind(port) {
            tracing::debug!(%error, port, "cannot unbind");
        }
    }

    /// Takes back what a connection asked of others: what every end and reset has in common.
    fn withdraw(&mut self, connection: &mut Connection) {
        self.drop_watches(connection);
        self.drop_transactions(connection);
        self.leave_turns(connection);
    }

    /// Forgets what a connection had in hand, its stream too. An answer to what it asked before is
    /// not for it any more.
    fn reset(&mut self, connection: &mut Connection) {
        self.withdraw(connection);
        self.unpark(connection);
        connection.late = None;
        connection.comes_again = false;
        connection.output = Default::default();
        connection.recharge_output();
        connection.partial.clear();
        connection.more_input = false;
        connection.trace(format_args!("destroy connection"));
        connection.asker.id = self.next_number();
        connection.outdate(connection.asker.id);
        connection.trace(format_args!("create connection of a ring"));
    }

    /// A guest that asked to reconnect gets a new beginning (xenstore-ring.txt, "The ring
    /// reconnection feature").
    pub(super) fn reconnects(&mut self, connection: &mut Connection) -> bool {
        if !connection.ring().is_some_and(|ring| ring.wants_reconnect()) {
            return false;
        }
        self.reset(connection);
        connection.ignored = false;
        if let Some(ring) = connection.ring() {
            ring.reconnect();
        }
        true
    }

    /// Serves a ring no more: unbound, unmapped, forgotten. The incarnation lives on.
    ///
    /// Answers what it was, with the request whose answer it waited for.
    pub(super) fn disconnect_ring(
        &mut self,
        place: Place,
    ) -> Option<(Box<Connection>, Option<Header>)> {
        let mut connection = self.connections.try_remove(place)??;
        let waited = self.end(&mut connection);
        self.rings.remove(&connection.domid());
        if let Some(ring) = connection.ring() {
            let port = ring.port;
            ring.publish();
            self.ports.remove(&port);
            self.unbind(port);
        }
        Some((connection, waited))
    }

    /// What the ends of all connections have in common.
    fn end(&mut self, connection: &mut Connection) -> Option<Header> {
        self.withdraw(connection);
        let charged = std::mem::take(&mut connection.output_charged);
        connection.domain.account.release(Quota::Memory, charged);
        connection.trace(format_args!("destroy connection"));
        self.unpark(connection)
    }

    /// Closes a socket's connection.
    pub(super) fn close(&mut self, place: Place) {
        if let Some(Some(mut connection)) = self.connections.try_remove(place) {
            self.note_end_of_stall(&connection);
            // Whatever of its last replies it still takes.
            let _ = connection.flush();
            self.deregister(&mut connection);
            self.shared.clients.fetch_sub(1, Ordering::Relaxed);
            self.end(&mut connection);
        }
    }

    /// Gives a connection up for what it did: a socket is closed; a ring is not looked at any more
    /// until it reconnects, but its domain stays known until it is really dead (XSA-325).
    pub(super) fn give_up(&mut self, place: Place, error: RingError) {
        let is_ring = self.with_connection(place, |thread, connection| {
            thread.log_given_up(connection, error);
            if connection.ring().is_none() {
                return false;
            }
            thread.reset(connection);
            connection.ignored = true;
            if let Some(ring) = connection.ring() {
                ring.give_up(error);
                let (port, _) = (ring.port, ring.publish());
                ring.masked = false;
                thread.notify(port);
                thread.unmask(place, port);
            }
            true
        });
        if is_ring == Some(false) {
            self.close(place);
        }
    }

    /// A guest can break its ring and reconnect thousands of times a second: of a domain the 1st, 2nd, 4th, 8th
    /// ... time is logged.
    fn log_given_up(&self, connection: &mut Connection, error: RingError) {
        let is_ring = connection.ring().is_some();
        let times = is_ring.then(|| connection.domain.notice(Notice::GivenUp)).flatten();
        if !is_ring || times.is_some() {
            let (domid, pid) = (connection.domid().0, connection.transport.pid());
            let connection = trace::name(&connection.asker);
            tracing::warn!(%connection, domid, pid, times, %error, "a connection is given up");
        }
    }

    /// Whether a guest has to be served before it may ask for more. Above its quota of memory it has to read what
    /// waits for it, if anything does; what else it keeps only its own requests can end, and the next one that
    /// would add to it is refused.
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
            || bytes != 0 && connection.output_charged > 0 && used(Quota::Memory) > u64::from(bytes)
            || domain.undelivered() >= UNDELIVERED_MAX
            || domain.unread_bytes() >= UNREAD_BYTES_MAX
    }
}

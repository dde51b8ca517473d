//! The event channels of a worker: notifications of the host, and the errors that may have hidden some.

use std::collections::HashMap;
use std::io;
use std::time::Instant;

use foldhash::fast::RandomState;

use super::clients::Clients;
use super::recheck::Recheck;
use crate::host::{Channels, Pending, Port};
use crate::server::mailbox::{Message, Slot};
use crate::server::session::core::Core;
use crate::types::Domid;

/// The number of pending ports read at a time.
const PORTS_PER_READ: usize = 128;
/// The numbers of rings and of domains rechecked in one pass: each costs about a system call, and other requests must
/// be served in between.
const RECHECKED_PER_PASS: usize = 256;

/// The event channels of a worker.
pub struct EventChannels {
    handle: Box<dyn Channels>,
    /// The port that fires when domains change, if it is bound here.
    changes: Option<Port>,
    ports: HashMap<Port, Slot, RandomState>,
    /// Bound ports of another process whose domains have died.
    orphans: Vec<Port>,
    /// The rings and domains whose notifications errors of the host may have hidden.
    recheck: Recheck,
}

impl EventChannels {
    /// Creates an empty set of event channels.
    pub fn new(handle: Box<dyn Channels>) -> EventChannels {
        let (ports, recheck) = (HashMap::default(), Recheck::default());
        EventChannels { handle, changes: None, ports, orphans: Vec::new(), recheck }
    }

    /// Notes the port that fires when domains change, if it is bound already.
    pub fn set_changes(&mut self, changes: Option<Port>) {
        self.changes = changes;
    }

    /// Notes the connection of a port that is bound already.
    pub fn add(&mut self, port: Port, slot: Slot) {
        self.ports.insert(port, slot);
    }

    /// Unbinds a port in the next pass, since the other process still needs it if this one does not start.
    pub fn unbind_later(&mut self, port: Port) {
        self.orphans.push(port);
    }

    /// Returns the handle, and the port that fires when domains change.
    pub fn handle(&self) -> (&dyn Channels, Option<Port>) {
        (&*self.handle, self.changes)
    }

    /// Looks in the next pass at all rings and at the known domains whose owner thread this is, and unmasks all ports:
    /// another process may have taken notifications and not acted on them.
    pub fn recheck_all(&mut self, core: &Core) {
        let (rings, registry) = (self.ports.values(), core.registry());
        let is_own = |domid: &Domid| core.shared.owner_thread(*domid) == core.number;
        self.recheck.soon(core.now, |suspects| {
            suspects.rings.extend(rings);
            suspects.domains.extend(registry.known().into_iter().filter(is_own));
            suspects.handle = true;
        });
    }

    /// Binds the port that fires when domains change.
    ///
    /// # Errors
    /// The host's.
    pub fn bind_changes(&mut self) -> io::Result<()> {
        self.changes = Some(self.handle.bind_changes()?);
        Ok(())
    }

    /// Binds the port of a ring for the connection in this slot.
    ///
    /// # Errors
    /// The host's.
    pub fn bind(&mut self, domid: Domid, remote: Port, slot: Slot) -> io::Result<Port> {
        let port = self.handle.bind_interdomain(domid, remote)?;
        self.ports.insert(port, slot);
        Ok(port)
    }

    /// Unbinds the port of a ring.
    pub fn unbind(&mut self, port: Port) {
        // First: whatever the host replies, a late report must not reach the connection that gets the slot next.
        self.ports.remove(&port);
        if let Err(error) = self.handle.unbind(port) {
            tracing::debug!(%error, port, "cannot unbind an event channel");
        }
    }

    /// Notifies a guest.
    pub fn notify(&mut self, port: Port) {
        if let Err(error) = self.handle.notify(port) {
            tracing::debug!(%error, port, "cannot notify a guest");
        }
    }

    /// Unmasks the port of a ring, so that it is reported again.
    pub fn unmask(&mut self, core: &Core, slot: Slot, port: Port) {
        if let Err(error) = self.handle.unmask(port) {
            // The port stays masked, so the guest cannot notify until it is rechecked.
            self.recheck.failed(core, "unmasking an event channel", &error, |suspects| {
                suspects.rings.insert(slot);
            });
        }
    }

    /// Reads pending ports until none is left, since the handle is polled edge-triggered.
    pub fn take_ports(&mut self, core: &Core, clients: &mut Clients) {
        let mut ports = [0; PORTS_PER_READ];
        loop {
            let Pending { count, error } = self.handle.pending(&mut ports);
            for &port in &ports[..count] {
                // A port that was unbound in this pass is in neither, and is ignored.
                if Some(port) == self.changes {
                    self.changes_pending(core, port);
                } else if let Some(&slot) = self.ports.get(&port) {
                    port_pending(clients, slot);
                }
            }
            if let Some(error) = error {
                return self.handle_failed(core, &error);
            }
            if count < ports.len() {
                return;
            }
        }
    }

    /// Rechecks all rings after an error of the handle: a port may have been taken and lost, and any number may be
    /// unread.
    fn handle_failed(&mut self, core: &Core, error: &io::Error) {
        let rings = self.ports.values();
        self.recheck.failed(core, "reading event channels", error, |suspects| {
            suspects.rings.extend(rings);
            suspects.handle = true;
        });
    }

    /// Handles a change of domains. Unmasks the port even if the host failed to report which, or later changes would be
    /// lost.
    fn changes_pending(&mut self, core: &Core, port: Port) {
        self.domains_changed(core);
        if let Err(error) = self.handle.unmask(port) {
            self.handle_failed(core, &error);
        }
    }

    /// Asks the host which domains changed, and notifies their owner threads.
    fn domains_changed(&mut self, core: &Core) {
        // The iterator of domains is lazy: only a host that cannot report which domains changed uses it.
        let registry = core.registry();
        let mut known = std::iter::once_with(|| registry.known()).flatten();
        let mut changed = Vec::new();
        let asked = core.shared.host.changed(&mut known, &mut changed);
        // Also after an error: those appended before it are not reported again.
        for domid in changed {
            notify_owner_thread(core, domid);
        }
        if let Err(error) = asked {
            let what = "reading the changed domains";
            self.recheck.failed(core, what, &error, |suspects| {
                suspects.domains.extend(core.registry().known());
            });
        }
    }

    /// Rechecks a domain after the host failed to report its state.
    pub fn domain_failed(&mut self, core: &Core, domid: Domid, error: &io::Error) {
        self.recheck.failed(core, "reading a domain's state", error, |suspects| {
            suspects.domains.insert(domid);
        });
    }

    /// Returns when the next recheck is due, at the time `now`.
    pub fn recheck_due(&self, now: Instant) -> Option<Instant> {
        self.recheck.due(now)
    }

    /// Rechecks the rings and domains that are due.
    pub fn recheck_host(&mut self, core: &Core, clients: &mut Clients) {
        let Some(suspects) = self.recheck.take_due(core.now) else { return };
        std::mem::take(&mut self.orphans).into_iter().for_each(|port| _ = self.handle.unbind(port));
        if std::mem::take(&mut suspects.handle) {
            // The handle is polled edge-triggered: unread ports would cause no further event.
            self.take_ports(core, clients);
            // The port of domain changes may have been taken and lost like any other.
            if let Some(port) = self.changes {
                self.changes_pending(core, port);
            }
        }
        let Some(suspects) = self.recheck.take_due(core.now) else { return };
        for _ in 0..RECHECKED_PER_PASS {
            let Some(slot) = suspects.rings.pop_first() else { break };
            port_pending(clients, slot);
        }
        for _ in 0..RECHECKED_PER_PASS {
            let Some(domid) = suspects.domains.pop_first() else { break };
            notify_owner_thread(core, domid);
        }
    }
}

/// Handles a guest's notification: its port is masked until its ring has been served. So a guest that notifies in a
/// loop costs nothing.
fn port_pending(clients: &mut Clients, slot: Slot) {
    if let Some(ring) = clients.get_mut(slot).and_then(|connection| connection.ring()) {
        ring.masked = true;
    }
    clients.make_ready(slot);
}

/// Notifies the owner thread of a domain that may have changed.
fn notify_owner_thread(core: &Core, domid: Domid) {
    core.shared.mailboxes.post(core.shared.owner_thread(domid), Message::DomainChanged(domid));
}

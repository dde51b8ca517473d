//! The event channels of a worker: what the host reports through them, and what errors of it may have hidden.

use std::collections::HashMap;
use std::io;
use std::time::Instant;

use foldhash::fast::RandomState;

use super::clients::Clients;
use super::recheck::Recheck;
use crate::host::{Channels, Pending, Port};
use crate::shard::mailbox::{Message, Place};
use crate::shard::session::core::Core;
use crate::words::Domid;

/// Pending ports taken from the handle at a time.
const PORTS_PER_READ: usize = 128;
/// Rings, and domains, that are looked at again in one pass: each costs about a system call, and requests of
/// others come in between.
const RECHECKED_PER_PASS: usize = 256;

/// The event channels of a worker.
pub struct EventChannels {
    handle: Box<dyn Channels>,
    /// The port that fires when domains change, if this worker is the one that is told.
    changes: Option<Port>,
    ports: HashMap<Port, Place, RandomState>,
    /// What errors of the host may have hidden.
    recheck: Recheck,
}

impl EventChannels {
    /// None yet.
    pub fn new(handle: Box<dyn Channels>) -> EventChannels {
        let (ports, recheck) = (HashMap::default(), Recheck::default());
        EventChannels { handle, changes: None, ports, recheck }
    }

    /// Makes this worker the one that is told when domains change.
    ///
    /// # Errors
    /// The host's.
    pub fn bind_changes(&mut self) -> io::Result<()> {
        self.changes = Some(self.handle.bind_changes()?);
        Ok(())
    }

    /// Binds the port of a ring whose connection has this place.
    ///
    /// # Errors
    /// The host's.
    pub fn bind(&mut self, domid: Domid, remote: Port, place: Place) -> io::Result<Port> {
        let port = self.handle.bind_interdomain(domid, remote)?;
        self.ports.insert(port, place);
        Ok(port)
    }

    /// Unbinds the port of a ring.
    pub fn unbind(&mut self, port: Port) {
        self.ports.remove(&port);
        if let Err(error) = self.handle.unbind(port) {
            tracing::debug!(%error, port, "cannot unbind");
        }
    }

    /// Notifies a guest.
    pub fn notify(&mut self, port: Port) {
        if let Err(error) = self.handle.notify(port) {
            tracing::debug!(%error, port, "cannot notify");
        }
    }

    /// Lets the port of a ring be reported again.
    pub fn unmask(&mut self, core: &Core, place: Place, port: Port) {
        if let Err(error) = self.handle.unmask(port) {
            // The port stays masked, so that its guest cannot notify.
            self.recheck.failed(core, "unmasking an event channel", &error, |suspects| {
                suspects.rings.insert(place);
            });
        }
    }

    /// Takes pending ports until none is left: the handle is watched edge-triggered.
    pub fn take_ports(&mut self, core: &Core, clients: &mut Clients) {
        let mut ports = [0; PORTS_PER_READ];
        loop {
            let Pending { count, error } = self.handle.pending(&mut ports);
            for &port in &ports[..count] {
                if Some(port) == self.changes {
                    self.changes_pending(core, port);
                } else if let Some(&place) = self.ports.get(&port) {
                    port_pending(clients, place);
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

    /// Event channels were not read: one may have been taken, and any may be left unread.
    fn handle_failed(&mut self, core: &Core, error: &io::Error) {
        let rings = self.ports.values();
        self.recheck.failed(core, "reading event channels", error, |suspects| {
            suspects.rings.extend(rings);
            suspects.handle = true;
        });
    }

    /// Domains changed. Their port is heard again, whatever the host said of them.
    fn changes_pending(&mut self, core: &Core, port: Port) {
        self.domains_changed(core);
        if let Err(error) = self.handle.unmask(port) {
            self.handle_failed(core, &error);
        }
    }

    /// Asks the host which domains changed, and tells their home threads.
    fn domains_changed(&mut self, core: &Core) {
        // Only a host that cannot tell which changed makes this look at all of them.
        let registry = core.registry();
        let mut known = std::iter::once_with(|| registry.known()).flatten();
        let mut changed = Vec::new();
        let asked = core.shared.host.changed(&mut known, &mut changed);
        for domid in changed {
            tell_home_thread(core, domid);
        }
        if let Err(error) = asked {
            let what = "reading which domains changed";
            self.recheck.failed(core, what, &error, |suspects| {
                suspects.domains.extend(core.registry().known());
            });
        }
    }

    /// The host did not tell the state of a domain.
    pub fn domain_failed(&mut self, core: &Core, domid: Domid, error: &io::Error) {
        self.recheck.failed(core, "asking for a domain's state", error, |suspects| {
            suspects.domains.insert(domid);
        });
    }

    /// When something is to be looked at again, at the time `now`.
    pub fn recheck_due(&self, now: Instant) -> Option<Instant> {
        self.recheck.due(now)
    }

    /// Looks at what is due.
    pub fn recheck_host(&mut self, core: &Core, clients: &mut Clients) {
        let Some(suspects) = self.recheck.take_due(core.now) else { return };
        if std::mem::take(&mut suspects.handle) {
            self.take_ports(core, clients);
            // The port that tells of changes may have been taken and lost like any other.
            if let Some(port) = self.changes {
                self.changes_pending(core, port);
            }
        }
        let Some(suspects) = self.recheck.take_due(core.now) else { return };
        for _ in 0..RECHECKED_PER_PASS {
            let Some(place) = suspects.rings.pop_first() else { break };
            port_pending(clients, place);
        }
        for _ in 0..RECHECKED_PER_PASS {
            let Some(domid) = suspects.domains.pop_first() else { break };
            tell_home_thread(core, domid);
        }
    }
}

/// A guest notified: its port is masked until its ring was served.
fn port_pending(clients: &mut Clients, place: Place) {
    if let Some(ring) = clients.get_mut(place).and_then(|connection| connection.ring()) {
        ring.masked = true;
    }
    clients.make_ready(place);
}

/// Tells the home thread of a domain that it may have changed.
fn tell_home_thread(core: &Core, domid: Domid) {
    core.shared.mailboxes.post(core.shared.home_thread(domid), Message::DomainChanged(domid));
}

//! The event channels of one thread: an epoll descriptor in place of `/dev/xen/evtchn`.
//!
//! A port is registered one-shot. The kernel disarms a port when it reports the port, so a masked port cannot wake this
//! thread, however often its guest notifies. Rearming checks the channel again. Notifications are drained when they are
//! reported, never at the unmask, so the unmask finds every notification that arrived after a report.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Weak;

use foldhash::fast::FixedState;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::read;

use super::domains::{Claim, Domains};
use super::fds::{drain, signal};
use crate::host::{Channels, Pending, Port};
use crate::sync::Arc;
use crate::types::Domid;

/// Upper bound of ports taken by one call of `pending`: 1.5 KiB of stack.
const BATCH: usize = 128;

/// Events watched on a channel. A hang-up ends the port: see `Channels::pending`.
const WATCHED: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ONESHOT);
const GONE: EventFlags = EventFlags::HUP.union(EventFlags::RDHUP).union(EventFlags::ERR);

/// Zero timeout: `pending` never waits.
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The object behind a local port.
enum Binding {
    /// A domain's channel. The weak reference dies when the domain is destroyed, and is cleared when the guest closes
    /// its end; the port is silent from then on.
    Guest(Weak<OwnedFd>),
    /// The eventfd signalled when a domain shuts down or dies.
    Changes(Arc<OwnedFd>),
}

impl Binding {
    fn channel(&self) -> Option<Arc<OwnedFd>> {
        match self {
            Binding::Guest(channel) => channel.upgrade(),
            Binding::Changes(bell) => Some(bell.clone()),
        }
    }
}

/// An event channel handle. Dropping it unbinds its ports.
pub struct SimChannels {
    domains: Arc<Domains>,
    epoll: OwnedFd,
    /// The keys are allocated by the daemon, so the hash needs no secret.
    bindings: HashMap<Port, Binding, FixedState>,
}

impl SimChannels {
    pub fn new(domains: Arc<Domains>) -> io::Result<SimChannels> {
        Ok(SimChannels {
            domains,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            bindings: HashMap::default(),
        })
    }

    /// Arms a claimed port; releases the claim on failure.
    fn register(&mut self, port: Port, binding: Binding) -> io::Result<Port> {
        let channel = binding.channel().ok_or(io::ErrorKind::NotFound);
        let added = channel.map_err(io::Error::from).and_then(|channel| {
            Ok(epoll::add(&self.epoll, channel.as_fd(), EventData::new_u64(port.into()), WATCHED)?)
        });
        if let Err(error) = added {
            self.domains.release(port);
            return Err(error);
        }
        self.bindings.insert(port, binding);
        Ok(port)
    }

    /// Drains the notifications of a reported port. The kernel has already masked the port.
    fn take(&mut self, port: Port, flags: EventFlags) {
        let Some(binding) = self.bindings.get_mut(&port) else { return };
        match binding {
            Binding::Changes(bell) => {
                let _ = read(bell.as_fd(), &mut [0; 8]); // Resets the count.
            }
            Binding::Guest(weak) => {
                let Some(channel) = weak.upgrade() else { return };
                drain(channel.as_fd());
                if flags.intersects(GONE) {
                    // A channel that hung up would be reported forever.
                    let _ = epoll::delete(&self.epoll, channel.as_fd());
                    *weak = Weak::new();
                }
            }
        }
    }

    fn binding(&self, port: Port) -> io::Result<&Binding> {
        self.bindings.get(&port).ok_or(io::ErrorKind::NotFound.into())
    }
}

impl Channels for SimChannels {
    fn raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// # Errors
    /// `NotFound` for an unknown domain, `InvalidInput` if the port is not the domain's xenstore port, `ResourceBusy`
    /// if it is already bound in any handle.
    fn bind_interdomain(&mut self, domid: Domid, remote: Port) -> io::Result<Port> {
        let Claim { port, channel } = self.domains.claim(domid, remote)?;
        self.register(port, Binding::Guest(channel))
    }

    fn bind_changes(&mut self) -> io::Result<Port> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let port = self.domains.claim_changes(bell.clone())?;
        self.register(port, Binding::Changes(bell))
    }

    /// Notifications not yet reported stay in the channel for the next binding.
    fn unbind(&mut self, port: Port) -> io::Result<()> {
        let binding = self.bindings.remove(&port).ok_or(io::ErrorKind::NotFound)?;
        let deleted = match binding.channel() {
            Some(channel) => epoll::delete(&self.epoll, channel.as_fd()),
            None => Ok(()),
        };
        self.domains.release(port); // The claim is released last: only then may another handle register the channel.
        Ok(deleted?)
    }

    /// A closed end is reported once more, then never again.
    fn pending(&mut self, ports: &mut [Port]) -> Pending {
        let want = ports.len().min(BATCH);
        if want == 0 {
            return Pending::default();
        }
        let mut space = [MaybeUninit::uninit(); BATCH];
        // A call that does not wait cannot be interrupted by a signal.
        let events = match epoll::wait(&self.epoll, &mut space[..want], Some(&NOW)) {
            Ok((events, _)) => events,
            Err(error) => return Pending { count: 0, error: Some(error.into()) },
        };
        let count = events.len();
        for (event, out) in events.iter().zip(ports) {
            let Event { flags, data } = *event;
            // Every registered value is a port, so 0 indicates a bug.
            *out = Port::try_from(data.u64()).unwrap_or(0);
            self.take(*out, flags);
        }
        Pending { count, error: None }
    }

    fn unmask(&mut self, port: Port) -> io::Result<()> {
        if let Some(channel) = self.binding(port)?.channel() {
            let data = EventData::new_u64(port.into());
            epoll::modify(&self.epoll, channel.as_fd(), data, WATCHED)?;
        }
        Ok(())
    }

    fn notify(&mut self, port: Port) -> io::Result<()> {
        match self.binding(port)? {
            Binding::Changes(_) => Err(io::ErrorKind::InvalidInput.into()),
            Binding::Guest(channel) => match channel.upgrade() {
                Some(channel) => signal(channel.as_fd()),
                None => Ok(()), // Notifying a destroyed domain is no error, as after a real domain's death.
            },
        }
    }
}

impl Drop for SimChannels {
    fn drop(&mut self) {
        for &port in self.bindings.keys() {
            self.domains.release(port);
        }
    }
}

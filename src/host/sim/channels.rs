//! The event channels of one thread: an epoll descriptor in place of `/dev/xen/evtchn`.
//!
//! A port is registered one-shot. The kernel disarms a port when it reports the port, so a masked port cannot wake this
//! thread, however often its guest notifies. Rearming checks the channel again. Notifications are drained when they are
//! reported, never at the unmask, so the unmask finds every notification that arrived after a report.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use foldhash::fast::FixedState;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::read;

use super::daemon::{Claim, Shared};
use super::fds::{drain, signal};
use crate::host::inherited::{Kind, take, take_if};
use crate::host::{Channels, Pending, Port, SavedBinding, SavedChannels};
use crate::sync::Arc;
use crate::types::Domid;

/// Upper bound of ports taken by one call of `pending`: 1.5 KiB of stack.
const BATCH: usize = 128;

/// Events watched on a channel. A hang-up ends the port: see `Channels::pending`.
const WATCHED: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ONESHOT);
const GONE: EventFlags = EventFlags::HUP.union(EventFlags::RDHUP).union(EventFlags::ERR);

/// Zero timeout: `pending` never waits.
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The lowest local port. Higher than any remote port, so that a remote port passed in its place is refused.
const FIRST_LOCAL_PORT: Port = 16;

/// The object behind a local port.
struct Binding {
    claim: Claim,
    /// The guest closed its end: the port is silent from then on.
    hung_up: bool,
}

/// An event channel handle. Dropping it unbinds its ports, since that closes the epoll descriptor in which they are
/// registered, unless another process has inherited the descriptor.
pub struct SimChannels {
    shared: Arc<Shared>,
    epoll: OwnedFd,
    /// The keys are allocated by the daemon, so the hash needs no secret.
    bindings: HashMap<Port, Binding, FixedState>,
}

impl SimChannels {
    pub fn new(shared: Arc<Shared>) -> io::Result<SimChannels> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(SimChannels { shared, epoll, bindings: HashMap::default() })
    }

    /// Goes on with a handle of another process, whose registrations are in the epoll descriptor.
    ///
    /// # Errors
    /// `InvalidData` if a descriptor is not the one that was saved; `ResourceBusy` and `AlreadyExists` for a channel or
    /// changes that another handle has.
    pub fn adopt(
        shared: Arc<Shared>,
        epoll: RawFd,
        bindings: Vec<SavedBinding>,
    ) -> io::Result<SimChannels> {
        let epoll = take(epoll, Kind::Epoll)?;
        // Dropped at an error, which ends the claims.
        let mut adopted = SimChannels { shared, epoll, bindings: HashMap::default() };
        for binding in bindings {
            let (saved, claim, hung_up) = match binding {
                SavedBinding::Guest { port, channel, inode, hung_up } => {
                    let channel = take_if(channel, Kind::Packets, |about| about.st_ino == inode)?;
                    (port, adopted.shared.claim_channel(channel, inode)?, hung_up)
                }
                SavedBinding::Changes { port } => (port, adopted.shared.claim_changes()?, false),
            };
            let port = local_port(&claim)?;
            adopted.bindings.insert(port, Binding { claim, hung_up });
            if port != saved {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(adopted)
    }

    /// Arms a claimed channel; releases the claim on failure.
    fn register(&mut self, claim: Claim) -> io::Result<Port> {
        let added = local_port(&claim).and_then(|port| {
            epoll::add(&self.epoll, claim.fd(), EventData::new_u64(port.into()), WATCHED)?;
            Ok(port)
        });
        match added {
            Ok(port) => {
                self.bindings.insert(port, Binding { claim, hung_up: false });
            }
            Err(_) => self.shared.release(claim),
        }
        added
    }

    /// Drains the notifications of a reported port. The kernel has already masked the port.
    fn take(&mut self, port: Port, flags: EventFlags) {
        let Some(binding) = self.bindings.get_mut(&port) else { return };
        match &binding.claim {
            Claim::Changes(bell) => {
                let _ = read(bell.as_fd(), &mut [0; 8]); // Resets the count.
            }
            Claim::Guest { channel, .. } => {
                drain(channel.as_fd());
                if flags.intersects(GONE) {
                    // A channel that hung up would be reported forever.
                    let _ = epoll::delete(&self.epoll, channel.as_fd());
                    binding.hung_up = true;
                }
            }
        }
    }

    fn binding(&self, port: Port) -> io::Result<&Binding> {
        self.bindings.get(&port).ok_or(io::ErrorKind::NotFound.into())
    }
}

/// Returns the local port of a channel, which follows from its descriptor's number: so it is distinct from every other
/// handle's.
fn local_port(claim: &Claim) -> io::Result<Port> {
    let fd = Port::try_from(claim.fd().as_raw_fd()).map_err(io::Error::other)?;
    Ok(FIRST_LOCAL_PORT + fd)
}

impl Channels for SimChannels {
    fn raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// # Errors
    /// `NotFound` for an unknown domain, `InvalidInput` if the port is not the domain's xenstore port, `ResourceBusy`
    /// if it is already bound in any handle, `StorageFull` if too few descriptors are left.
    fn bind_interdomain(&mut self, domid: Domid, remote: Port) -> io::Result<Port> {
        let claim = self.shared.claim(domid, remote)?;
        self.register(claim)
    }

    fn bind_changes(&mut self) -> io::Result<Port> {
        let claim = self.shared.claim_changes()?;
        self.register(claim)
    }

    /// Notifications not yet reported stay in the channel for the next binding. The host keeps the channel open, so it
    /// has to be removed from the epoll by name.
    fn unbind(&mut self, port: Port) -> io::Result<()> {
        let binding = self.bindings.remove(&port).ok_or(io::ErrorKind::NotFound)?;
        let fd = binding.claim.fd();
        let deleted = if binding.hung_up { Ok(()) } else { epoll::delete(&self.epoll, fd) };
        // The claim is released last: only then may another handle register the channel.
        self.shared.release(binding.claim);
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
        let binding = self.binding(port)?;
        if !binding.hung_up {
            let data = EventData::new_u64(port.into());
            epoll::modify(&self.epoll, binding.claim.fd(), data, WATCHED)?;
        }
        Ok(())
    }

    /// Notifying a destroyed domain is no error, as after a real domain's death.
    fn notify(&mut self, port: Port) -> io::Result<()> {
        match &self.binding(port)?.claim {
            Claim::Changes(_) => Err(io::ErrorKind::InvalidInput.into()),
            Claim::Guest { channel, .. } => signal(channel.as_fd()),
        }
    }

    fn save(&self) -> io::Result<SavedChannels> {
        let of = |(&port, binding): (&Port, &Binding)| match &binding.claim {
            Claim::Changes(_) => SavedBinding::Changes { port },
            Claim::Guest { channel, inode } => SavedBinding::Guest {
                port,
                channel: channel.as_raw_fd(),
                inode: *inode,
                hung_up: binding.hung_up,
            },
        };
        let mut bindings: Vec<SavedBinding> = self.bindings.iter().map(of).collect();
        bindings.sort_unstable_by_key(SavedBinding::port);
        Ok(SavedChannels::Sim { epoll: self.epoll.as_raw_fd(), bindings })
    }
}

impl Drop for SimChannels {
    /// Ends the claims. The registrations are left to the end of the epoll descriptor: they may be another process's.
    fn drop(&mut self) {
        for (_, binding) in self.bindings.drain() {
            self.shared.release(binding.claim);
        }
    }
}

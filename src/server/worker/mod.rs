//! A worker: one thread, its poll, and the connections that it serves.
//!
//! ```text
//!   poll, event_channels, mailbox --> run: a pass
//!     messages --> inbox --> delivery --> sessions' outputs
//!     clients --> serving --> requests (on the core and a session) --> outputs --> transports
//!     timers, scan, snapshots, rechecks after errors of the host
//! ```

pub mod accepting;
pub mod clients;
pub mod connection;
pub mod delivery;
pub mod domains;
pub mod ending;
pub mod event_channels;
pub mod inbox;
pub mod messages;
pub mod ready;
pub mod recheck;
pub mod replies;
pub mod rings;
pub mod run;
pub mod scan;
pub mod serving;
pub mod snapshots;
pub mod stalls;
pub mod ticks;
pub mod timers;
pub mod watch_list;

use std::io;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};

use self::clients::Clients;
use self::event_channels::EventChannels;
use self::inbox::Inbox;
use self::scan::Scan;
use self::timers::Timers;
use super::session::core::Core;
use super::shared::Shared;
use super::standing::DomainStates;
use super::state::{Effects, Event};
use crate::host::Channels;
use crate::protocol::MESSAGE_BYTES_MAX;
use crate::sync::Arc;
use crate::types::{Domid, Errno, Presence};

/// The number of bytes read from a socket at a time: enough for a batch of ordinary requests.
pub const READ_BYTES: usize = 16 << 10;

/// The token of the mailbox's waker. Slots count up from 0 and never reach it.
pub const WAKER: Token = Token(usize::MAX);
/// The token of the event-channel handle.
pub const CHANNELS: Token = Token(usize::MAX - 1);

/// The state of a worker.
pub struct Worker {
    /// The part of the worker that its sessions use.
    pub core: Core,
    pub poll: Poll,
    pub clients: Clients,
    pub channels: EventChannels,
    /// The states of the domains whose owner thread this worker is.
    pub domains: DomainStates,
    /// Messages taken and not handled.
    pub inbox: Inbox,
    pub timers: Timers,
    /// The scan of rings that do not notify.
    pub scan: Scan,
    /// The buffer in which input is parsed; reused for all connections. It is cleared before each, so it never holds
    /// bytes of two clients.
    pub stage: Vec<u8>,
}

impl Worker {
    /// Creates a worker without connections, with the poll that its waker is registered with.
    ///
    /// # Errors
    /// If the event-channel handle cannot be polled.
    pub fn new(
        number: u16,
        shared: Arc<Shared>,
        poll: Poll,
        channels: Box<dyn Channels>,
    ) -> io::Result<Worker> {
        let fd = channels.raw_fd();
        poll.registry().register(&mut SourceFd(&fd), CHANNELS, Interest::READABLE)?;
        let now = (shared.clock)();
        let scan = Scan::new(shared.ring_scan_interval);
        Ok(Worker {
            core: Core::new(number, shared, now),
            poll,
            clients: Clients::default(),
            channels: EventChannels::new(channels),
            domains: DomainStates::default(),
            inbox: Inbox::default(),
            timers: Timers::new(now),
            scan,
            // Room for less than a message that was kept and for one read, so it hardly ever grows.
            stage: Vec::with_capacity(READ_BYTES + MESSAGE_BYTES_MAX),
        })
    }

    /// Returns the name of a domain's state.
    pub fn presence(&self, domid: Domid) -> Presence {
        self.domains.presence(domid)
    }

    /// Moves the present incarnation of a domain to its next state.
    ///
    /// # Errors
    /// The state's refusal of the event; `ENOENT` for a domain that is not known.
    pub fn step_of(&mut self, domid: Domid, event: Event) -> Result<Effects, Errno> {
        let domain = self.core.registry().get(domid).ok_or(Errno::ENOENT)?;
        self.domains.step(&domain, event)
    }
}

//! A connection: a session with its transport, a socket or ring.

use std::time::Instant;

use mio::Interest;

use super::ready::Demand;
use super::stalls::Stall;
use crate::domain::Domain;
use crate::server::mailbox::{Backlog, ReplyTo};
use crate::server::session::core::Core;
use crate::server::session::{Kind, Session};
use crate::server::trace;
use crate::sync::Arc;
use crate::transport::{Disconnect, Ring, Transport};

/// Whether a client may send more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// It may.
    Open,
    /// Half-closed: a socket client that has shut down its writing side. Only bytes already sent can be read.
    HalfClosed,
    /// Nothing is read: the guest broke its ring, and has not requested a reconnection.
    GivenUp,
}

/// Whether a quota keeps a client from being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// No quota does.
    Free,
    /// A quota does, until some of the client's outstanding work is done.
    Throttled,
}

/// A connection.
pub struct Connection {
    /// The client's protocol state.
    pub session: Session,
    /// The client's socket or ring.
    pub transport: Transport,
    pub stream: Stream,
    /// Whether a quota kept the client from being read at the end of its last quantum, to trace changes.
    pub flow: Flow,
    /// The amount of work in the connection's last quantum.
    pub demand: Demand,
    /// The readiness for which the socket is registered.
    pub interest: Interest,
    /// The time of the connection's last timer, which may have passed.
    pub timer: Option<Instant>,
    /// The stall during which the client takes nothing of its output.
    pub stall: Option<Stall>,
}

impl Connection {
    /// Creates a connection.
    pub fn new(
        reply_to: ReplyTo,
        domain: Arc<Domain>,
        kind: Kind,
        transport: Transport,
    ) -> Connection {
        Connection {
            session: Session::new(reply_to, domain, kind),
            transport,
            stream: Stream::Open,
            flow: Flow::Free,
            demand: Demand::Light,
            interest: Interest::READABLE,
            timer: None,
            stall: None,
        }
    }

    /// Returns the connection's ring, if it has one.
    pub fn ring(&mut self) -> Option<&mut Ring> {
        match &mut self.transport {
            Transport::Ring(ring) => Some(ring),
            Transport::Socket(_) => None,
        }
    }

    /// Sends as much of the output as the client takes.
    ///
    /// # Errors
    /// The reason why the connection ends.
    pub fn flush(&mut self) -> Result<(), Disconnect> {
        let output = &mut self.session.output;
        // Until it takes nothing: the poll is edge-triggered, and reports room only after it was lacking.
        while !output.is_empty() {
            match self.transport.write(output.unsent())? {
                0 => break,
                len => output.advance(len),
            }
        }
        self.session.recharge_output();
        Ok(())
    }

    /// Returns whether further requests may be taken now. Every change that makes this true must make the connection
    /// ready, or its requests would stay unread.
    pub fn may_read(&self, core: &Core) -> bool {
        let session = &self.session;
        session.parked.is_none()
            && core.halt.is_none()
            && !session.is_quiesced()
            && self.stream != Stream::GivenUp
            && session.output.len() <= session.output_limits().0
            && !session.is_throttled(core)
            && !self.is_held_back(core)
    }

    /// Returns whether back-pressure holds the client back, since the delivery of events is behind: first guests that
    /// have caused undelivered events, then every client.
    pub fn is_held_back(&self, core: &Core) -> bool {
        match core.backlog {
            Backlog::Low => false,
            Backlog::Full => self.session.is_guest() && self.session.domain.undelivered() > 0,
            Backlog::Over => true,
        }
    }

    /// Logs the client's unread output, and its process.
    pub fn warn_of_unread(&self, what: &str) {
        let session = &self.session;
        tracing::warn!(
            connection = %trace::name(&session.reply_to),
            domid = session.domid().0,
            pid = self.transport.pid(),
            unsent = session.output.len(),
            events = session.output.pending_events(),
            watches = session.watches.len(),
            "{what}"
        );
    }
}

//! One connection: a session, and the socket or ring that its bytes come and go by.

use std::time::Instant;

use mio::Interest;

use super::ready::Demand;
use super::stalls::Stall;
use crate::domain::Domain;
use crate::shard::mailbox::{Asker, Backlog};
use crate::shard::session::core::Core;
use crate::shard::session::{Kind, Session};
use crate::shard::trace;
use crate::sync::Arc;
use crate::transport::{Disconnect, Ring, Transport};

/// What a client may still send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Anything.
    Open,
    /// No more than what can be read already: the client of a socket has stopped writing.
    HalfClosed,
    /// Nothing is read: the guest broke its ring, and has not asked to reconnect.
    GivenUp,
}

/// Whether a quota keeps a client from being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// None does.
    Free,
    /// It has to be served before it may ask for more.
    Throttled,
}

/// One connection.
pub struct Connection {
    /// Its client's protocol.
    pub session: Session,
    /// How its bytes come and go.
    pub transport: Transport,
    /// What its client may still send.
    pub stream: Stream,
    /// Whether a quota kept it from being read when its last pass ended.
    pub flow: Flow,
    /// How much it had to do when it was served last.
    pub demand: Demand,
    /// What its socket is watched for.
    pub interest: Interest,
    /// The time for which it has a timer; that may be over.
    pub timer: Option<Instant>,
    /// What is known of it if it takes nothing.
    pub stall: Option<Stall>,
}

impl Connection {
    /// A new connection.
    pub fn new(asker: Asker, domain: Arc<Domain>, kind: Kind, transport: Transport) -> Connection {
        Connection {
            session: Session::new(asker, domain, kind),
            transport,
            stream: Stream::Open,
            flow: Flow::Free,
            demand: Demand::Light,
            interest: Interest::READABLE,
            timer: None,
            stall: None,
        }
    }

    /// Its ring, if it has one.
    pub fn ring(&mut self) -> Option<&mut Ring> {
        match &mut self.transport {
            Transport::Ring(ring) => Some(ring),
            Transport::Socket(_) => None,
        }
    }

    /// Sends what the client takes.
    ///
    /// # Errors
    /// Why it ends.
    pub fn flush(&mut self) -> Result<(), Disconnect> {
        let output = &mut self.session.output;
        while !output.is_empty() {
            match self.transport.write(output.unsent())? {
                0 => break,
                len => output.advance(len),
            }
        }
        self.session.recharge_output();
        Ok(())
    }

    /// Whether further requests may be taken now. Whatever changes the answer to
    /// yes makes the connection ready.
    pub fn may_read(&self, core: &Core) -> bool {
        let session = &self.session;
        session.parked.is_none()
            && core.stopping.is_none()
            && !session.is_quiesced()
            && self.stream != Stream::GivenUp
            && session.output.len() <= session.output_limits().0
            && !session.is_throttled(core)
            && !self.is_held_back(core)
    }

    /// Whether the delivery of events is so far behind that it has to wait: guests first, of those
    /// the ones that have caused what is undelivered.
    pub fn is_held_back(&self, core: &Core) -> bool {
        match core.backlog {
            Backlog::Low => false,
            Backlog::Full => self.session.is_guest() && self.session.domain.undelivered() > 0,
            Backlog::Over => true,
        }
    }

    /// Logs what waits for the client, and which process that is.
    pub fn warn_of_unread(&self, what: &str) {
        let session = &self.session;
        tracing::warn!(
            connection = %trace::name(&session.asker),
            domid = session.domid().0,
            pid = self.transport.pid(),
            unsent = session.output.len(),
            events = session.output.pending_events(),
            watches = session.watches.len(),
            "{what}"
        );
    }
}

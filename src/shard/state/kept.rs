//! What is kept of a domain for the states that can follow.

use crate::domain::OwnSettings;
use crate::migration::stream::Transport as SentBy;
use crate::migration::stream::state::Client;
use crate::protocol::{Header, ReplySlot};
use crate::shard::session::output::Output;
use crate::store::DomainSnapshot;
use crate::words::Errno;

/// What RELEASE keeps for an INTRODUCE of the same ring: so the pair changes nothing that the
/// guest can see of its stream.
pub struct Carried {
    /// Where the ring stood.
    pub position: (u32, u32),
    /// Bytes that were read and not used yet.
    pub partial: Vec<u8>,
    /// What was not sent.
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

/// What was there before an import of a domain that was not introduced.
pub struct Before {
    /// What others had set of the domain.
    pub settings: OwnSettings,
    /// What a RELEASE had left, for an INTRODUCE of the same ring.
    pub carried: Option<Box<Carried>>,
}

/// An export that was replied to: what it saw.
pub struct Mark {
    /// Its name; not used twice for a domid, not by the next daemon either.
    pub number: u64,
    /// The version of its connection: another number whenever something of that changed.
    pub version: u64,
    /// The domain's homes.
    pub seen: DomainSnapshot,
}

/// What RELEASE with a mark or an import leaves for INTRODUCE, which begins quiesced.
pub struct SavedConnection {
    /// The connection.
    pub client: Client,
    /// The domain's homes as they were then.
    pub seen: DomainSnapshot,
}

impl SavedConnection {
    /// Returns the event channel that the connection had.
    pub fn port(&self) -> u32 {
        match self.client.connection.transport {
            SentBy::Ring(_, _, evtchn) => evtchn,
            SentBy::Socket(_) => 0,
        }
    }
}

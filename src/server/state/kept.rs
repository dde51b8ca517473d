//! The data of domains that is kept for later states.

use crate::domain::OwnSettings;
use crate::migration::stream::Transport as SentBy;
use crate::migration::stream::state::Client;
use crate::protocol::{Header, ReplySlot};
use crate::server::session::output::Output;
use crate::store::DomainSnapshot;
use crate::types::Errno;

/// The stream remainder that RELEASE keeps for an INTRODUCE of the same ring, so that the guest's stream is not
/// interrupted by the pair.
pub struct StreamRemainder {
    /// The indices of the ring, by which INTRODUCE checks that it is the same.
    pub position: (u32, u32),
    /// Bytes that were read and not consumed.
    pub partial: Vec<u8>,
    /// Unsent output.
    pub output: Output,
    /// The request for whose reply the connection is parked (the reaper settles its RM), with the number of that
    /// connection.
    pub waits: Option<(u64, Header)>,
}

impl StreamRemainder {
    /// Queues the reply of the parked request.
    pub fn replied(&mut self, id: u64, result: Result<&[u8], Errno>) {
        if let Some((_, header)) = self.waits.take_if(|(waits, _)| *waits == id) {
            // As `Session::reply` does, but between RELEASE and INTRODUCE there is no session.
            let slot = ReplySlot::begin(self.output.buffer(), &header);
            self.output.buffer().extend_from_slice(result.unwrap_or_default());
            slot.finish(self.output.buffer(), result.map(|_| ()));
        }
    }
}

/// A domain's data from before its import.
pub struct Before {
    /// The settings made for the domain by the control domain.
    pub settings: OwnSettings,
    /// The remainder that RELEASE left, for an INTRODUCE of the same ring.
    pub remainder: Option<Box<StreamRemainder>>,
}

/// Whether another host may have a quiesced domain too, so that UNQUIESCE serves it here only if forced. Ordered by
/// certainty, since an export keeps the maximum.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
pub enum Elsewhere {
    /// As far as this daemon knows none has it.
    #[default]
    No,
    /// It was exported, and the client named a destination.
    Exported,
    /// It was released with a mark, and INTRODUCE has restored it.
    Left,
}

impl Elsewhere {
    /// Returns the name in the reply of DOMAIN_STATES.
    pub fn name(self) -> &'static str {
        match self {
            Elsewhere::No => "",
            Elsewhere::Exported => "exported",
            Elsewhere::Left => "left",
        }
    }

    /// Returns the error of an UNQUIESCE that is not forced.
    pub fn refusal(self) -> Option<Errno> {
        match self {
            Elsewhere::No => None,
            Elsewhere::Exported => Some(Errno::EBUSY),
            Elsewhere::Left => Some(Errno::EEXIST),
        }
    }
}

/// The mark of a successful export, with the state that it stands for.
pub struct Mark {
    /// The mark itself; never reused for a domid, nor by the next daemon.
    pub number: u64,
    /// The version of the exported connection.
    pub version: u64,
    /// The exported partitions, compared by pointer. Keeping them costs only the memory of nodes changed since.
    pub seen: DomainSnapshot,
}

/// The connection that RELEASE with a mark, or an import, keeps for INTRODUCE, which restores it quiesced.
pub struct SavedConnection {
    /// The connection.
    pub client: Client,
    /// The domain's partitions when the connection was saved.
    pub seen: DomainSnapshot,
}

impl SavedConnection {
    /// Returns the event channel that the connection used.
    pub fn port(&self) -> u32 {
        match self.client.connection.transport {
            SentBy::Ring(_, _, evtchn) => evtchn,
            SentBy::Socket(_) => 0,
        }
    }
}

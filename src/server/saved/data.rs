//! The types of the data. Fields that a version does not know are skipped, and those that a version did not write have
//! their default values, so adjacent versions read each other's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::migration::stream::{Connection as Sent, Watch as SentWatch};
use crate::server::session::output::saved::SavedOutput;
use crate::server::state::kept::Elsewhere;
use crate::store::SavedTransaction;

/// The state of a server. Fields that a version does not know are skipped, and those that a version did not write have
/// their default values, so adjacent versions read each other's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedServer {
    /// The number of shards and workers.
    pub shards: u16,
    /// The number from which marks count up.
    pub marks_from: u64,
    /// The key of the hashed replies in transactions' logs.
    pub reply_key: [u8; 16],
    /// The number of domains that died since the first start.
    pub deaths: u64,
    /// The worker that got the last socket client.
    pub next_worker: u16,
    /// The last number that each worker gave.
    pub numbers: Vec<u64>,
    /// The first worker's port of changed domains.
    pub changes: Option<u32>,
    /// The values of quotas for domains registered from now on.
    pub defaults: SavedLimits,
    /// The known domains in ascending order, the control domain first.
    pub domains: Vec<SavedDomain>,
    /// The sessions by the conn-ids of their connections.
    pub sessions: BTreeMap<u32, SavedSession>,
}

/// Values of quotas by name, with that of the soft memory quota.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedLimits(pub BTreeMap<String, u32>, pub u32);

/// An incarnation of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedDomain {
    pub domid: u16,
    pub unique_id: u64,
    pub own: SavedSettings,
    /// How often its settings were set.
    pub settings: u64,
    pub origin: u64,
    pub shutdown: bool,
    pub silent: bool,
    pub state: SavedState,
    pub note: Option<SavedNote>,
}

/// The settings made for a domain by the control domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedSettings {
    pub limits: SavedLimits,
    pub features: u32,
    /// The living domain whose rights it has.
    pub target: Option<u16>,
}

/// A domain's migration state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedState {
    #[default]
    Absent,
    Released(SavedRemainder),
    Arrived(SavedClient, SavedSeen, SavedBefore),
    Running,
    Quiesced(Elsewhere),
    Exported(SavedMark, Elsewhere),
    ArrivedIntroduced(SavedSeen, SavedBefore, Option<SavedMark>, Elsewhere),
    Left(SavedClient, SavedSeen),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedNote {
    pub since: u64,
    pub domid: u16,
    pub pid: u32,
    pub command: String,
    pub to: Option<String>,
}

/// The stream remainder that RELEASE left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedRemainder {
    pub position: (u32, u32),
    pub partial: serde_bytes::ByteBuf,
    pub output: serde_bytes::ByteBuf,
    pub begun: u16,
}

/// A domain's data from before its import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedBefore {
    pub own: SavedSettings,
    pub remainder: Option<SavedRemainder>,
}

/// A connection that is kept for INTRODUCE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedClient {
    pub connection: Sent,
    pub watches: Vec<SentWatch>,
    pub transactions: Vec<u32>,
}

/// The partitions of a domain that an export or import saw: those that have not changed since, those that have, and the
/// absent one that would belong to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedSeen {
    pub unchanged: Vec<serde_bytes::ByteBuf>,
    pub changed: Vec<serde_bytes::ByteBuf>,
    pub absent: Option<serde_bytes::ByteBuf>,
}

/// A mark that is still valid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedMark {
    pub number: u64,
    pub version: u64,
    pub seen: SavedSeen,
}

/// A session, beside its records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedSession {
    /// The worker.
    pub worker: u16,
    /// Of a ring: its ports, the local and the guest's, and the frame number of its page, if INTRODUCE named it.
    pub ring: Option<(u32, u32, Option<u64>)>,
    pub stream: SavedStream,
    pub is_quiesced: bool,
    pub additions: u64,
    pub next_transaction: u32,
    pub output: SavedOutput,
    pub transactions: BTreeMap<u32, SavedTransaction>,
}

/// Whether a client may send more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedStream {
    #[default]
    Open,
    HalfClosed,
    GivenUp,
}

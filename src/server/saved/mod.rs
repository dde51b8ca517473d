//! The state of a paused server as data, with which another process goes on: what the records of a stream do not have.
//!
//! ```text
//!   Paused --- save ---> clients, SavedServer --> stream --> clients, SavedServer --- restore ---> Parts
//! ```
//!
//! Left behind, as the new process begins them anew: the memory of failed transactions and their reservations (a
//! question of fairness), the age of snapshots, of stalls and of pending events (their timeouts begin again), tickets of
//! requests whose events are not delivered (they hold back nothing any more), and counters of quotas' peaks and refusals.

mod domains;
mod restore;
mod save;
mod sessions;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use restore::{Adopt, RestoreError, Restoring};

use super::session::output::saved::SavedOutput;
use super::state::kept::Elsewhere;
use crate::migration::stream::{Connection as Sent, Watch as SentWatch};
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
pub struct SavedLimits(BTreeMap<String, u32>, u32);

/// An incarnation of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedDomain {
    domid: u16,
    unique_id: u64,
    own: SavedSettings,
    /// How often its settings were set.
    settings: u64,
    origin: u64,
    shutdown: bool,
    silent: bool,
    state: SavedState,
    note: Option<SavedNote>,
}

/// The settings made for a domain by the control domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct SavedSettings {
    limits: SavedLimits,
    features: u32,
    /// The living domain whose rights it has.
    target: Option<u16>,
}

/// A domain's migration state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum SavedState {
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
struct SavedNote {
    since: u64,
    domid: u16,
    pid: u32,
    command: String,
    to: Option<String>,
}

/// The stream remainder that RELEASE left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct SavedRemainder {
    position: (u32, u32),
    partial: serde_bytes::ByteBuf,
    output: serde_bytes::ByteBuf,
    begun: u16,
}

/// A domain's data from before its import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct SavedBefore {
    own: SavedSettings,
    remainder: Option<SavedRemainder>,
}

/// A connection that is kept for INTRODUCE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedClient {
    connection: Sent,
    watches: Vec<SentWatch>,
    transactions: Vec<u32>,
}

/// The partitions of a domain that an export or import saw: those that have not changed since, those that have, and the
/// absent one that would belong to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct SavedSeen {
    unchanged: Vec<serde_bytes::ByteBuf>,
    changed: Vec<serde_bytes::ByteBuf>,
    absent: Option<serde_bytes::ByteBuf>,
}

/// A mark that is still valid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct SavedMark {
    number: u64,
    version: u64,
    seen: SavedSeen,
}

/// A session, beside its records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedSession {
    /// The worker.
    pub worker: u16,
    /// Of a ring: its ports, the local and the guest's, and the frame number of its page, if INTRODUCE named it.
    pub ring: Option<(u32, u32, Option<u64>)>,
    stream: SavedStream,
    is_quiesced: bool,
    additions: u64,
    next_transaction: u32,
    output: SavedOutput,
    transactions: BTreeMap<u32, SavedTransaction>,
}

/// Whether a client may send more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum SavedStream {
    #[default]
    Open,
    HalfClosed,
    GivenUp,
}

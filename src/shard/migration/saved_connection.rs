//! A domain that leaves or arrives, on its home thread: its connection as a value, and back.
//!
//! ```text
//!   quiesced connection -- save --> Client --> stream             stream --> Client -- arrive --+
//!          |  ^                                                                                 v
//!          |  +------------------------- INTRODUCE restores it ------------------- SavedConnection
//!          +-- RELEASE with a mark: the same Client ----------------------------------------->--+
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::super::connection::Connection;
use super::super::output::Output;
use super::super::thread::Thread;
use crate::domain::Quota;
use crate::migration::stream::state::Client;
use crate::migration::stream::{Connection as Sent, Transport as SentBy, Watch as SentWatch};
use crate::store::{DomainSnapshot, Transaction};
use crate::words::{
    ABS_PATH_MAX, Domid, Errno, Path, PathBuf, PathSpace, Presence, domain_of_home, has_homes_below,
};

/// What RELEASE with a mark or an import leaves for INTRODUCE, which begins quiesced.
pub struct SavedConnection {
    /// The connection.
    pub client: Client,
    /// The domain's homes as they were then.
    pub seen: DomainSnapshot,
}

impl Thread {
    pub(in crate::shard) fn quiesced(&mut self, domid: Domid) -> Result<&mut Connection, Errno> {
        match self.presence(domid) {
            Presence::Quiesced | Presence::Exported | Presence::ArrivedIntroduced => {
                let place = self.rings.get(&domid).ok_or(Errno::ENOENT)?;
                let slot = self.connections.get_mut(*place).and_then(Option::as_deref_mut);
                slot.ok_or(Errno::ENOENT)
            }
            Presence::Running | Presence::Quiescing => Err(Errno::EAGAIN),
            Presence::Absent | Presence::Arriving | Presence::Arrived | Presence::Left => {
                Err(Errno::ENOENT)
            }
        }
    }

    /// What a quiesced domain's connection is, and its version. Cost: its watches and unsent bytes.
    ///
    /// # Errors
    /// `ENOENT` if it is not introduced, `EAGAIN` if it is not quiesced (any more).
    pub(in crate::shard) fn save_connection(
        &mut self,
        domid: Domid,
    ) -> Result<(Client, u64), Errno> {
        let now = self.now;
        let connection = self.quiesced(domid)?;
        while connection.watches.has_deferred() {
            connection.queue_next_deferred(now);
        }
        let version = connection.version();
        let evtchn = connection.ring().map_or(0, |ring| ring.remote);
        let (output_begun, output) = connection.output.unsent_with_begun();
        let sent = Sent {
            id: u32::from(domid.0),
            transport: SentBy::Ring(domid, None, evtchn),
            input: connection.partial.clone(),
            output_begun,
            output,
            unique_id: Some(connection.domain.unique_id),
        };
        let watches = connection.watches.in_order(0).map(|watch| SentWatch {
            connection: sent.id,
            path: watch.shown(watch.path.as_path().bytes()).to_vec(),
            token: watch.token.to_vec(),
            depth: watch.depth,
        });
        let watches = watches.collect();
        let ids = connection.transactions.keys();
        let transactions = ids.map(|&id| (id, BTreeMap::new())).collect();
        Ok((Client { connection: sent, watches, transactions }, version))
    }

    /// Makes a connection what it was elsewhere, quiesced, and returns the homes that it had. Cost: that of setting
    /// its watches.
    pub(in crate::shard) fn restore_connection(
        &mut self,
        connection: &mut Connection,
        moved: SavedConnection,
    ) -> DomainSnapshot {
        let SavedConnection { client, seen } = moved;
        connection.partial = client.connection.input;
        connection.output = Output::of(client.connection.output, client.connection.output_begun);
        connection.recharge_output();
        let changed: BTreeSet<PathBuf> =
            self.shared.store.changed_since(&seen).into_iter().collect();
        let came: BTreeSet<&[u8]> =
            seen.homes.iter().map(|(root, _)| root.as_path().bytes()).collect();
        let layout = self.shared.store.layout();
        for watch in &client.watches {
            let mut space = PathSpace::new();
            let resolved = Path::resolve(&watch.path, connection.domid(), ABS_PATH_MAX, &mut space);
            // A state has no watches but those with a path, though maybe one twice.
            let Ok(path) = resolved else { continue };
            let new = (&*watch.path, &*watch.token, watch.depth);
            let new = self.new_watch(path, new);
            if connection.watches.contains(path, &new.token) {
                continue;
            }
            connection.domain.account.charge(Quota::Watches, 1);
            connection.domain.account.charge(Quota::Memory, new.charge_bytes());
            let id = self.insert_watch(connection, new);
            let root = layout.home(path).root;
            let came_along =
                domain_of_home(root) == Some(connection.domid()) || came.contains(root.bytes());
            let is_changed = changed.contains(root.bytes());
            if is_changed || !came_along || has_homes_below(path) {
                self.fire_once(connection, id);
            }
        }
        for &id in client.transactions.keys() {
            connection.domain.account.charge(Quota::Transactions, 1);
            self.insert_transaction(connection, id, Transaction::reserved());
        }
        connection.is_quiesced = true;
        connection.outdate(self.next_number());
        seen
    }
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

impl Connection {
    /// Another number whenever something changed that is carried and no node: what is on the way,
    /// watches, transactions, settings. Both parts only grow.
    pub(in crate::shard) fn version(&self) -> u64 {
        self.additions + self.domain.settings()
    }

    /// Something was added to it, which is of this version now: if it is exported, that was not all.
    pub(in crate::shard) fn outdate(&mut self, version: u64) {
        self.additions = version;
    }
}

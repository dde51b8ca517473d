//! A migrating domain's connection as a value, saved and restored on the domain's owner thread.
//!
//! ```text
//!   quiesced connection -- save --> Client --> stream             stream --> Client -- arrive --+
//!          |  ^                                                                                 v
//!          |  +------------------------- INTRODUCE restores it ------------------- SavedConnection
//!          +-- RELEASE with a mark: the same Client ----------------------------------------->--+
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::Quota;
use crate::migration::stream::state::Client;
use crate::migration::stream::{Connection as Sent, Transport as SentBy, Watch as SentWatch};
use crate::server::session::core::Core;
use crate::server::session::output::Output;
use crate::server::session::watching::new_watch;
use crate::server::session::{Service, Session};
use crate::server::state::kept::SavedConnection;
use crate::server::worker::Worker;
use crate::server::worker::clients::Clients;
use crate::server::worker::connection::Connection;
use crate::store::{DomainSnapshot, Transaction};
use crate::types::{
    ABS_PATH_MAX, Domid, Errno, Path, PathBuf, PathSpace, Presence, domain_of_partition,
    has_partitions_below,
};

/// Returns the connection of a quiesced domain.
///
/// # Errors
/// As [`save_connection`].
pub fn quiesced(worker: &mut Worker, domid: Domid) -> Result<&mut Connection, Errno> {
    match worker.presence(domid) {
        Presence::Quiesced | Presence::Exported | Presence::ArrivedIntroduced => {
            let slot = worker.clients.of_domain(domid).ok_or(Errno::ENOENT)?;
            worker.clients.get_mut(slot).ok_or(Errno::ENOENT)
        }
        Presence::Running | Presence::Quiescing => Err(Errno::EAGAIN),
        Presence::Absent | Presence::Arriving | Presence::Arrived | Presence::Left => {
            Err(Errno::ENOENT)
        }
    }
}

/// Returns a quiesced domain's connection as a value, and its version. Cost: linear in the connection's watches and
/// unsent bytes.
///
/// # Errors
/// `ENOENT` if the domain is not introduced, `EAGAIN` if it is not quiesced (any more).
pub fn save_connection(worker: &mut Worker, domid: Domid) -> Result<(Client, u64), Errno> {
    let now = worker.core.now;
    let connection = quiesced(worker, domid)?;
    let evtchn = connection.ring().map_or(0, |ring| ring.remote);
    let session = &mut connection.session;
    // A stream cannot hold deferred events, so all of them are queued, even beyond the limit.
    while session.watches.has_deferred() {
        session.queue_next_deferred(now);
    }
    let version = session.version();
    let (output_begun, output) = session.output.unsent_with_begun();
    let sent = Sent {
        id: u32::from(domid.0),
        // Without the target, which `write_domains` takes from the registry.
        transport: SentBy::Ring(domid, None, evtchn),
        input: session.partial.clone(),
        output_begun,
        output,
        unique_id: Some(session.domain.unique_id),
    };
    let watches = session.watches.in_order(0).map(|watch| SentWatch {
        connection: sent.id,
        path: watch.shown(watch.path.as_path().bytes()).to_vec(),
        token: watch.token.to_vec(),
        depth: watch.depth,
    });
    let watches = watches.collect();
    // Only the ids: at the destination the END of such a transaction can only fail with EAGAIN.
    let ids = session.transactions.keys();
    let transactions = ids.map(|&id| (id, BTreeMap::new())).collect();
    Ok((Client { connection: sent, watches, transactions }, version))
}

/// Restores a saved connection, quiesced, and returns the partitions saved with it. Cost: that of setting the
/// connection's watches.
///
/// A watch fires if its client could have missed a change: if its partition has changed since it was saved or did not
/// move with the domain, or if partitions lie below its path.
pub fn restore_connection(
    core: &mut Core,
    session: &mut Session,
    moved: SavedConnection,
) -> DomainSnapshot {
    let SavedConnection { client, seen } = moved;
    session.partial = client.connection.input;
    session.output = Output::of(client.connection.output, client.connection.output_begun);
    session.recharge_output();
    let changed: BTreeSet<PathBuf> = seen.changed_in(&core.shared.store).into_iter().collect();
    let came: BTreeSet<&[u8]> =
        seen.partitions.iter().map(|(root, _)| root.as_path().bytes()).collect();
    let layout = core.shared.store.layout();
    for watch in &client.watches {
        let mut space = PathSpace::new();
        let resolved = Path::resolve(&watch.path, session.domid(), ABS_PATH_MAX, &mut space);
        // Every watch of a state has a valid path, though one watch may occur twice.
        let Ok(path) = resolved else { continue };
        let new = (&*watch.path, &*watch.token, watch.depth);
        let new = new_watch(core, path, new);
        if session.watches.contains(path, &new.token) {
            continue;
        }
        session.charge_watch(&new);
        let id = session.insert_watch(core, new);
        let root = layout.partition(path).root;
        let came_along =
            domain_of_partition(root) == Some(session.domid()) || came.contains(root.bytes());
        let is_changed = changed.contains(root.bytes());
        if is_changed || !came_along || has_partitions_below(path) {
            session.fire_once(core, id);
        }
    }
    for &id in client.transactions.keys() {
        session.domain.account.charge(Quota::Transactions, 1);
        session.insert_transaction(id, Transaction::reserved());
    }
    // Quiesced like at its export; its version is new, so no earlier mark is valid for it.
    session.service = Service::Quiesced;
    session.outdate(core.next_number());
    seen
}

/// Executes START_DOMAIN_TRANSACTION: reserves the id that a transaction of the domain had on its former host. A
/// TRANSACTION_END with T of that transaction fails with EAGAIN, so that the guest retries the transaction.
pub fn reserve_transaction(
    core: &mut Core,
    clients: &mut Clients,
    domid: Domid,
    id: u32,
) -> Result<(), Errno> {
    let slot = clients.of_domain(domid).ok_or(Errno::ENOENT)?;
    let session = &mut clients.get_mut(slot).ok_or(Errno::ENOENT)?.session;
    if session.transactions.contains_key(&id) {
        return Err(Errno::EEXIST);
    }
    session.outdate(core.next_number());
    session.open_transaction(core, id, Transaction::reserved())
}

//! The drop of transactions' snapshots that have reached their limit.

use super::clients::Clients;
use crate::shard::session::core::Core;
use crate::shard::session::snapshots::Snapshot;

/// The number of snapshots dropped in one pass, so that requests are served in between.
const GIVEN_UP_PER_PASS: usize = 4096;

/// Drops snapshots that are too old, or keep too much.
pub fn give_up_snapshots(core: &mut Core, clients: &mut Clients) {
    for _ in 0..core.snapshots.len().min(GIVEN_UP_PER_PASS) {
        let Some(oldest) = core.snapshots.take_due(&core.shared.store, core.now) else { return };
        if is_needed(core, clients, &oldest) {
            keep(core, clients, oldest);
        } else {
            give_up_snapshot(clients, &oldest);
        }
    }
}

/// Returns whether a replay needs the snapshot and may keep it. Logs of the control domain can be long: they are
/// replayed to the end.
fn is_needed(core: &Core, clients: &Clients, snapshot: &Snapshot) -> bool {
    let Some(connection) = clients.get(snapshot.place) else { return false };
    let is_in_time = snapshot.is_in_time(&core.shared.store, core.now);
    (is_in_time || !connection.session.is_guest()) && is_being_replayed(clients, snapshot)
}

/// Renews a snapshot as if it had been taken now.
fn keep(core: &mut Core, clients: &mut Clients, snapshot: Snapshot) {
    let Some(connection) = clients.get_mut(snapshot.place) else { return };
    let transactions = &mut connection.session.transactions;
    let Some(open) = transactions.get_mut(&snapshot.transaction) else { return };
    let (since, replaced) = (core.now, core.shared.store.replaced_bytes());
    open.snapshots_from = Some(since);
    core.snapshots.add(Snapshot { since, replaced, ..snapshot });
}

/// Returns whether the snapshot's transaction is replaying its log on it. At most one transaction of a connection is,
/// for its next request.
fn is_being_replayed(clients: &Clients, snapshot: &Snapshot) -> bool {
    let Some(connection) = clients.get(snapshot.place) else { return false };
    let session = &connection.session;
    session.asker.id == snapshot.connection
        && session.transactions.get(&snapshot.transaction).is_some_and(|open| {
            open.snapshots_from == Some(snapshot.since) && open.transaction.is_behind()
        })
}

fn give_up_snapshot(clients: &mut Clients, snapshot: &Snapshot) {
    let Some(connection) = clients.get_mut(snapshot.place) else { return };
    let session = &mut connection.session;
    if session.asker.id != snapshot.connection {
        return;
    }
    if let Some(open) = session.transactions.get_mut(&snapshot.transaction)
        && open.snapshots_from == Some(snapshot.since)
    {
        open.snapshots_from = None;
        // The charge stays, as the replay takes as much memory again.
        open.transaction.give_up();
    }
}

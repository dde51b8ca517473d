//! The drop of transactions' snapshots that have reached their limit.

use super::clients::Clients;
use crate::server::session::core::Core;
use crate::server::session::open_transaction::OpenTransaction;
use crate::server::session::snapshots::Snapshot;

/// The number of snapshots dropped in one pass, so that requests are served in between.
const GIVEN_UP_PER_PASS: usize = 4096;

/// Drops snapshots that are too old, or keep too much replaced data. A snapshot on which a log is being replayed is
/// renewed instead, as if it had been taken now: a guest's only up to the limit of a replay, the control domain's until
/// the end of the log.
pub fn give_up_snapshots(core: &mut Core, clients: &mut Clients) {
    for _ in 0..core.snapshots.len().min(GIVEN_UP_PER_PASS) {
        let store = &core.shared.store;
        let Some(oldest) = core.snapshots.take_due(store, core.now) else { return };
        let Some((is_guest, open)) = holder(clients, &oldest) else { continue };
        let may_keep = !is_guest || oldest.is_in_time(store, core.now);
        if may_keep && open.transaction.is_behind() {
            let (since, replaced) = (core.now, store.replaced_bytes());
            open.snapshots_from = Some(since);
            core.snapshots.add(Snapshot { since, replaced, ..oldest });
        } else {
            open.snapshots_from = None;
            // The charge stays, as the replay takes as much memory again.
            open.transaction.give_up();
        }
    }
}

/// Returns the transaction that still has these snapshots, and whether it is a guest's.
fn holder<'c>(
    clients: &'c mut Clients,
    snapshot: &Snapshot,
) -> Option<(bool, &'c mut OpenTransaction)> {
    let session = &mut clients.get_mut(snapshot.slot)?.session;
    if session.reply_to.id != snapshot.connection {
        return None;
    }
    let is_guest = session.is_guest();
    let open = session.transactions.get_mut(&snapshot.transaction)?;
    (open.snapshots_from == Some(snapshot.since)).then_some((is_guest, open))
}

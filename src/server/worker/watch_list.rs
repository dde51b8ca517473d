//! The watches of a worker's connections, for the command `check`.

use super::clients::Clients;
use crate::server::session::core::Core;
use crate::server::session::watching::entry;
use crate::store::{Tries, WatchList};

/// Returns the watches of this worker's connections. Cost: a copy of each. No connection is being served meanwhile, so
/// the tries contain exactly these of this worker.
pub fn watch_list(core: &Core, clients: &Clients) -> WatchList {
    let mut watches = Vec::new();
    for (slot, connection) in clients.iter() {
        let session = &connection.session;
        for group in session.watches.groups() {
            let entry = entry(core, slot, session.domid(), &group);
            watches.push((group.path.to_buf(), entry));
        }
    }
    for former in core.former.iter() {
        watches.push((former.path.as_path().to_buf(), former.entry));
    }
    WatchList { thread: core.number, watches, tries: Tries::of(&core.shared.store) }
}

//! From a paused server to its state as data.

use std::collections::BTreeMap;

use super::data::SavedServer;
use super::domains;
use super::sessions;
use crate::host::Channels;
use crate::migration::stream::state::Client;
use crate::server::mailbox::Slot;
use crate::server::pause::Paused;
use crate::server::worker::Worker;
use crate::store::Store;
use crate::sync::{Arc, Ordering};
use crate::types::ShardId;

impl Paused {
    /// Returns the store.
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }

    /// Returns the workers' event channel handles.
    pub fn channels(&self) -> impl Iterator<Item = &dyn Channels> {
        self.workers.iter().map(|worker| worker.channels.handle().0)
    }

    /// Returns the state as data, except nodes: the clients in the order of workers and slots, and the rest. `reply` is
    /// the reply that the client that waits for the pause gets from the process that goes on. The server is
    /// unchanged and may go on, too. Cost: linear in sessions, watches, unsent bytes, transactions' logs and domains.
    pub fn save(&mut self, reply: Option<&[u8]>) -> (Vec<Client>, SavedServer) {
        let shared = Arc::clone(&self.shared);
        let (mut clients, mut saved_sessions) = (Vec::new(), BTreeMap::new());
        for worker in &mut self.workers {
            let slots: Vec<Slot> = worker.clients.iter().map(|(slot, _)| slot).collect();
            for slot in slots {
                let Worker { core, clients: table, .. } = worker;
                let Some(connection) = table.get_mut(slot) else { continue };
                let id = u32::try_from(clients.len() + 1).unwrap_or(u32::MAX);
                let (client, saved) = sessions::save(connection, core, id, reply);
                clients.push(client);
                saved_sessions.insert(id, saved);
            }
        }
        let registry = shared.store.registry();
        let domain = |domid| {
            let domain = registry.get(domid)?;
            let ShardId(owner) = shared.store.layout().of_domain(domid);
            let worker = self.workers.get(usize::from(owner))?;
            Some(domains::save(&shared.store, &domain, &worker.domains))
        };
        let saved = SavedServer {
            shards: shared.store.layout().shards(),
            marks_from: shared.marks_from,
            reply_key: shared.store.reply_key().0,
            deaths: shared.deaths.load(Ordering::Relaxed),
            next_worker: self.next_worker(),
            numbers: self.workers.iter().map(|worker| worker.core.last_number()).collect(),
            changes: self.workers.first().and_then(|worker| worker.channels.handle().1),
            defaults: domains::save_limits(registry.defaults()),
            domains: registry.known().into_iter().filter_map(domain).collect(),
            sessions: saved_sessions,
        };
        (clients, saved)
    }
}

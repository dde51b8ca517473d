//! Imports on the owner thread of the domain: the domid is kept free during the import, which then ends, introduces the
//! domain if the client asked for it, and may be discarded.

use super::move_request::{ImportEnd, Introduced};
use crate::domain::Domain;
use crate::server::author::Author;
use crate::server::state::kept::SavedConnection;
use crate::server::state::{Event, Imported};
use crate::server::worker::Worker;
use crate::server::worker::domains::{domain_changed, introduce};
use crate::server::worker::ending::disconnect_ring;
use crate::store::DomainSnapshot;
use crate::sync::Arc;
use crate::types::{Domid, Errno, Presence};

/// Keeps a domid free for an import, and returns the domain's incarnation.
///
/// # Errors
/// [`Presence::Absent`] if the host has no such domain, otherwise the state that conflicts.
pub fn expect(
    worker: &mut Worker,
    domid: Domid,
    by: &Arc<Author>,
) -> Result<Arc<Domain>, Presence> {
    // An earlier incarnation may have ended, with the host's notification still on its way.
    domain_changed(worker, domid);
    let domain = worker.core.shared.known_domain(domid).ok_or(Presence::Absent)?;
    let begins = Event::ImportBegins(domain.own_settings());
    match worker.domains.step(&domain, begins) {
        // From here on INTRODUCE and other imports of the domid are refused.
        Ok(_) => {
            worker.domains.note(domid, by, None);
            Ok(domain)
        }
        Err(_) => Err(worker.presence(domid)),
    }
}

/// Ends [`expect`]: with the imported connection and partitions, or with none. A domain that has arrived is then
/// introduced if the client asked for it, with the event channel in its stream; if that fails it stays arrived.
///
/// # Errors
/// `ENOENT` if the domain has died meanwhile.
pub fn arrive(
    worker: &mut Worker,
    (domain, arrived): ImportEnd,
    by: &Arc<Author>,
    introduces: bool,
) -> Result<Introduced, Errno> {
    // 0 means that the stream does not have it (docs/MIGRATION.md).
    let origin = arrived.as_ref().map(|(client, _)| client.connection.unique_id.unwrap_or(0));
    let moved = arrived.map(|(client, seen)| Box::new(SavedConnection { client, seen }));
    let port = moved.as_ref().filter(|_| introduces).map(|moved| moved.port());
    // Only the incarnation that `expect` returned: its successor must not get the connection.
    worker.domains.step(&domain, Event::ImportEnds(moved))?;
    worker.domains.note(domain.domid, by, None);
    if let Some(origin) = origin {
        domain.set_origin(origin);
    }
    // By its grant: a stream does not have the frame number of this host.
    Ok(port.map(|port| introduce(worker, domain.domid, (None, port), by).map(drop)))
}

/// Discards a domain that was imported and not served since, and restores its settings from before the import. Returns
/// the domain's partitions, and whether the domain was introduced.
///
/// # Errors
/// `EINVAL` if it is in another state.
pub fn discard(worker: &mut Worker, domid: Domid) -> Result<(DomainSnapshot, bool), Errno> {
    let domain = worker.core.registry().get(domid).ok_or(Errno::EINVAL)?;
    let introduced = worker.clients.of_domain(domid);
    let taken_back = worker.domains.step(&domain, Event::Discard)?.taken_back;
    let Imported { seen, before } = taken_back.ok_or(Errno::EINVAL)?;
    worker.core.registry().restore(&domain, &before.settings);
    domain.set_origin(0);
    // After the step, which refuses a domain that has been served.
    if let Some(slot) = introduced {
        disconnect_ring(worker, slot);
    }
    Ok((seen, introduced.is_some()))
}

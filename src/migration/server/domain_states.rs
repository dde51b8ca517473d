//! DOMAIN_STATES: reports the state of each of several domains.

use super::Outcome;
use crate::migration::store::named_machine;
use crate::server::{Note, OwnerThreads, Standing};
use crate::types::Domid;

/// Domains queried at the same time, and so the maximum of replies held in memory.
pub const AT_ONCE: usize = 256;

/// Replies with the states of domains, in batches. Cost: one message to the owner thread of each domain, and a snapshot
/// of the store for each batch.
pub fn domain_states(owners: &OwnerThreads, domids: &[Domid], mut reply: impl FnMut(Vec<Outcome>)) {
    for some in domids.chunks(AT_ONCE) {
        let standings = some.iter().zip(owners.standings(some));
        let trees = owners.store().snapshot_all();
        let outcome = |(&domid, standing)| match standing {
            Ok(standing) => {
                let vm = named_machine(owners.store(), &trees, domid);
                Outcome::said(domid, strings(standing, vm.as_deref().unwrap_or_default()))
            }
            Err(errno) => Outcome::failed(domid, errno, "the daemon is stopping"),
        };
        reply(standings.map(outcome).collect());
    }
}

/// Returns the strings of a reply, in the order of docs/MIGRATION.md.
fn strings(standing: Standing, vm: &str) -> Vec<String> {
    let Standing { presence, unique_id, origin, port, elsewhere, note } = standing;
    let mut strings = vec![presence.name().into()];
    strings.extend([unique_id, origin, port.into()].map(|number| number.to_string()));
    strings.extend(match note {
        Some(Note { since, by, to }) => [
            since.to_string(),
            by.domid.to_string(),
            by.pid.to_string(),
            by.command.clone(),
            to.as_deref().unwrap_or_default().to_owned(),
        ],
        None => ["0", "0", "0", "", ""].map(str::to_owned),
    });
    strings.extend([vm, elsewhere.name()].map(str::to_owned));
    strings
}

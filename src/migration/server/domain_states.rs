//! DOMAIN_STATES: reports the state of each of several domains.

use super::Outcome;
use crate::server::{OwnerThreads, Standing};
use crate::types::Domid;

/// Domains queried at the same time, and so the maximum of replies held in memory.
pub const AT_ONCE: usize = 256;

/// Replies with the states of domains, in batches. Cost: one message to the owner thread of each domain.
pub fn domain_states(owners: &OwnerThreads, domids: &[Domid], mut reply: impl FnMut(Vec<Outcome>)) {
    for some in domids.chunks(AT_ONCE) {
        let standings = some.iter().zip(owners.standings(some));
        let outcome = |(&domid, standing)| match standing {
            Ok(standing) => Outcome::said(domid, strings(&standing)),
            Err(errno) => Outcome::failed(domid, errno, "the daemon is stopping"),
        };
        reply(standings.map(outcome).collect());
    }
}

fn strings(standing: &Standing) -> Vec<String> {
    let Standing { presence, unique_id, origin, port } = standing;
    vec![presence.name().into(), unique_id.to_string(), origin.to_string(), port.to_string()]
}

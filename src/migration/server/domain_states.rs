//! DOMAIN_STATES: where each of some domains is.

use super::Outcome;
use crate::shard::{OwnerThreads, Standing};
use crate::words::Domid;

/// Domains whose home threads are asked at the same time, and whose replies are in memory.
pub const AT_ONCE: usize = 256;

/// Replies with the states of domains, some at a time. Cost: a message to the home thread of each.
pub fn domain_states(
    owners: &OwnerThreads,
    domids: &[Domid],
    mut answer: impl FnMut(Vec<Outcome>),
) {
    for some in domids.chunks(AT_ONCE) {
        let standings = some.iter().zip(owners.standings(some));
        let outcome = |(&domid, standing)| match standing {
            Ok(standing) => Outcome::said(domid, strings(&standing)),
            Err(errno) => Outcome::failed(domid, errno, "the daemon stops"),
        };
        answer(standings.map(outcome).collect());
    }
}

fn strings(standing: &Standing) -> Vec<String> {
    let Standing { presence, unique_id, origin, port } = standing;
    vec![presence.name().into(), unique_id.to_string(), origin.to_string(), port.to_string()]
}

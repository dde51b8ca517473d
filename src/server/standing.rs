//! The states of domains on their owner thread, and the part of them that DOMAIN_STATES reports, by which a tool
//! resumes a move that another one began.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::state::kept::{Mark, StreamRemainder};
use super::state::{DomainState, Effects, Event, next};
use crate::domain::{Domain, Registry};
use crate::sync::Arc;
use crate::types::{Domid, Errno, Presence};

/// The state of a domain, and the numbers that distinguish it from others with its domid.
pub struct Standing {
    /// The state's name.
    pub presence: Presence,
    /// The host's unique id of the domain; 0 if the daemon does not know it.
    pub unique_id: u64,
    /// The unique id that the domain had at the source of its import; 0 if the domain was not imported, or the stream
    /// does not have the id.
    pub origin: u64,
    /// The event channel in the stream of an import, until INTRODUCE; otherwise 0.
    pub port: u32,
}

/// The states of the domains whose owner thread a worker is.
#[derive(Default)]
pub struct DomainStates {
    /// The states other than absent, each with the birth of its incarnation.
    states: HashMap<Domid, (u64, DomainState), RandomState>,
    /// The domains of connections that were released while they were parked for a reply, by the number of the
    /// connection.
    released: HashMap<u64, Domid, RandomState>,
}

impl DomainStates {
    /// Returns the data of a domain that DOMAIN_STATES reports. Cost: constant.
    pub fn standing(&self, registry: &Registry, domid: Domid) -> Standing {
        let domain = registry.get(domid);
        let [unique_id, origin] =
            domain.map_or([0; 2], |domain| [domain.unique_id, domain.origin()]);
        let port = match self.states.get(&domid) {
            Some((_, DomainState::Arrived(moved, _))) => moved.port(),
            _ => 0,
        };
        Standing { presence: self.presence(domid), unique_id, origin, port }
    }

    /// Returns the name of a domain's state.
    pub fn presence(&self, domid: Domid) -> Presence {
        self.states.get(&domid).map_or(Presence::Absent, |(_, state)| state.presence())
    }

    /// Returns the mark of a domain's last export, unless it is known to be invalid.
    pub fn mark_of(&self, domid: Domid) -> Option<&Mark> {
        match &self.states.get(&domid)?.1 {
            DomainState::Exported(mark) => Some(mark),
            DomainState::ArrivedIntroduced(_, mark) => mark.as_ref(),
            _ => None,
        }
    }

    /// Moves a domain to its next state, and publishes the state's name.
    ///
    /// # Errors
    /// The state's refusal of the event; `ENOENT` for an incarnation that has ended.
    pub fn step(&mut self, domain: &Arc<Domain>, event: Event) -> Result<Effects, Errno> {
        let former = match self.states.remove(&domain.domid) {
            Some((birth, state)) if birth == domain.birth => state,
            // An event of an earlier incarnation must not change the state of its successor.
            Some((birth, state)) if birth > domain.birth => {
                self.states.insert(domain.domid, (birth, state));
                return Err(Errno::ENOENT);
            }
            _ => DomainState::default(),
        };
        let (state, effects) = next(former, event);
        domain.set_presence(state.presence());
        if !matches!(state, DomainState::Absent(None)) {
            self.states.insert(domain.domid, (domain.birth, state));
        }
        effects
    }

    /// Records the release of a connection that is parked for a reply.
    pub fn note_released(&mut self, connection: u64, domid: Domid) {
        self.released.insert(connection, domid);
    }

    /// Takes the domain of a released connection whose reply has arrived.
    pub fn take_released(&mut self, connection: u64) -> Option<Domid> {
        self.released.remove(&connection)
    }

    /// Returns the stream remainder that RELEASE left of a domain.
    pub fn left_by_release(&mut self, domid: Domid) -> Option<&mut StreamRemainder> {
        match self.states.get_mut(&domid) {
            Some((_, DomainState::Absent(Some(remainder)))) => Some(remainder),
            _ => None,
        }
    }
}

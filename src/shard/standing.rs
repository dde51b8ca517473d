//! Where the states of domains are kept and led to the next, and what a toolstack sees of them that goes on with a
//! move which another tool began.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::state::kept::{Carried, Mark};
use super::state::{DomainState, Effects, Event, next};
use crate::domain::{Domain, Registry};
use crate::sync::Arc;
use crate::words::{Domid, Errno, Presence};

/// The state of a domain, and what tells it from another of its number.
pub struct Standing {
    /// The state.
    pub presence: Presence,
    /// The host's number of the domain; 0 if the daemon does not know it.
    pub unique_id: u64,
    /// The number that it had at the source of the import that brought it; 0 if there is none, or
    /// the stream does not say it.
    pub origin: u64,
    /// The event channel that the stream of an import names, until INTRODUCE; else 0.
    pub port: u32,
}

/// The states of the domains whose home thread a worker is.
#[derive(Default)]
pub struct DomainStates {
    /// Those that are not absent, each with the birth of its incarnation.
    states: HashMap<Domid, (u64, DomainState), RandomState>,
    /// Connections of rings that were released while they waited for an answer: their domains.
    released: HashMap<u64, Domid, RandomState>,
}

impl DomainStates {
    /// Returns the state of a domain whose home thread this is. Cost: constant.
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

    /// Returns the state of a domain by name.
    pub fn presence(&self, domid: Domid) -> Presence {
        self.states.get(&domid).map_or(Presence::Absent, |(_, state)| state.presence())
    }

    /// Returns the mark of a domain's last export, if it has one.
    pub fn mark_of(&self, domid: Domid) -> Option<&Mark> {
        match &self.states.get(&domid)?.1 {
            DomainState::Exported(mark) => Some(mark),
            DomainState::ArrivedIntroduced(_, mark) => mark.as_ref(),
            _ => None,
        }
    }

    /// Leads a domain to its next state, and publishes it.
    ///
    /// # Errors
    /// Why the state refuses the event; `ENOENT` of an incarnation that is gone.
    pub fn step(&mut self, domain: &Arc<Domain>, event: Event) -> Result<Effects, Errno> {
        let former = match self.states.remove(&domain.domid) {
            Some((birth, state)) if birth == domain.birth => state,
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

    /// Notes that the connection with this number was released while it waited for an answer.
    pub fn note_released(&mut self, connection: u64, domid: Domid) {
        self.released.insert(connection, domid);
    }

    /// Takes the domain of a connection that was released while it waited for an answer, which has come.
    pub fn take_released(&mut self, connection: u64) -> Option<Domid> {
        self.released.remove(&connection)
    }

    /// Returns what RELEASE left of a domain.
    pub fn left_by_release(&mut self, domid: Domid) -> Option<&mut Carried> {
        match self.states.get_mut(&domid) {
            Some((_, DomainState::Absent(Some(carried)))) => Some(carried),
            _ => None,
        }
    }
}

//! The states of domains on their owner thread, and the part of them that DOMAIN_STATES reports, by which a tool
//! resumes a move that another one began.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use foldhash::fast::RandomState;

use super::author::Author;
use super::state::kept::{Elsewhere, Mark, StreamRemainder};
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
    /// Whether another host may have it too.
    pub elsewhere: Elsewhere,
    /// How the domain came into its state; `None` if it is served or absent.
    pub note: Option<Note>,
}

/// How a domain came into its state: for a person who finds it there.
#[derive(Clone)]
pub struct Note {
    /// The time, in milliseconds since 1970.
    pub since: u64,
    /// The client whose request it was.
    pub by: Arc<Author>,
    /// The destination that the client of its last export named.
    pub to: Option<Arc<str>>,
}

/// A domain's state other than absent.
struct Known {
    /// The birth of its incarnation.
    birth: u64,
    state: DomainState,
    note: Option<Note>,
}

/// The states of the domains whose owner thread a worker is. Only that thread accesses them, so no lock is needed.
#[derive(Default)]
pub struct DomainStates {
    states: HashMap<Domid, Known, RandomState>,
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
        let known = self.states.get(&domid);
        let port = match known.map(|known| &known.state) {
            Some(DomainState::Arrived(moved, _)) => moved.port(),
            _ => 0,
        };
        let note = known.and_then(|known| known.note.clone());
        let elsewhere = known.map_or(Elsewhere::No, |known| known.state.elsewhere());
        Standing { presence: self.presence(domid), unique_id, origin, port, elsewhere, note }
    }

    /// Returns the name of a domain's state.
    pub fn presence(&self, domid: Domid) -> Presence {
        self.states.get(&domid).map_or(Presence::Absent, |known| known.state.presence())
    }

    /// Returns the mark of a domain's last export, unless it is known to be invalid.
    pub fn mark_of(&self, domid: Domid) -> Option<&Mark> {
        match &self.states.get(&domid)?.state {
            DomainState::Exported(mark, _) => Some(mark),
            DomainState::ArrivedIntroduced(_, mark, _) => mark.as_ref(),
            _ => None,
        }
    }

    /// Moves a domain to its next state, and publishes the state's name.
    ///
    /// # Errors
    /// The state's refusal of the event; `ENOENT` for an incarnation that has ended.
    pub fn step(&mut self, domain: &Arc<Domain>, event: Event) -> Result<Effects, Errno> {
        let (former, note) = match self.states.remove(&domain.domid) {
            Some(known) if known.birth == domain.birth => (known.state, known.note),
            // An event of an earlier incarnation must not change the state of its successor.
            Some(known) if known.birth > domain.birth => {
                self.states.insert(domain.domid, known);
                return Err(Errno::ENOENT);
            }
            // The entry of an earlier incarnation is dropped, with what is kept in it.
            _ => (DomainState::default(), None),
        };
        let (state, effects) = next(former, event);
        // Other threads read the name without asking this one, such as EXPORT_DOMAINS and `memreport`.
        domain.set_presence(state.presence());
        // Absent domains have no entry, so the map does not grow with the domids ever used.
        if !matches!(state, DomainState::Absent(None)) {
            let note = note.filter(|_| has_note(&state));
            self.states.insert(domain.domid, Known { birth: domain.birth, state, note });
        }
        effects
    }

    /// Returns the state of an incarnation, with its note; `None` if it is absent.
    pub fn of(&self, domain: &Domain) -> (Option<&DomainState>, Option<&Note>) {
        let known = self.states.get(&domain.domid).filter(|known| known.birth == domain.birth);
        (known.map(|known| &known.state), known.and_then(|known| known.note.as_ref()))
    }

    /// Sets the state that an incarnation had in another process.
    pub fn restore(&mut self, domain: &Domain, state: DomainState, note: Option<Note>) {
        domain.set_presence(state.presence());
        if !matches!(state, DomainState::Absent(None)) {
            self.states.insert(domain.domid, Known { birth: domain.birth, state, note });
        }
    }

    /// Notes the client that brought a domain into its state, unless the domain is served or absent. The destination of
    /// an earlier export stays. Cost: constant.
    pub fn note(&mut self, domid: Domid, by: &Arc<Author>, to: Option<Arc<str>>) {
        if let Some(known) = self.states.get_mut(&domid).filter(|known| has_note(&known.state)) {
            let to = to.or_else(|| known.note.take().and_then(|note| note.to));
            known.note = Some(Note { since: milliseconds_now(), by: Arc::clone(by), to });
        }
    }

    /// Notes the release of a connection that is parked for a reply.
    pub fn note_released(&mut self, connection: u64, domid: Domid) {
        self.released.insert(connection, domid);
    }

    /// Takes the domain of a released connection whose reply has arrived.
    pub fn take_released(&mut self, connection: u64) -> Option<Domid> {
        self.released.remove(&connection)
    }

    /// Returns the stream remainder that RELEASE left of a domain.
    pub fn left_by_release(&mut self, domid: Domid) -> Option<&mut StreamRemainder> {
        match &mut self.states.get_mut(&domid)?.state {
            DomainState::Absent(Some(remainder)) => Some(remainder),
            _ => None,
        }
    }
}

fn has_note(state: &DomainState) -> bool {
    !matches!(state, DomainState::Absent(_) | DomainState::Running)
}

fn milliseconds_now() -> u64 {
    // The wall clock, since tools of other hosts compare it.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

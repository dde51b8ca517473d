//! The state of a domain, for a toolstack that goes on with a move which another tool began.

use super::thread::Thread;
use crate::migrate::presence::Presence;
use crate::words::Domid;

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

impl Thread {
    /// Returns the state of a domain whose home thread this is. Cost: constant.
    pub(super) fn standing(&mut self, domid: Domid) -> Standing {
        let domain = self.shared.store.registry().get(domid);
        let [unique_id, origin] =
            domain.map_or([0; 2], |domain| [domain.unique_id, domain.origin()]);
        let (presence, port) = match self.moved.get(&domid) {
            Some(moved) => moved.presence(),
            None => (self.presence(domid), 0),
        };
        Standing { presence, unique_id, origin, port }
    }

    /// The state of a domain of which neither RELEASE nor an import has left a connection.
    fn presence(&mut self, domid: Domid) -> Presence {
        if self.arriving.contains_key(&domid) {
            return Presence::Arriving;
        }
        if !self.rings.contains_key(&domid) {
            return Presence::Absent;
        }
        match self.quiesced_state(domid) {
            None => Presence::Running,
            Some(quiesced) if quiesced.arrived.is_some() => Presence::ArrivedIntroduced,
            Some(quiesced) if quiesced.mark.is_some() => Presence::Exported,
            Some(_) => Presence::Quiesced,
        }
    }
}

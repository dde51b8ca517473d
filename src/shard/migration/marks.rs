//! The marks of exports: what of a domain stays as it was exported, so that RELEASE may end it here.

use super::super::state::Event;
use super::super::thread::Thread;
use crate::migration::stream::state::Client;
use crate::store::DomainSnapshot;
use crate::words::{Domid, Errno};

/// An export that was replied to: what it saw.
pub struct Mark {
    /// Its name; not used twice for a domid, not by the next daemon either.
    pub number: u64,
    /// See [`Connection::version`].
    pub version: u64,
    /// The domain's homes.
    pub seen: DomainSnapshot,
}

impl Thread {
    /// A number that this thread has not used.
    pub(in crate::shard) fn next_number(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Gives an export of a domain, which saw this version and these homes, its mark.
    ///
    /// # Errors
    /// As [`Thread::save_connection`]; `EAGAIN` also if the connection has another version.
    pub(super) fn mark(
        &mut self,
        domid: Domid,
        version: u64,
        seen: DomainSnapshot,
    ) -> Result<u64, Errno> {
        let number = self.shared.marks_from.wrapping_add(self.next_number());
        let connection = self.quiesced(domid)?;
        if connection.version() != version {
            return Err(Errno::EAGAIN);
        }
        self.step_of(domid, Event::Exported(Mark { number, version, seen }))?;
        Ok(number)
    }

    /// Returns the connection that a RELEASE with the mark of an export ends.
    ///
    /// # Errors
    /// `EAGAIN` if the mark does not stand for what is there now.
    pub(in crate::shard) fn leave(
        &mut self,
        domid: Domid,
        number: u64,
    ) -> Result<Box<Client>, Errno> {
        let (client, version) = self.save_connection(domid)?;
        let mark = self.mark_of(domid).ok_or(Errno::EAGAIN)?;
        if (mark.number, mark.version) != (number, version) {
            return Err(Errno::EAGAIN);
        }
        if !self.shared.store.changed_since(&mark.seen).is_empty() {
            self.step_of(domid, Event::Outdated)?;
            return Err(Errno::EAGAIN);
        }
        Ok(Box::new(client))
    }
}

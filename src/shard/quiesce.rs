//! QUIESCE and UNQUIESCE, on the domain's home thread.
//!
//! A domain's requests run on its home thread, one after another, and so does QUIESCE: when it is
//! looked at, the domain's last request is done, or it waits for one answer that somebody else gives
//! (its RM is being settled). Then QUIESCE waits for that answer, and for nothing else:
//!
//! - A request that waits for a guard has not begun: it stays in the page, like those behind it.
//! - What the guest does not take stays queued: QUIESCE never waits for a guest.
//!
//! From then on the page is not written and nothing in it is looked at, so that whatever is taken of
//! this connection stays what it is. Events are queued within the usual limits, without a ticket:
//! nobody else is held up by a domain that may not be served.

use super::connection::Parked;
use super::gathering::Share;
use super::thread::{Place, Thread};
use super::trace;
use crate::words::{Domid, Errno};

impl Thread {
    /// QUIESCE of a domain whose home thread this is.
    pub(super) fn quiesce(&mut self, share: Share) {
        let Some(&place) = self.rings.get(&share.domid()) else { return };
        let slot = self.connections.get_mut(place);
        let Some(mut connection) = slot.and_then(Option::take) else { return };
        if connection.is_still() {
            self.connections[place] = Some(connection);
            return share.done();
        }
        if connection.parked.take_if(|parked| matches!(parked, Parked::Guard)).is_some() {
            // Nobody is to wait until it has written.
            self.leave_turns(place, &mut connection);
        }
        let version = self.next_number();
        let quiesced = connection.quiesce.get_or_insert_default();
        quiesced.version = version;
        quiesced.waiting.push(share);
        connection.domain.set_quiesced(true);
        connection.output.forget_tickets();
        trace::object(self.number, &connection, format_args!("quiesce"));
        self.connections[place] = Some(connection);
        self.becomes_still(place);
    }

    /// Answers those who quiesce a connection, once nothing of it is under way. What its guest has
    /// room for is in the page by then.
    pub(super) fn becomes_still(&mut self, place: Place) {
        let Some(slot) = self.connections.get_mut(place) else { return };
        let Some(mut connection) = slot.take_if(|connection| connection.is_still()) else { return };
        let mut result = Ok(());
        let is_served = !connection.ignored;
        if let Some(ring) = connection.ring()
            && is_served
            && !ring.wants_reconnect()
        {
            result = ring.begin().map_err(Some).and_then(|()| connection.flush());
        }
        if let Some(ring) = connection.ring()
            && ring.publish()
        {
            let port = ring.port;
            self.notify(port);
        }
        let quiesced = connection.quiesce.as_mut();
        let waiting = quiesced.map(|quiesced| std::mem::take(&mut quiesced.waiting));
        self.connections[place] = Some(connection);
        if let Err(Some(error)) = result {
            self.give_up(place, error);
        }
        waiting.into_iter().flatten().for_each(Share::done);
    }

    /// UNQUIESCE of a domain whose home thread this is.
    pub(super) fn unquiesce(&mut self, share: Share) {
        let Some(&place) = self.rings.get(&share.domid()) else { return };
        self.end_quiesce(place);
        share.done();
    }

    /// The same, unless an export of it was answered.
    ///
    /// # Errors
    /// `ENOENT` if it is not introduced.
    pub(super) fn undo_quiesce(&mut self, domid: Domid) -> Result<(), Errno> {
        let &place = self.rings.get(&domid).ok_or(Errno::ENOENT)?;
        if self.quiesced_state(domid).is_some_and(|quiesced| quiesced.mark.is_none()) {
            self.end_quiesce(place);
        }
        Ok(())
    }

    fn end_quiesce(&mut self, place: Place) {
        let Some(Some(connection)) = self.connections.get_mut(place) else { return };
        if let Some(quiesced) = connection.quiesce.take() {
            quiesced.waiting.into_iter().for_each(|share| share.failed(Errno::EAGAIN));
            if quiesced.arrived.is_some() {
                tracing::info!(domid = connection.domid().0, "served after its import");
            }
            connection.domain.set_quiesced(false);
            // It could not take them: it has all the time again.
            connection.output.renew_events(self.now);
            trace::object(self.number, connection, format_args!("unquiesce"));
            self.make_ready(place);
        }
    }
}

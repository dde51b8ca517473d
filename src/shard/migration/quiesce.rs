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

use super::super::connection::Parked;
use super::super::state::{Effects, Event, Service};
use super::super::thread::{Place, Thread};
use super::scatter_gather::Share;
use crate::transport::Disconnect;
use crate::words::{Domid, Errno, Presence};

impl Thread {
    /// QUIESCE of a domain whose home thread this is.
    pub(in crate::shard) fn quiesce(&mut self, share: Share) {
        let domid = share.domid();
        // A share that is refused has said so.
        if let Ok(effects) = self.step_of(domid, Event::Quiesce(share)) {
            self.perform(domid, effects);
            self.drain(domid);
        }
    }

    /// UNQUIESCE of a domain whose home thread this is.
    pub(in crate::shard) fn unquiesce(&mut self, share: Share) {
        let domid = share.domid();
        if let Ok(effects) = self.step_of(domid, Event::Unquiesce) {
            self.perform(domid, effects);
            share.done();
        }
    }

    /// Serves a domain again that an export quiesced which failed.
    ///
    /// # Errors
    /// `ENOENT` if it is not introduced.
    pub(in crate::shard) fn undo_quiesce(&mut self, domid: Domid) -> Result<(), Errno> {
        let effects = self.step_of(domid, Event::ExportFailed)?;
        self.perform(domid, effects);
        Ok(())
    }

    /// Ends the quiescing of a domain of which nothing is under way. What its guest has room for is in the page
    /// before QUIESCE is replied to.
    pub(in crate::shard) fn drain(&mut self, domid: Domid) {
        let Some(&place) = self.rings.get(&domid) else { return };
        let slot = self.connections.get(place).and_then(Option::as_deref);
        let is_drained = slot.is_some_and(|connection| connection.parked.is_none());
        if !is_drained || self.presence(domid) != Presence::Quiescing {
            return;
        }
        if let Ok(effects) = self.step_of(domid, Event::Drained) {
            self.flush_quiesced(place);
            self.perform(domid, effects);
        }
    }

    fn flush_quiesced(&mut self, place: Place) {
        let flushed = self.with_connection(place, |thread, connection| {
            let mut result = Ok(());
            let is_served = !connection.ignored;
            if let Some(ring) = connection.ring()
                && is_served
                && !ring.wants_reconnect()
            {
                result = ring.begin().map_err(Disconnect::from).and_then(|()| connection.flush());
            }
            if let Some(ring) = connection.ring()
                && ring.publish()
            {
                let port = ring.port;
                thread.notify(port);
            }
            result
        });
        if let Some(Err(Disconnect::Broken(error))) = flushed {
            self.give_up(place, error);
        }
    }

    /// Does what follows an event of an introduced domain.
    fn perform(&mut self, domid: Domid, effects: Effects) {
        match effects.service {
            Some(Service::Begins) => self.begin_service(domid),
            Some(Service::Ends) => self.end_service(domid),
            None => {}
        }
        if effects.ends_import {
            tracing::info!(domid = domid.0, "served after its import");
        }
        effects.quiesced.into_iter().for_each(Share::done);
        effects.overtaken.into_iter().for_each(|share| share.failed(Errno::EAGAIN));
    }

    fn end_service(&mut self, domid: Domid) {
        let Some(&place) = self.rings.get(&domid) else { return };
        self.with_connection(place, |thread, connection| {
            if connection.parked.take_if(|parked| matches!(parked, Parked::Guard)).is_some() {
                // Others do not wait until it has written.
                thread.leave_turns(connection);
            }
            connection.is_quiesced = true;
            connection.outdate(thread.next_number());
            connection.output.forget_tickets();
            connection.trace(format_args!("quiesce"));
        });
    }

    fn begin_service(&mut self, domid: Domid) {
        let Some(&place) = self.rings.get(&domid) else { return };
        let Some(Some(connection)) = self.connections.get_mut(place) else { return };
        connection.is_quiesced = false;
        // It could not take them: it has all the time again.
        connection.output.renew_events(self.now);
        connection.trace(format_args!("unquiesce"));
        self.make_ready(place);
    }
}

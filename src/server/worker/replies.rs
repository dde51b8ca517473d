//! Replies for parked connections.

use super::Worker;
use super::delivery::send_post_reply;
use crate::server::mailbox::ReplyTo;
use crate::server::migration::quiesce::drain;
use crate::server::session::Pending;
use crate::types::Errno;

/// Queues the reply for which a connection is parked, and the post-reply events behind it. If its ring was released
/// meanwhile, the reply goes to the stream remainder, or to the ring's present connection, which has taken over the
/// number.
pub fn take_reply(worker: &mut Worker, reply_to: ReplyTo, result: Result<Vec<u8>, Errno>) {
    let result = result.as_deref().map_err(|errno| *errno);
    let mut slot = reply_to.connection;
    // After a RELEASE the slot may have another connection.
    if let Some(domid) = worker.domains.take_released(reply_to.id) {
        if let Some(remainder) = worker.domains.left_by_release(domid) {
            return remainder.replied(reply_to.id, result);
        }
        let Some(ring) = worker.clients.of_domain(domid) else { return };
        slot = ring;
    }
    // A parked connection is not being served, so it is in its slot unless it has ended.
    let mut quiesced = None;
    if let Some(connection) = worker.clients.get_mut(slot)
        && connection.session.reply_to.id == reply_to.id
    {
        let session = &mut connection.session;
        if let Some(header) = session.unpark(&worker.core) {
            session.reply(&header, result, None);
            send_post_reply(&mut worker.core, connection);
            // Requests behind the parked one were not read, and no notification will report them.
            if connection.session.pending == Pending::Nothing {
                connection.session.pending = Pending::Requests;
            }
        }
        let session = &connection.session;
        // The domain's last request is done, for which QUIESCE may have waited.
        quiesced = session.is_quiesced().then(|| session.domid());
    }
    if let Some(domid) = quiesced {
        drain(worker, domid);
    }
    worker.clients.make_ready(slot);
}

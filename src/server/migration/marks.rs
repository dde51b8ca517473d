//! Marks of exports: whether a domain is still as it was exported, so that RELEASE may end it here.

use super::move_request::Export;
use super::saved_connection::{quiesced, save_connection};
use crate::migration::stream::state::Client;
use crate::server::state::Event;
use crate::server::state::kept::{Elsewhere, Mark};
use crate::server::worker::Worker;
use crate::types::{Domid, Errno};

/// Gives an export of a domain its mark.
///
/// # Errors
/// As [`save_connection`]; `EAGAIN` also if the connection has another version by now.
pub fn mark(worker: &mut Worker, export: Export) -> Result<u64, Errno> {
    let Export { version, seen, by, to } = export;
    let domid = seen.domid;
    let elsewhere = if to.is_some() { Elsewhere::Exported } else { Elsewhere::No };
    // Unique for the domid, since all marks of a domain come from its owner thread.
    let number = worker.core.shared.marks_from.wrapping_add(worker.core.next_number());
    // An event or a watch since the export has changed the version: the stream lacks it.
    if quiesced(worker, domid)?.session.version() != version {
        return Err(Errno::EAGAIN);
    }
    worker.step_of(domid, Event::Exported(Mark { number, version, seen }, elsewhere))?;
    worker.domains.note(domid, &by, to);
    Ok(number)
}

/// Returns the connection that RELEASE with the mark of an export ends.
///
/// # Errors
/// `EAGAIN` if the mark is not valid for the present state.
pub fn leave(worker: &mut Worker, domid: Domid, number: u64) -> Result<Box<Client>, Errno> {
    // Copied only now and not kept since the export, so that a mark costs no copy of the output.
    let (client, version) = save_connection(worker, domid)?;
    let mark = worker.domains.mark_of(domid).ok_or(Errno::EAGAIN)?;
    if (mark.number, mark.version) != (number, version) {
        return Err(Errno::EAGAIN);
    }
    // The export holds the partitions, so any change has made new roots, and comparing pointers suffices.
    if !mark.seen.changed_in(&worker.core.shared.store).is_empty() {
        // The mark can never become valid again, so the memory of the snapshot is freed.
        worker.step_of(domid, Event::Outdated)?;
        return Err(Errno::EAGAIN);
    }
    Ok(Box::new(client))
}

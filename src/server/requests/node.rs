//! READ to SET_PERMS: translates the typed request to a store operation.

use std::borrow::Cow;

use super::context::{Outcome, RequestContext};
use super::transaction;
use crate::domain::{FEATURE_DOMID_ANY, Quota};
use crate::protocol::operations::NodeRequest;
use crate::protocol::{ReplySlot, Strings};
use crate::server::session::reservations::{Admission, await_reserved_path};
use crate::store::{LONG_PATH_BYTES, Op, StoreError, Verb};
use crate::sync::Arc;
use crate::types::{Domid, Entry, Errno, Path, PathSpace, PermSet, Perms};

/// Serves a request on a node, inside or outside a transaction.
pub fn serve(cx: &mut RequestContext<'_>, path: &[u8], request: NodeRequest<'_>) -> Outcome {
    let mut space = PathSpace::new();
    let op = match resolved(cx, path, request, &mut space) {
        Ok(op) => op,
        Err(errno) => {
            cx.reply(Err(errno));
            return Outcome::Used;
        }
    };
    if cx.header.tx_id.get() != 0 {
        return transaction::execute(cx, &op);
    }
    let writes = op.verb.writes();
    if writes && await_reserved_path(cx.core, cx.session, [op.path]) == Admission::Parked {
        return Outcome::Retry;
    }
    let path_bytes = op.path.bytes().len();
    if path_bytes >= LONG_PATH_BYTES {
        // A write copies every level. A path's level is a name, as in a replay.
        cx.core.work += path_bytes as u64 / 4;
    }
    // The store appends the payload to the output itself, so a value is not copied twice.
    let slot = ReplySlot::begin(cx.session.output.buffer(), cx.header);
    let out = cx.session.output.buffer();
    // The store is borrowed, not cloned: all threads would contend for its reference count with each request.
    match cx.core.shared.store.execute(cx.caller, &op, &mut cx.core.generations, out) {
        // Nothing has changed: the retry checks reserved paths in the present epoch.
        Err(StoreError::StaleEpoch | StoreError::NeedsLock(..)) => {
            slot.cancel(out);
            return Outcome::Retry;
        }
        Err(StoreError::Refused(errno)) => {
            let start = slot.finish(out, Err(errno));
            cx.session.replied(start, None);
        }
        Ok(executed) if !writes => {
            let start = slot.finish(out, Ok(()));
            cx.session.replied(start, executed.ticket);
        }
        // The OK may have to wait for the reaper, so `conclude` writes it.
        Ok(executed) => {
            slot.cancel(out);
            cx.conclude(executed);
        }
    }
    Outcome::Used
}

/// Translates a request on a node to a store operation.
fn resolved<'a>(
    cx: &RequestContext<'_>,
    path: &'a [u8],
    request: NodeRequest<'a>,
    space: &'a mut PathSpace,
) -> Result<Op<'a>, Errno> {
    let path = cx.session.resolve(cx.core, path, space);
    let verb = match request {
        NodeRequest::Read => Verb::Read,
        NodeRequest::Directory => Verb::Directory,
        NodeRequest::DirectoryPart(offset) => Verb::DirectoryPart(offset as usize),
        NodeRequest::GetPerms => Verb::GetPerms,
        NodeRequest::Write(value) => Verb::Write(Cow::Borrowed(value)),
        NodeRequest::Mkdir => Verb::Mkdir,
        NodeRequest::Rm => Verb::Rm,
        NodeRequest::SetPerms(entries) => Verb::SetPerms(perms(cx, entries, path.ok())?),
    };
    Ok(Op { path: path?, verb })
}

/// Parses the entries of SET_PERMS. An entry for a domain that exists on the host makes the domain known, since
/// toolstacks set permissions before they introduce; domids without a domain get no rights in advance (XSA-417). The
/// clock is read after that, since an entry applies only if its stamp is not before the domain's birth.
fn perms(
    cx: &RequestContext<'_>,
    entries: Strings<'_>,
    path: Option<Path<'_>>,
) -> Result<Perms, Errno> {
    let entries: Vec<_> = entries.collect();
    if entries.is_empty() {
        return Err(Errno::EINVAL);
    }
    let registry = cx.core.registry();
    if !registry.permits(&cx.caller.domain, Quota::NodePermissions, entries.len(), path) {
        return Err(Errno::ENOSPC);
    }
    let parse = |text: &&[u8]| {
        let mut entry = Entry::parse(text)?;
        if entry.domid == Domid::ANY {
            entry.ignored = cx.session.domain.features() & FEATURE_DOMID_ANY == 0;
        } else {
            // If there is no such domain the entry stays, but never applies: its stamp precedes every later birth.
            cx.core.shared.known_domain(entry.domid);
        }
        Ok(entry)
    };
    let entries: Vec<Entry> = entries.iter().map(parse).collect::<Result<_, Errno>>()?;
    let (owner, others) = entries.split_first().ok_or(Errno::EINVAL)?;
    Ok(Arc::new(PermSet::new(registry.now(), *owner, others)))
}

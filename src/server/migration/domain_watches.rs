//! GET_DOMAIN_WATCHES and ADD_DOMAIN_WATCHES, on the domain's owner thread.

use crate::protocol::escape;
use crate::protocol::operations::{Form, NewWatch, WatchColumns, WatchListing};
use crate::server::session::Session;
use crate::server::session::core::Core;
use crate::server::session::watches::Watch;
use crate::server::worker::clients::Clients;
use crate::sync::Arc;
use crate::types::{Domid, Errno, PAYLOAD_BYTES_MAX};

/// Returns the part of a domain's watches that begins at `index` and fits into a reply. Cost: linear in that part; the
/// first time after removals, in all watches of the domain.
pub fn list_watches(
    clients: &mut Clients,
    domid: Domid,
    index: usize,
    listing: WatchListing,
) -> Result<Vec<u8>, Errno> {
    let slot = clients.of_domain(domid).ok_or(Errno::ENOENT)?;
    let connection = clients.get_mut(slot).ok_or(Errno::ENOENT)?;
    let watches = &mut connection.session.watches;
    let mut reply = Vec::new();
    // First, so that a client that reads page by page notices that the list has changed.
    append(listing.form, &mut reply, &[watches.generation().to_string().as_bytes()]);
    let head = reply.len();
    let is_text = listing.form == Form::Text;
    // The text form is one string, so it needs room for its NUL.
    let room = PAYLOAD_BYTES_MAX - usize::from(is_text);
    for watch in watches.in_order(index) {
        let end = reply.len();
        append_watch(listing, &mut reply, watch);
        if reply.len() > room {
            reply.truncate(end);
            if end == head {
                // An empty list would mean the end of all watches. The client continues at the next index
                // (docs/PROTOCOL-EXTENSIONS.md).
                return Err(Errno::E2BIG);
            }
            break;
        }
    }
    if is_text {
        reply.push(0);
    }
    Ok(reply)
}

/// Adds watches as if the domain had set them: either all, and each fires once, or none.
pub fn add_watches(
    core: &mut Core,
    clients: &mut Clients,
    domid: Domid,
    watches: &[NewWatch],
) -> Result<(), Errno> {
    let slot = clients.of_domain(domid).ok_or(Errno::ENOENT)?;
    let connection = clients.get_mut(slot).ok_or(Errno::ENOENT)?;
    let added = add_all(core, &mut connection.session, watches);
    // Also after a failure: some of the watches may have been set and removed again.
    connection.session.outdate(core.next_number());
    clients.make_ready(slot);
    added
}

fn add_all(core: &mut Core, session: &mut Session, watches: &[NewWatch]) -> Result<(), Errno> {
    // With the domain's own rights and quotas, not those of the client.
    let caller = session.take_caller(core);
    let (mut added, mut result) = (Vec::new(), Ok(()));
    for watch in watches {
        match session.add_watch(core, &caller, (&*watch.path, &*watch.token, watch.depth)) {
            Ok(id) => added.push(id),
            Err(errno) => {
                result = Err(errno);
                break;
            }
        }
    }
    // Only now: a request that is refused must have no effect, and an event could not be taken back.
    for id in added {
        if result.is_ok() {
            session.fire_once(core, id);
        } else if let Some(watch) = session.watches.get(id) {
            let (path, token) = (Arc::clone(&watch.path), watch.token.clone());
            // The watch was added just now, so it is found.
            let _ = session.remove_watch(core, path.as_path(), &token);
        }
    }
    result
}

/// Appends one record: NUL-terminated strings, or a line of words.
fn append(form: Form, out: &mut Vec<u8>, strings: &[&[u8]]) {
    let (between, end) = match form {
        Form::Strings => (0, 0),
        Form::Text => (b' ', b'\n'),
    };
    for (at, string) in strings.iter().enumerate() {
        out.extend_from_slice(string);
        out.push(if at + 1 == strings.len() { end } else { between });
    }
}

fn append_watch(listing: WatchListing, out: &mut Vec<u8>, watch: &Watch) {
    let path = watch.shown(watch.path.as_path().bytes());
    let escaped;
    let token = match listing.form {
        Form::Strings => &*watch.token,
        Form::Text => {
            escaped = escape(&watch.token);
            escaped.as_bytes()
        }
    };
    let depth = watch.depth.map_or(String::new(), |depth| depth.to_string());
    let strings = [path, token, depth.as_bytes()];
    append(
        listing.form,
        out,
        match listing.columns {
            WatchColumns::PathToken => &strings[..2],
            WatchColumns::PathTokenDepth => &strings,
        },
    );
}

//! GET_DOMAIN_WATCHES and ADD_DOMAIN_WATCHES, on the domain's home thread.

use super::super::connection::Connection;
use super::super::thread::Thread;
use super::super::watches::Watch;
use crate::protocol::escape;
use crate::protocol::operations::{Form, NewWatch, WatchColumns, WatchListing};
use crate::sync::Arc;
use crate::words::{Domid, Errno, PAYLOAD_BYTES_MAX};

impl Thread {
    /// The part of a domain's watches that begins at `index` and fits into a reply. Cost: that part;
    /// the first time after removals the number of its watches.
    pub(in crate::shard) fn list_watches(
        &mut self,
        domid: Domid,
        index: usize,
        listing: WatchListing,
    ) -> Result<Vec<u8>, Errno> {
        let place = self.rings.get(&domid).ok_or(Errno::ENOENT)?;
        let slot = self.connections.get_mut(*place).and_then(Option::as_mut);
        let watches = &mut slot.ok_or(Errno::ENOENT)?.watches;
        let mut reply = Vec::new();
        append(listing.form, &mut reply, &[watches.generation().to_string().as_bytes()]);
        let head = reply.len();
        let is_text = listing.form == Form::Text;
        // A text is a string as a whole.
        let room = PAYLOAD_BYTES_MAX - usize::from(is_text);
        for watch in watches.in_order(index) {
            let end = reply.len();
            append_watch(listing, &mut reply, watch);
            if reply.len() > room {
                reply.truncate(end);
                if end == head {
                    // An empty list would say that this is the end.
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

    /// Sets watches as if the domain had: all of them, and each fires once; or none.
    pub(in crate::shard) fn add_watches(
        &mut self,
        domid: Domid,
        watches: &[NewWatch],
    ) -> Result<(), Errno> {
        let place = *self.rings.get(&domid).ok_or(Errno::ENOENT)?;
        let added = self.with_connection(place, |thread, connection| {
            let result = thread.add_all(connection, watches);
            connection.outdate(thread.next_number());
            result
        });
        self.make_ready(place);
        added.ok_or(Errno::ENOENT)?
    }

    fn add_all(&mut self, connection: &mut Connection, watches: &[NewWatch]) -> Result<(), Errno> {
        let caller = self.caller(connection);
        let add = |watch: &NewWatch| {
            let watch = (&*watch.path, &*watch.token, watch.depth);
            self.add_watch(connection, &caller, watch)
        };
        let (mut added, mut result) = (Vec::new(), Ok(()));
        for id in watches.iter().map(add) {
            match id {
                Ok(id) => added.push(id),
                Err(errno) => {
                    result = Err(errno);
                    break;
                }
            }
        }
        for id in added {
            if result.is_ok() {
                self.fire_once(connection, id);
            } else if let Some(watch) = connection.watches.get(id) {
                let (path, token) = (Arc::clone(&watch.path), watch.token.clone());
                // It is there, since it was added just now.
                let _ = self.remove_watch(connection, path.as_path(), &token);
            }
        }
        result
    }
}

/// Appends what belongs together: strings, or a line of words.
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

//! GET_DOMAIN_WATCHES and ADD_DOMAIN_WATCHES, on the domain's home thread.

use std::fmt::Write;

use super::thread::Thread;
use super::watches::Watch;
use crate::sync::Arc;
use crate::words::{Domid, Errno, PAYLOAD_BYTES_MAX};

/// A watch to be set on a domain's behalf, as the domain would write it.
pub struct NewWatch {
    /// Absolute, relative or special.
    pub path: Box<[u8]>,
    /// The domain's own name for it.
    pub token: Box<[u8]>,
    /// See [`crate::watch::Entry::depth`].
    pub depth: Option<u16>,
}

/// How a list of watches is written.
#[derive(Clone, Copy)]
pub struct Listing {
    /// For people and scripts: a line for each, the token's odd bytes as `\xhh`. Else strings with
    /// a NUL each.
    pub is_text: bool,
    /// With the depth of each.
    pub has_depth: bool,
}

impl Thread {
    /// The part of a domain's watches that begins at `index` and fits into a reply. Cost: that part;
    /// the first time after removals the number of its watches.
    pub(super) fn list_watches(
        &mut self,
        domid: Domid,
        index: usize,
        listing: Listing,
    ) -> Result<Vec<u8>, Errno> {
        let place = self.rings.get(&domid).ok_or(Errno::ENOENT)?;
        let slot = self.connections.get_mut(*place).and_then(Option::as_mut);
        let watches = &mut slot.ok_or(Errno::ENOENT)?.watches;
        let mut reply = Vec::new();
        listing.append(&mut reply, &[watches.generation().to_string().as_bytes()]);
        let head = reply.len();
        // A text is a string as a whole.
        let room = PAYLOAD_BYTES_MAX - usize::from(listing.is_text);
        for watch in watches.in_order(index) {
            let end = reply.len();
            listing.append_watch(&mut reply, watch);
            if reply.len() > room {
                reply.truncate(end);
                if end == head {
                    // An empty list would say that this is the end.
                    return Err(Errno::E2BIG);
                }
                break;
            }
        }
        if listing.is_text {
            reply.push(0);
        }
        Ok(reply)
    }

    /// Sets watches as if the domain had: all of them, and each fires once; or none.
    pub(super) fn add_watches(&mut self, domid: Domid, watches: &[NewWatch]) -> Result<(), Errno> {
        let place = *self.rings.get(&domid).ok_or(Errno::ENOENT)?;
        let slot = self.connections.get_mut(place).and_then(Option::take);
        let mut connection = slot.ok_or(Errno::ENOENT)?;
        let caller = self.caller(&mut connection);
        let add = |watch: &NewWatch| {
            let watch = (&*watch.path, &*watch.token, watch.depth);
            self.add_watch(place, &mut connection, &caller, watch)
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
                self.fire_once(&mut connection, id);
            } else if let Some(watch) = connection.watches.get(id) {
                let (path, token) = (Arc::clone(&watch.path), watch.token.clone());
                // It is there, since it was added just now.
                let _ = self.remove_watch(place, &mut connection, path.as_path(), &token);
            }
        }
        connection.outdate(self.next_number());
        self.connections[place] = Some(connection);
        self.make_ready(place);
        result
    }
}

impl Listing {
    /// Writes what belongs together: strings, or a line of words.
    fn append(self, out: &mut Vec<u8>, strings: &[&[u8]]) {
        let (between, end) = if self.is_text { (b' ', b'\n') } else { (0, 0) };
        for (at, string) in strings.iter().enumerate() {
            out.extend_from_slice(string);
            out.push(if at + 1 == strings.len() { end } else { between });
        }
    }

    fn append_watch(self, out: &mut Vec<u8>, watch: &Watch) {
        let path = watch.shown(watch.path.as_path().bytes());
        let escaped;
        let token = if self.is_text {
            escaped = escape(&watch.token);
            escaped.as_bytes()
        } else {
            &watch.token
        };
        let depth = watch.depth.map_or(String::new(), |depth| depth.to_string());
        let strings = [path, token, depth.as_bytes()];
        self.append(out, if self.has_depth { &strings } else { &strings[..2] });
    }
}

/// Makes one word of any token.
fn escape(token: &[u8]) -> String {
    let mut word = String::with_capacity(token.len());
    for &byte in token {
        if byte.is_ascii_graphic() && byte != b'\\' {
            word.push(char::from(byte));
        } else {
            // A string takes every write.
            let _ = write!(word, "\\x{byte:02x}");
        }
    }
    word
}

/// Takes `\xhh` back, wherever it stands.
///
/// # Errors
/// `EINVAL` for any other use of a backslash, and for a NUL.
pub fn unescape(word: &[u8]) -> Result<Box<[u8]>, Errno> {
    let mut pieces = word.split(|&byte| byte == b'\\');
    let mut token = pieces.next().unwrap_or_default().to_vec();
    for piece in pieces {
        let (code, rest) = piece.split_at_checked(3).ok_or(Errno::EINVAL)?;
        let digits = code.strip_prefix(b"x").and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        token.push(byte.filter(|&byte| byte != 0).ok_or(Errno::EINVAL)?);
        token.extend_from_slice(rest);
    }
    Ok(token.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_a_word_and_comes_back() {
        let all: Vec<u8> = (1..=255).collect();
        for token in [&b""[..], b"plain", b" \n\t\\", b"\\x41", &all] {
            let word = escape(token);
            assert!(word.bytes().all(|byte| byte.is_ascii_graphic()), "{word}");
            assert_eq!(unescape(word.as_bytes()).as_deref(), Ok(token));
        }
        for bad in ["\\", "\\x4", "\\n11", "\\xg0", "\\x+1", "\\x00", "a\\\\x41"] {
            assert_eq!(unescape(bad.as_bytes()), Err(Errno::EINVAL), "{bad}");
        }
    }
}

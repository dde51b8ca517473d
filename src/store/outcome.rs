//! The replies in a transaction's log, in the form that a comparison needs.

use std::hash::{BuildHasher, RandomState};

use siphasher::sip128::SipHasher13;

use super::op::Verb;
use crate::types::Errno;

/// A reply of at most this length is kept itself, a longer one as a keyed hash of the same size, 128 bits, for which
/// a guest cannot construct a collision.
const REPLY_KEPT_BYTES: usize = 16;

/// A reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An error.
    Refused(Errno),
    /// A payload: its length, and its bytes or their hash.
    Replied(usize, [u8; REPLY_KEPT_BYTES]),
}

/// The key of the hashes of long replies. Random in each daemon: guests choose the hashed replies, and a known key would
/// let one construct two that compare equal. A live update keeps the key, as the logs keep the hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyKey(pub [u8; 16]);

impl ReplyKey {
    /// Returns a random key. The system's generator seeds the keys of std's hash maps.
    pub fn random() -> ReplyKey {
        let halves = [RandomState::new().hash_one(0), RandomState::new().hash_one(1)];
        ReplyKey((u128::from(halves[0]) << 64 | u128::from(halves[1])).to_le_bytes())
    }
}

impl Outcome {
    /// Returns whether the reply is an error.
    pub fn is_refused(self) -> bool {
        matches!(self, Outcome::Refused(_))
    }

    /// Reduces a reply to a form for later comparison. DIRECTORY_PART's generation is omitted: it changes with things
    /// that the list does not show, such as the directory's value.
    pub fn of(verb: &Verb<'_>, result: Result<(), Errno>, reply: &[u8], key: &ReplyKey) -> Outcome {
        if let Err(errno) = result {
            return Outcome::Refused(errno);
        }
        let shown = match verb {
            Verb::DirectoryPart(_) => {
                let end = reply.iter().position(|&byte| byte == 0).unwrap_or(0);
                &reply[end..]
            }
            _ => reply,
        };
        // The length is compared too, so the padding makes no two replies equal.
        let mut kept = [0; REPLY_KEPT_BYTES];
        match kept.get_mut(..shown.len()) {
            Some(kept) => kept.copy_from_slice(shown),
            None => kept = SipHasher13::new_with_key(&key.0).hash(shown).as_bytes(),
        }
        Outcome::Replied(shown.len(), kept)
    }
}

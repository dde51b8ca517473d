//! An output as data, with which another process goes on.

use std::hash::{BuildHasher, Hasher};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Output, PendingEvent};

/// What the unsent bytes of an output do not show: which of their messages are events that may be merged or dropped,
/// and where the replies end that count as outstanding. Positions count from the first unsent byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedOutput {
    events: Vec<(u32, u32)>,
    replies: Vec<u32>,
}

impl Output {
    /// Returns the output as data, beside its unsent bytes ([`Output::unsent_with_begun`]). Cost: linear in its events
    /// and replies.
    pub fn save(&self) -> SavedOutput {
        let from = self.position();
        // Bounded by the limits of outputs, far below this type's range.
        let at = |position: u64| u32::try_from(position.saturating_sub(from)).unwrap_or(u32::MAX);
        SavedOutput {
            events: self.events.iter().map(|event| (at(event.start), at(event.end))).collect(),
            replies: self.replies.iter().map(|(end, _)| at(*end)).collect(),
        }
    }

    /// Returns what [`Output::unsent_with_begun`] returns of an output that stays as it is.
    pub fn clone_unsent(&self) -> (u16, Vec<u8>) {
        let (bytes, sent, begun) = (self.bytes.clone(), self.sent, self.begun);
        Output { bytes, sent, begun, ..Output::default() }.unsent_with_begun()
    }

    /// Returns the output of another process. The timeouts of its events begin at `now`, and neither events nor replies
    /// hold back the domains that caused them: their tickets ended with that process. Positions that are not in
    /// `bytes` are left out. Cost: linear in the bytes of events.
    pub fn restore(bytes: Vec<u8>, begun: u16, saved: &SavedOutput, now: Instant) -> Output {
        let mut output = Output::of(bytes, begun);
        for &(start, end) in &saved.events {
            let range = start as usize..end as usize;
            let Some(event) = output.bytes.get(range) else { continue };
            let mut hasher = output.pending.hasher().build_hasher();
            hasher.write(event);
            let hash = hasher.finish();
            let (start, end) = (u64::from(start), u64::from(end));
            output.pending.insert(hash, start);
            output.events.push_back(PendingEvent { start, end, hash, queued: now, _load: None });
        }
        let is_inside = |end: &&u32| **end as usize <= output.bytes.len();
        output.replies =
            saved.replies.iter().filter(is_inside).map(|&end| (u64::from(end), None)).collect();
        output
    }
}

//! The output of one client: replies and events in one stream, in order.

pub mod saved;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::time::Instant;

use foldhash::fast::RandomState;

use crate::domain::{Load, Ticket};
use crate::protocol::{Frame, append_event, frame};
use crate::sync::Arc;

/// Sent bytes are freed once there are this many: the cost of moving the rest is amortised.
const COMPACT_BYTES: usize = 1 << 16;

/// The memory of an event in addition to its bytes, until the event is visible to the client: an element of the queue
/// of events and one of the table that merges equal ones. Each of these tables is at most half empty, a quarter on
/// average.
const EVENT_BYTES: usize = (size_of::<PendingEvent>() + size_of::<(u64, u64)>() + 1) / 3 * 4;

/// A stream of messages to be sent. Positions count bytes from the beginning of the connection.
#[derive(Default)]
pub struct Output {
    bytes: Vec<u8>,
    /// The number of bytes in `bytes` that are sent.
    sent: usize,
    /// The number of bytes in `bytes` that complete a message whose beginning was sent by another host.
    begun: usize,
    /// The position of `bytes[0]`.
    base: u64,
    /// Events without any sent byte, oldest first.
    events: VecDeque<PendingEvent>,
    /// The positions of these events by the hashes of their bytes, to merge equal ones.
    pending: HashMap<u64, u64, RandomState>,
    /// Undelivered replies, oldest first: the position of each one's end, and the ticket of its request.
    replies: VecDeque<(u64, Option<Arc<Ticket>>)>,
}

struct PendingEvent {
    start: u64,
    end: u64,
    hash: u64,
    queued: Instant,
    // Held until the event is sent or dropped, or the session is quiesced.
    _load: Option<Load>,
}

impl Output {
    /// Returns the number of unsent bytes.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Returns whether everything is sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the unsent bytes.
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Returns the buffer to which replies are appended.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Returns the bytes of the buffer from the index `start`.
    pub fn queued_from(&self, start: usize) -> &[u8] {
        self.bytes.get(start..).unwrap_or_default()
    }

    /// Returns the number of bytes sent since the connection began.
    pub fn position(&self) -> u64 {
        self.base + self.sent as u64
    }

    /// Returns the number of events without any sent byte.
    pub fn pending_events(&self) -> usize {
        self.events.len()
    }

    /// Returns the memory of the output in bytes. Small events take more in the tables than in the stream.
    pub fn charge_bytes(&self) -> u64 {
        (self.len() + self.events.len() * EVENT_BYTES) as u64
    }

    fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// Records that the reply to a request was appended; the request counts as outstanding until the reply is
    /// delivered.
    pub fn note_reply(&mut self, ticket: Option<Arc<Ticket>>) {
        self.replies.push_back((self.end(), ticket));
    }

    /// Returns the number of undelivered replies without a ticket. Requests with a ticket count in the domain's
    /// account.
    pub fn plain_replies(&self) -> usize {
        self.replies.iter().filter(|(_, ticket)| ticket.is_none()).count()
    }

    /// Queues an event, unless an equal one without any sent byte is pending. Returns the number of bytes added: none
    /// also for an event longer than a message, which is dropped (XSA-324).
    pub fn push_event(&mut self, path: &[u8], token: &[u8], now: Instant) -> usize {
        let start = self.bytes.len();
        if !append_event(&mut self.bytes, path, token) {
            return 0;
        }
        let added = self.bytes.len() - start;
        let mut hasher = self.pending.hasher().build_hasher();
        hasher.write(&self.bytes[start..]);
        let hash = hasher.finish();
        // The table has hashes only: the bytes are in the stream, and a copy would double the memory of events.
        if let Some(&position) = self.pending.get(&hash) {
            // A pending event has no sent byte, so it never begins before `base`.
            let at = usize::try_from(position - self.base).unwrap_or(usize::MAX);
            // Hashes may collide. In this case both events stay, and the table has only the later one.
            let equal = self.bytes.get(at..at + added) == Some(&self.bytes[start..]);
            if equal {
                self.bytes.truncate(start);
                return 0;
            }
        }
        let start = self.base + start as u64;
        self.pending.insert(hash, start);
        self.events.push_back(PendingEvent {
            start,
            end: self.end(),
            hash,
            queued: now,
            _load: None,
        });
        added
    }

    /// Keeps the load of the last event's cause until that event is sent.
    pub fn hold_back(&mut self, load: Load) {
        if let Some(event) = self.events.back_mut() {
            event._load = Some(load);
        }
    }

    /// Records that `len` more bytes were sent, and are visible to the client.
    pub fn advance(&mut self, len: usize) {
        self.sent += len;
        let visible = self.position();
        // A partly sent event can no longer be merged or dropped without breaking the framing.
        while self.events.front().is_some_and(|event| event.start < visible) {
            self.forget_first();
        }
        while self.replies.front().is_some_and(|(end, _)| *end <= visible) {
            self.replies.pop_front();
        }
        if self.sent == self.bytes.len() {
            self.base = visible;
            self.bytes.clear();
            (self.sent, self.begun) = (0, 0);
        } else if self.sent > COMPACT_BYTES {
            self.compact();
        }
    }

    /// Frees sent bytes, up to the message that is partly sent. The beginning of that message stays, since its header
    /// has the length.
    fn compact(&mut self) {
        // The partly sent message is the one that another host began.
        if self.sent < self.begun {
            return;
        }
        let mut boundary = std::mem::take(&mut self.begun);
        while let Frame::Message { rest, .. } = frame(&self.bytes[boundary..]) {
            let end = self.bytes.len() - rest.len();
            if end > self.sent {
                break;
            }
            boundary = end;
        }
        self.bytes.drain(..boundary);
        self.base += boundary as u64;
        self.sent -= boundary;
    }

    fn forget_first(&mut self) {
        let Some(event) = self.events.pop_front() else { return };
        if self.pending.get(&event.hash) == Some(&event.start) {
            self.pending.remove(&event.hash);
        }
    }

    /// Returns the unsent bytes, and how many at their beginning complete a message that is partly sent.
    pub fn unsent_with_begun(&mut self) -> (u16, Vec<u8>) {
        // So that the buffer begins with the message that is partly sent.
        self.compact();
        let begun = match frame(&self.bytes) {
            _ if self.begun > 0 => self.begun - self.sent,
            Frame::Message { rest, .. } if self.sent > 0 => self.len() - rest.len(),
            _ => 0,
        };
        (u16::try_from(begun).unwrap_or(0), self.unsent().to_vec())
    }

    /// Creates the output from the result of [`Output::unsent_with_begun`] on another host. The replies of this output
    /// do not count as outstanding, and its events are neither merged nor dropped.
    pub fn of(bytes: Vec<u8>, begun: u16) -> Output {
        Output { begun: usize::from(begun).min(bytes.len()), bytes, ..Output::default() }
    }

    /// Frees the memory of a burst once the client has everything.
    pub fn shrink(&mut self, keep: usize) {
        if self.bytes.is_empty() && self.bytes.capacity() > keep {
            self.bytes = Vec::new();
        }
    }

    /// Returns when the oldest event without any sent byte was queued.
    pub fn oldest_event(&self) -> Option<Instant> {
        self.events.front().map(|event| event.queued)
    }

    /// Restarts the timeouts of the events.
    pub fn renew_events(&mut self, now: Instant) {
        self.events.iter_mut().for_each(|event| event.queued = now);
    }

    /// Drops the tickets of the events, which no longer hold back the domains that caused them.
    pub fn forget_tickets(&mut self) {
        self.events.iter_mut().for_each(|event| event._load = None);
    }

    /// Drops the events queued before `deadline`, except one that is partly sent, and returns their number.
    pub fn drop_events_before(&mut self, deadline: Instant) -> usize {
        self.drop_events_if(|queued| queued < deadline)
    }

    fn drop_events_if(&mut self, drops: impl Fn(Instant) -> bool) -> usize {
        let mut kept = Vec::with_capacity(self.bytes.len());
        let mut copied = 0;
        let mut dropped = 0;
        let mut events = std::mem::take(&mut self.events);
        let mut replies = std::mem::take(&mut self.replies);
        let old_base = self.base;
        self.pending.clear();
        let at = |position: u64| usize::try_from(position - old_base).unwrap_or(0);
        for mut event in events.drain(..) {
            if drops(event.queued) {
                // Keep everything up to the event, and skip it; later positions move.
                kept.extend_from_slice(&self.bytes[copied..at(event.start)]);
                copied = at(event.end);
                dropped += 1;
                // The position after the removal of the earlier events, to which the replies have been moved already.
                let (start, gap) = (old_base + kept.len() as u64, event.end - event.start);
                for (end, _) in replies.iter_mut().filter(|(end, _)| *end > start) {
                    *end -= gap;
                }
            } else {
                let moved = (copied - kept.len()) as u64;
                event.start -= moved;
                event.end -= moved;
                self.pending.insert(event.hash, event.start);
                self.events.push_back(event);
            }
        }
        kept.extend_from_slice(&self.bytes[copied..]);
        self.bytes = kept;
        self.replies = replies;
        dropped
    }

    /// Drops the events without any sent byte. Replies stay, and so does the stream's framing.
    pub fn drop_events(&mut self) {
        self.drop_events_if(|_| true);
    }

    /// Returns the output for a connection that takes over the ring, from the beginning of the message that is partly
    /// sent. The replies of this output do not count as outstanding.
    pub fn remainder(mut self) -> Output {
        self.compact();
        Output { bytes: self.bytes, sent: self.sent, begun: self.begun, ..Output::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_events_merge_until_the_first_is_visible() {
        let mut output = Output::default();
        let now = Instant::now();
        let len = output.push_event(b"/a", b"t", now);
        assert_eq!(output.push_event(b"/a", b"t", now), 0);
        assert!(output.push_event(b"/a", b"u", now) > 0);
        output.advance(1);
        assert_eq!(output.push_event(b"/a", b"t", now), len);
        assert_eq!(output.push_event(b"/a", b"u", now), 0);
    }

    #[test]
    fn small_events_are_charged_for_the_memory_they_use() {
        let now = Instant::now();
        for count in [10u32, 100, 1000, 3000, 5000] {
            let mut output = Output::default();
            (0..count).for_each(|i| _ = output.push_event(&i.to_le_bytes(), b"t", now));
            let places = output.events.capacity() * size_of::<PendingEvent>();
            // The table has one control byte per element, and an eighth of it stays free.
            let merged = output.pending.capacity() * 8 / 7 * (size_of::<(u64, u64)>() + 1);
            let taken = (output.len() + places + merged) as u64;
            let charged = output.charge_bytes();
            println!("{count} events: {taken} bytes, charged {charged}");
            assert!(taken <= charged / 4 * 5 + 4096, "{count} events take {taken} of {charged}");
            assert!(charged <= taken / 4 * 5 + 4096, "{count} events take {taken} of {charged}");
            output.advance(output.len());
            assert_eq!(output.charge_bytes(), 0);
        }
    }

    #[test]
    fn xsa_324_an_event_longer_than_a_message_is_dropped() {
        let mut output = Output::default();
        assert_eq!(output.push_event(&[b'a'; 3000], &[b'b'; 2000], Instant::now()), 0);
        assert!(output.is_empty());
    }

    #[test]
    fn reply_between_dropped_events_is_pending_until_its_last_byte() {
        let mut output = Output::default();
        let now = Instant::now();
        output.push_event(&[b'a'; 1000], b"t", now);
        for path in [b"/b", b"/c"] {
            output.push_event(path, b"t", now);
            output.buffer().extend_from_slice(b"reply");
            output.note_reply(None);
        }
        assert_eq!(output.drop_events_before(now + std::time::Duration::from_secs(1)), 3);
        assert_eq!(output.plain_replies(), 2);
        output.advance(5);
        assert_eq!(output.plain_replies(), 1);
        output.advance(5);
        assert_eq!(output.plain_replies(), 0);
    }

    #[test]
    fn partly_sent_message_counts_until_its_last_byte() {
        let mut output = Output::of(b"the rest".to_vec(), 8);
        output.advance(3);
        assert_eq!(output.unsent_with_begun(), (5, b" rest".to_vec()));
        output.advance(5);
        let len = output.push_event(b"/a", b"t", Instant::now());
        output.push_event(b"/b", b"t", Instant::now());
        output.advance(1);
        let (begun, unsent) = output.unsent_with_begun();
        assert_eq!((usize::from(begun), unsent.len()), (len - 1, 2 * len - 1));
    }

    #[test]
    fn dropping_events_keeps_replies_and_partly_sent_messages() {
        let mut output = Output::default();
        let now = Instant::now();
        let len = output.push_event(b"/a", b"t", now);
        output.advance(1);
        output.push_event(b"/b", b"t", now);
        output.buffer().extend_from_slice(b"reply");
        output.note_reply(None);
        output.push_event(b"/c", b"t", now);
        let later = now + std::time::Duration::from_secs(1);
        output.push_event(b"/d", b"t", later);
        assert_eq!(output.drop_events_before(later), 2);
        let mut expected = Vec::new();
        append_event(&mut expected, b"/a", b"t");
        expected.extend_from_slice(b"reply");
        append_event(&mut expected, b"/d", b"t");
        assert_eq!(output.unsent(), &expected[1..]);
        assert_eq!(output.push_event(b"/d", b"t", later), 0);
        output.advance(len - 1);
        assert_eq!(output.plain_replies(), 1);
        output.advance(5);
        assert_eq!(output.plain_replies(), 0);
    }
}

//! What waits to be sent to one client: replies and events in one stream, in order.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::time::Instant;

use foldhash::fast::RandomState;

use crate::domain::{Load, Ticket};
use crate::protocol::{Frame, append_event, frame};
use crate::sync::Arc;

/// Sent bytes are freed once there are so many: rarely enough that moving the rest costs nothing.
const COMPACT_BYTES: usize = 1 << 16;

/// What an event takes beside its bytes while the client has seen nothing of it: a place among the events and one in
/// the table that merges equal ones, each table at most half empty and a quarter so on average.
const EVENT_BYTES: usize = (size_of::<PendingEvent>() + size_of::<(u64, u64)>() + 1) / 3 * 4;

/// A stream of messages to be sent. Positions count bytes from the beginning of the connection.
#[derive(Default)]
pub struct Output {
    bytes: Vec<u8>,
    /// How many of `bytes` are sent already.
    sent: usize,
    /// How many of `bytes` are the rest of a message whose beginning was sent elsewhere.
    begun: usize,
    /// The position of `bytes[0]`.
    base: u64,
    /// Events that are not visible to the client yet, oldest first.
    events: VecDeque<PendingEvent>,
    /// The same by what they say, to merge equal ones: the position of each.
    pending: HashMap<u64, u64, RandomState>,
    /// Replies that are not delivered yet, oldest first: where each ends, and what its request
    /// still waits for.
    replies: VecDeque<(u64, Option<Arc<Ticket>>)>,
}

struct PendingEvent {
    start: u64,
    end: u64,
    hash: u64,
    queued: Instant,
    // Held until the event is read or dropped, while it can be.
    _load: Option<Load>,
}

impl Output {
    /// Bytes that are not sent yet.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether everything is sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes to be sent.
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// The buffer that replies are written to, behind everything else.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What was written to the buffer from a place in it on.
    pub fn queued_from(&self, start: usize) -> &[u8] {
        self.bytes.get(start..).unwrap_or_default()
    }

    /// How much was sent since the connection began.
    pub fn position(&self) -> u64 {
        self.base + self.sent as u64
    }

    /// How many events the client has seen nothing of.
    pub fn pending_events(&self) -> usize {
        self.events.len()
    }

    /// What the unsent bytes take, in bytes: small events take more beside these than in them.
    pub fn charge_bytes(&self) -> u64 {
        (self.len() + self.events.len() * EVENT_BYTES) as u64
    }

    fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// Notes that a reply was written, to a request that counts as outstanding until it is
    /// delivered.
    pub fn note_reply(&mut self, ticket: Option<Arc<Ticket>>) {
        self.replies.push_back((self.end(), ticket));
    }

    /// Undelivered replies whose requests wait for nothing else. Those that hold a ticket are
    /// counted in the domain's account.
    pub fn plain_replies(&self) -> usize {
        self.replies.iter().filter(|(_, ticket)| ticket.is_none()).count()
    }

    /// Queues an event, unless an equal one is pending that is not visible yet. Answers the bytes
    /// that it added.
    pub fn push_event(&mut self, path: &[u8], token: &[u8], now: Instant) -> usize {
        let start = self.bytes.len();
        if !append_event(&mut self.bytes, path, token) {
            return 0;
        }
        let added = self.bytes.len() - start;
        let mut hasher = self.pending.hasher().build_hasher();
        hasher.write(&self.bytes[start..]);
        let hash = hasher.finish();
        if let Some(&position) = self.pending.get(&hash) {
            let at = usize::try_from(position - self.base).unwrap_or(usize::MAX);
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

    /// Lets a guest's request wait for the event that was added last.
    pub fn hold_back(&mut self, load: Load) {
        if let Some(event) = self.events.back_mut() {
            event._load = Some(load);
        }
    }

    /// Notes that `len` bytes were sent: they are visible to the client now.
    pub fn advance(&mut self, len: usize) {
        self.sent += len;
        let visible = self.position();
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

    /// Frees what was sent, up to the message that the client has seen a part of.
    fn compact(&mut self) {
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

    /// What is not sent yet, and how many bytes at its beginning are the rest of a message that is
    /// partly sent.
    pub fn unsent_with_begun(&mut self) -> (u16, Vec<u8>) {
        self.compact();
        let begun = match frame(&self.bytes) {
            _ if self.begun > 0 => self.begun - self.sent,
            Frame::Message { rest, .. } if self.sent > 0 => self.len() - rest.len(),
            _ => 0,
        };
        (u16::try_from(begun).unwrap_or(0), self.unsent().to_vec())
    }

    /// What was not sent elsewhere, the other way round. Nothing of it counts as outstanding; its
    /// events are not merged or dropped.
    pub fn of(bytes: Vec<u8>, begun: u16) -> Output {
        Output { begun: usize::from(begun).min(bytes.len()), bytes, ..Output::default() }
    }

    /// Gives memory back that a burst took; called when a client has everything.
    pub fn shrink(&mut self, keep: usize) {
        if self.bytes.is_empty() && self.bytes.capacity() > keep {
            self.bytes = Vec::new();
        }
    }

    /// When the oldest event that is not visible yet was queued.
    pub fn oldest_event(&self) -> Option<Instant> {
        self.events.front().map(|event| event.queued)
    }

    /// Gives the time back that the events have waited.
    pub fn renew_events(&mut self, now: Instant) {
        self.events.iter_mut().for_each(|event| event.queued = now);
    }

    /// Those who caused the events wait for them no more.
    pub fn forget_tickets(&mut self) {
        self.events.iter_mut().for_each(|event| event._load = None);
    }

    /// Drops the events queued before `deadline` and answers how many. What the client has seen the
    /// beginning of stays.
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
                // Everything up to the event stays, the event goes; later positions move.
                kept.extend_from_slice(&self.bytes[copied..at(event.start)]);
                copied = at(event.end);
                dropped += 1;
                // Where the event would be now: what was dropped before it has moved the replies.
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

    /// Drops the events that are not visible to the client yet. Replies stay, and so does its stream.
    pub fn drop_events(&mut self) {
        self.drop_events_if(|_| true);
    }

    /// What a connection that takes over has to send: from the beginning of the message that is
    /// partly sent. Nothing of it counts as outstanding.
    pub fn carried(mut self) -> Output {
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
    fn small_events_are_charged_with_what_they_take() {
        let now = Instant::now();
        for count in [10u32, 100, 1000, 3000, 5000] {
            let mut output = Output::default();
            (0..count).for_each(|i| _ = output.push_event(&i.to_le_bytes(), b"t", now));
            let places = output.events.capacity() * size_of::<PendingEvent>();
            // A byte for each, and an eighth stays free.
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
    fn replies_between_dropped_events_are_delivered_with_their_last_byte() {
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
    fn the_rest_of_a_message_is_counted_until_it_is_sent() {
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
    fn dropping_events_leaves_replies_and_what_was_begun() {
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

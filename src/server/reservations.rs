//! The state machine of [reservations](super::session::reservations), without threads or clocks.
//!
//! ```text
//!          ask                     end, or RESERVATION_TIME_MAX
//!   Idle ---------> Transactions ---------------------------> Writers
//!     ^                   ^                                      |
//!     |                   | first in the queue                   | all came through,
//!     +-------------------+--------------------------------------+ or GAP_TIME_MAX
//!      if the queue is empty
//! ```
//!
//! There is one reservation at a time. Waiters hold no lock and the holder never waits, so deadlock is impossible.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use indexmap::IndexSet;

use super::mailbox::ReplyTo;
use crate::types::{Path, PathBuf};

/// The limit of a reservation, after which writers of the reserved paths proceed, whatever the reservation's client
/// does.
pub const RESERVATION_TIME_MAX: Duration = Duration::from_millis(50);
/// The time for which waiting writers precede the next reservation; each one's worker serves it in its next pass.
const GAP_TIME_MAX: Duration = Duration::from_millis(50);
/// The limit on connections that wait for a reservation; further transactions run without one. The whole queue is
/// searched for each request.
const WAITING_MAX: usize = 1024;

/// The reply to a request for a reservation.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// The connection has the reservation.
    Held,
    /// The connection has to wait until it is notified or until this time, and to ask again.
    Wait(Instant),
    /// The connection proceeds without a reservation.
    Refused,
}

/// The present reservation and the waiters.
#[derive(Default)]
pub struct Reservations {
    phase: Phase,
    /// Waiters for a reservation in FIFO order, with the paths to be reserved. FIFO, or one could be overtaken forever.
    queue: VecDeque<(ReplyTo, Vec<PathBuf>)>,
    /// Waiters that would write reserved paths: one entry for a connection. In a fixed order, so that runs of the
    /// simulator can be repeated.
    writers: IndexSet<ReplyTo, RandomState>,
    counts: Counts,
    /// Connections to be notified that they may proceed.
    woken: Vec<ReplyTo>,
}

/// Counters of reservations.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Reservations that began.
    pub begun: u64,
    /// Reservations that expired before their transactions ended.
    pub overdue: u64,
    /// Reservations to which further paths were added while they lasted.
    pub widened: u64,
    /// Paths reserved now.
    pub reserved: usize,
    /// Connections waiting for a reservation now.
    pub waiting: usize,
}

#[derive(Default)]
enum Phase {
    /// There is no reservation.
    #[default]
    Idle,
    /// Only `owner` may write nodes at, above or below one of `paths`.
    Transactions { owner: ReplyTo, paths: Vec<PathBuf>, until: Instant },
    /// The next reservation begins when these waiters have been served.
    Writers { left: IndexSet<ReplyTo, RandomState>, until: Instant },
}

impl Reservations {
    /// Ends the reservation and the gaps that have timed out by `now`. Must be called before and after every other
    /// operation.
    pub fn advance(&mut self, now: Instant) {
        // The next phase may be over already, such as a gap without waiters.
        loop {
            match &self.phase {
                Phase::Transactions { until, .. } if *until <= now => {
                    // From here on its END competes like any other.
                    self.counts.overdue += 1;
                    self.let_writers(now);
                }
                Phase::Writers { left, until } if left.is_empty() || *until <= now => {
                    self.next(now);
                }
                Phase::Idle if !self.queue.is_empty() => self.next(now),
                _ => return,
            }
        }
    }

    fn let_writers(&mut self, now: Instant) {
        // All waiting writers precede the next reservation, so each waits for one reservation, not for the whole queue.
        let left = std::mem::take(&mut self.writers);
        self.woken.extend(&left);
        self.phase = Phase::Writers { left, until: now + GAP_TIME_MAX };
    }

    fn next(&mut self, now: Instant) {
        self.phase = Phase::Idle;
        if let Some((owner, paths)) = self.queue.pop_front() {
            self.counts.begun += 1;
            self.woken.push(owner);
            self.phase = Phase::Transactions { owner, paths, until: now + RESERVATION_TIME_MAX };
        }
    }

    /// Requests a reservation of `paths`, and everything above and below them, for `reply_to`.
    pub fn ask(&mut self, reply_to: ReplyTo, paths: &[PathBuf], now: Instant) -> Claim {
        if !self.is_of(reply_to) && self.queue.iter().all(|(other, _)| *other != reply_to) {
            if self.queue.len() >= WAITING_MAX {
                return Claim::Refused;
            }
            self.queue.push_back((reply_to, paths.to_vec()));
            self.advance(now);
            // The caller learns of its own reservation by the return value.
            self.woken.retain(|woken| *woken != reply_to);
        }
        match &self.phase {
            Phase::Transactions { owner, .. } if *owner == reply_to => Claim::Held,
            // The end of the present phase, at which the connection asks again; not that of its wait.
            Phase::Transactions { until, .. } | Phase::Writers { until, .. } => Claim::Wait(*until),
            Phase::Idle => Claim::Refused,
        }
    }

    /// Returns whether `reply_to` has the reservation.
    pub fn is_of(&self, reply_to: ReplyTo) -> bool {
        matches!(&self.phase, Phase::Transactions { owner, .. } if *owner == reply_to)
    }

    /// Replaces the reserved paths, if `reply_to` has the reservation and they differ.
    pub fn widen(&mut self, reply_to: ReplyTo, wider: &[PathBuf]) {
        if let Phase::Transactions { owner, paths, .. } = &mut self.phase
            && *owner == reply_to
            && paths != wider
        {
            *paths = wider.to_vec();
            self.counts.widened += 1;
        }
    }

    /// Ends the reservation, if `reply_to` has it.
    pub fn end(&mut self, reply_to: ReplyTo, now: Instant) {
        if self.is_of(reply_to) {
            self.let_writers(now);
        }
    }

    /// Returns until when `reply_to` has to wait before it may write one of `paths`, and records it as a waiter; `None`
    /// if it may write now.
    pub fn wait<'p>(
        &mut self,
        reply_to: ReplyTo,
        paths: impl IntoIterator<Item = Path<'p>>,
    ) -> Option<Instant> {
        let Phase::Transactions { owner, paths: reserved, until } = &self.phase else {
            return None;
        };
        let overlap = |path: Path<'_>| {
            // Above, too: an RM or SET_PERMS there changes what the transaction reads.
            let overlaps = |reserved: &PathBuf| {
                let reserved = reserved.as_path();
                path.is_within(reserved) || reserved.is_within(path)
            };
            reserved.iter().any(overlaps)
        };
        // The owner's own writes pass, so it never waits for itself.
        if *owner == reply_to || !paths.into_iter().any(overlap) {
            return None;
        }
        self.writers.insert(reply_to);
        Some(*until)
    }

    /// Records that a waiter was served, whether it has written or not.
    pub fn came_through(&mut self, reply_to: ReplyTo) {
        if let Phase::Writers { left, .. } = &mut self.phase {
            left.swap_remove(&reply_to);
        }
    }

    /// Removes an ending connection. Cost: the length of the queue.
    pub fn leave(&mut self, reply_to: ReplyTo, now: Instant) {
        // From all places at once, as the caller does not know in which the connection is.
        self.queue.retain(|(other, _)| *other != reply_to);
        self.writers.swap_remove(&reply_to);
        self.came_through(reply_to);
        self.end(reply_to, now);
    }

    /// Returns whether any path is reserved.
    pub fn any_reserved(&self) -> bool {
        matches!(self.phase, Phase::Transactions { .. })
    }

    /// Returns the counters.
    pub fn counts(&self) -> Counts {
        let reserved = match &self.phase {
            Phase::Transactions { paths, .. } => paths.len(),
            _ => 0,
        };
        Counts { reserved, waiting: self.queue.len(), ..self.counts }
    }

    /// Takes the connections that may proceed and must be notified of it.
    pub fn take_woken(&mut self) -> Vec<ReplyTo> {
        std::mem::take(&mut self.woken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply_to(connection: usize) -> ReplyTo {
        ReplyTo { thread: 0, connection, id: 1 }
    }

    fn path(text: &str) -> PathBuf {
        Path::parse(text.as_bytes()).unwrap().to_buf()
    }

    fn writes(reservations: &mut Reservations, connection: usize, text: &str) -> bool {
        reservations.wait(reply_to(connection), [path(text).as_path()]).is_none()
    }

    #[test]
    fn reservations_are_fifo_with_writers_in_between() {
        let (mut reservations, now) = (Reservations::default(), Instant::now());
        assert_eq!(reservations.ask(reply_to(1), &[path("/a")], now), Claim::Held);
        assert!(matches!(reservations.ask(reply_to(2), &[path("/b")], now), Claim::Wait(_)));
        assert!(matches!(reservations.ask(reply_to(3), &[path("/a/x")], now), Claim::Wait(_)));
        reservations.take_woken();
        for (text, writes_it) in [("/a", false), ("/a/x", false), ("/", false), ("/b", true)] {
            assert_eq!(writes(&mut reservations, 9, text), writes_it, "{text}");
            assert!(writes(&mut reservations, 1, text), "a holder may write its reserved paths");
        }
        reservations.end(reply_to(1), now);
        reservations.advance(now);
        assert_eq!(
            reservations.take_woken(),
            [reply_to(9)],
            "the waiting writer is woken before the next reservation"
        );
        assert!(!reservations.is_of(reply_to(2)) && writes(&mut reservations, 9, "/a"));
        reservations.came_through(reply_to(9));
        reservations.advance(now);
        assert!(reservations.is_of(reply_to(2)) && !writes(&mut reservations, 9, "/b"));
        reservations.leave(reply_to(9), now);
        reservations.leave(reply_to(2), now);
        reservations.advance(now);
        assert!(reservations.is_of(reply_to(3)));
        reservations.end(reply_to(3), now);
        reservations.advance(now);
        assert!(
            !reservations.any_reserved()
                && reservations.counts() == Counts { begun: 3, ..Counts::default() }
        );
    }

    #[test]
    fn idle_reservation_times_out() {
        let (mut reservations, now) = (Reservations::default(), Instant::now());
        reservations.ask(reply_to(1), &[path("/a")], now);
        reservations.ask(reply_to(2), &[path("/a")], now);
        assert!(!writes(&mut reservations, 9, "/a"));
        reservations.advance(now + RESERVATION_TIME_MAX);
        assert!(!reservations.is_of(reply_to(1)) && writes(&mut reservations, 9, "/a"));
        // The writer is not served either.
        let later = now + RESERVATION_TIME_MAX + GAP_TIME_MAX;
        reservations.advance(later);
        assert!(reservations.is_of(reply_to(2)) && !writes(&mut reservations, 9, "/a"));
        reservations.end(reply_to(1), later);
        assert!(
            reservations.is_of(reply_to(2)),
            "ending an expired reservation does not end the next"
        );
        assert_eq!(reservations.counts().overdue, 1);
    }

    #[test]
    fn waiters_beyond_the_limit_get_no_reservation() {
        let (mut reservations, now) = (Reservations::default(), Instant::now());
        reservations.ask(reply_to(0), &[path("/a")], now);
        for connection in 1..=WAITING_MAX {
            for _ in 0..2 {
                assert!(matches!(reservations.ask(reply_to(connection), &[], now), Claim::Wait(_)));
            }
        }
        assert_eq!(reservations.ask(reply_to(WAITING_MAX + 1), &[], now), Claim::Refused);
        assert_eq!(reservations.counts().waiting, WAITING_MAX);
    }
}

//! The ring scan: serves guests that write to their ring and do not notify.
//!
//! Xenstored serves a ring when its event channel fires. Some old drivers leave the notification out;
//! C's daemon hides that by looking at every ring whenever it wakes up, oxenstored by a scan. Here a
//! thread looks at each of its rings once in an interval, a few at a time, so that a pass never costs
//! what the host holds. An idle thread is woken once in an interval for each [`RINGS_PER_STEP`] rings
//! that it serves, at least once if it serves any, and never if it serves none.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::clients::Clients;
use crate::shard::mailbox::Place;
use crate::shard::session::core::Core;
use crate::words::Domid;

/// Rings that one pass looks at. A look reads one cache line that the guest may have changed, some
/// 0.1 us, so a step costs about as much as one request; and 10,000 rings on one thread wake it 8
/// times a second at most.
const RINGS_PER_STEP: usize = 64;
/// A guest writes, then notifies: what is found may be notified a moment later. A guest whose virtual
/// processor lost its turn between the two has it again by then.
const GRACE: Duration = Duration::from_millis(250);

/// Where a worker's scan stands.
#[derive(Default)]
pub struct Scan {
    /// The time in which each ring is looked at once; zero: never.
    interval: Duration,
    /// When the next step is due; `None` while there is no ring.
    next: Option<Instant>,
    /// The domain whose ring was looked at last; `None` before the first of a round.
    last: Option<Domid>,
    /// Rings that had something. Each domain at most once: a round takes longer than [`GRACE`].
    found: VecDeque<Found>,
}

/// A ring that had something.
struct Found {
    domid: Domid,
    /// When it is looked at again.
    until: Instant,
    /// Where it stood: a ring that was served since stands elsewhere.
    position: (u32, u32),
}

impl Scan {
    /// A scan with this interval; zero: none.
    pub fn new(interval: Duration) -> Scan {
        Scan { interval, ..Scan::default() }
    }

    /// When it wants to run.
    pub fn next(&self) -> Option<Instant> {
        let found = self.found.front().map(|found| found.until);
        self.next.into_iter().chain(found).min()
    }

    /// The time between two steps over `rings` rings.
    fn pause(&self, rings: usize) -> Duration {
        let steps = rings.div_ceil(RINGS_PER_STEP).max(1);
        self.interval / u32::try_from(steps).unwrap_or(u32::MAX)
    }

    /// A ring was added: with more rings the steps follow each other faster.
    pub fn ring_added(&mut self, now: Instant, rings: usize) {
        if self.interval > Duration::ZERO {
            let due = now + self.pause(rings);
            self.next = Some(self.next.map_or(due, |next| next.min(due)));
        }
    }

    /// Notes that a step was done over rings up to `last`.
    fn step_done(&mut self, now: Instant, rings: usize, last: Option<Domid>) {
        self.last = last;
        // A step that is late does not delay the others; steps that were missed are left out.
        let due = |next: Instant| (next + self.pause(rings)).max(now);
        self.next = self.next.map(due).filter(|_| rings > 0);
    }

    /// Looks at the next rings, if it is time.
    pub fn run(&mut self, core: &Core, clients: &mut Clients) {
        if self.next().is_none_or(|next| next > core.now) {
            return;
        }
        self.serve_found(core, clients);
        if self.next.is_some_and(|next| next <= core.now) {
            self.step(core, clients);
        }
    }

    fn step(&mut self, core: &Core, clients: &mut Clients) {
        let rings: SmallVec<[(Domid, Place); RINGS_PER_STEP]> =
            clients.rings_after(self.last).take(RINGS_PER_STEP).collect();
        for &(domid, place) in &rings {
            if let Some(position) = silent_news(core, clients, place) {
                let until = core.now + GRACE;
                self.found.push_back(Found { domid, until, position });
            }
        }
        let last = rings.last().map(|(domid, _)| *domid);
        // At the end of a round the next begins with the first ring.
        let end = clients.last_ring();
        self.step_done(core.now, clients.ring_count(), last.filter(|_| last != end));
    }

    /// Serves the rings that had something before and were not notified since.
    fn serve_found(&mut self, core: &Core, clients: &mut Clients) {
        for _ in 0..RINGS_PER_STEP {
            let due = |found: &mut Found| found.until <= core.now;
            let Some(found) = self.found.pop_front_if(due) else { return };
            let Some(place) = clients.of_domain(found.domid) else { continue };
            if silent_news(core, clients, place) != Some(found.position) {
                continue;
            }
            clients.make_ready(place);
            if let Some(connection) = clients.get(place)
                && !connection.session.domain.note_silent()
            {
                let domid = found.domid.0;
                tracing::warn!(
                    domid,
                    "a guest wrote to its ring without notifying; the ring scan serves it"
                );
            }
        }
    }
}

/// Where a ring stands that has something for this worker, unless it is about to be served. A
/// quiesced domain's page is not looked at, and requests only while its connection is read. Room
/// for replies is not looked for: the tick does that more often.
fn silent_news(core: &Core, clients: &mut Clients, place: Place) -> Option<(u32, u32)> {
    let connection = clients.idle(place)?;
    if connection.session.is_quiesced() {
        return None;
    }
    let reads = connection.may_read(core);
    let ring = connection.ring()?;
    (reads && ring.has_requests() || ring.wants_reconnect()).then(|| ring.position())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(20);

    #[test]
    fn a_round_takes_one_interval_whatever_the_number_of_rings() {
        for rings in [1, RINGS_PER_STEP, RINGS_PER_STEP + 1, 10_000, 40_000] {
            let (mut scan, start) = (Scan::new(INTERVAL), Instant::now());
            scan.ring_added(start, rings);
            for _ in 0..rings.div_ceil(RINGS_PER_STEP) {
                let now = scan.next().unwrap();
                scan.step_done(now, rings, None);
            }
            let round = scan.next().unwrap() - start - scan.pause(rings);
            assert!(round.abs_diff(INTERVAL) < Duration::from_millis(1), "{rings}: {round:?}");
        }
    }

    #[test]
    fn a_thread_without_rings_is_not_woken() {
        let (mut scan, start) = (Scan::new(INTERVAL), Instant::now());
        assert_eq!(scan.next(), None);
        scan.ring_added(start, 1);
        assert_eq!(scan.next(), Some(start + INTERVAL));
        scan.ring_added(start, RINGS_PER_STEP * 2);
        assert_eq!(scan.next(), Some(start + INTERVAL / 2), "the sooner, the more rings there are");
        scan.step_done(start + INTERVAL, 0, None);
        assert_eq!(scan.next(), None);
        let mut off = Scan::new(Duration::ZERO);
        off.ring_added(start, 1);
        assert_eq!(off.next(), None);
    }

    #[test]
    fn missed_steps_are_left_out() {
        let (mut scan, start) = (Scan::new(INTERVAL), Instant::now());
        scan.ring_added(start, 1);
        let late = start + INTERVAL * 10;
        scan.step_done(late, 1, None);
        assert_eq!(scan.next(), Some(late));
        scan.step_done(late, 1, None);
        assert_eq!(scan.next(), Some(late + INTERVAL));
    }
}

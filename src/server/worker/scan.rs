//! The ring scan, which serves guests that write to their ring without a notification.
//!
//! A ring is served when its event channel fires. Some old drivers omit the notification; C xenstored hides that by
//! checking every ring whenever it wakes up, oxenstored by a scan. Here a worker checks each of its rings once in an
//! interval, a few at a time, so that the cost of a pass does not grow with the number of domains. An idle worker is
//! woken once in an interval for each [`RINGS_PER_STEP`] rings that it serves, at least once if it serves any, and
//! never if it serves none.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::clients::Clients;
use crate::server::mailbox::Slot;
use crate::server::session::core::Core;
use crate::types::Domid;

/// The number of rings checked in one pass. A check reads one cache line that the guest may have changed, about 0.1 us,
/// so a step costs about as much as one request; and 10,000 rings on one worker wake it 8 times a second at most.
const RINGS_PER_STEP: usize = 64;
/// The time between a write and its notification that is tolerated: a guest writes first, and its virtual CPU may be
/// descheduled before it notifies.
const GRACE: Duration = Duration::from_millis(250);

/// The state of a worker's scan.
#[derive(Default)]
pub struct Scan {
    /// The interval in which each ring is checked once; zero for no scan.
    interval: Duration,
    /// When the next step is due; `None` while there is no ring.
    next: Option<Instant>,
    /// The domain whose ring was checked last; `None` before the first of a round.
    last: Option<Domid>,
    /// Rings that had unnotified changes. Each domain at most once, as a round takes longer than [`GRACE`].
    found: VecDeque<Found>,
}

/// A ring that had an unnotified change.
struct Found {
    domid: Domid,
    /// When the ring is checked again.
    until: Instant,
    /// The ring's indices: if the ring was served since, they have moved.
    position: (u32, u32),
}

impl Scan {
    /// Creates a scan with this interval; zero for no scan.
    pub fn new(interval: Duration) -> Scan {
        Scan { interval, ..Scan::default() }
    }

    /// Returns when the scan has something to do.
    pub fn next(&self) -> Option<Instant> {
        let found = self.found.front().map(|found| found.until);
        self.next.into_iter().chain(found).min()
    }

    /// Returns the time between two steps for this number of rings.
    fn pause(&self, rings: usize) -> Duration {
        // At least one, by which the interval is divided.
        let steps = rings.div_ceil(RINGS_PER_STEP).max(1);
        self.interval / u32::try_from(steps).unwrap_or(u32::MAX)
    }

    /// Shortens the time to the next step, as there is one more ring.
    pub fn ring_added(&mut self, now: Instant, rings: usize) {
        if self.interval > Duration::ZERO {
            let due = now + self.pause(rings);
            self.next = Some(self.next.map_or(due, |next| next.min(due)));
        }
    }

    /// Records a step that checked the rings up to that of `last`.
    fn step_done(&mut self, now: Instant, rings: usize, last: Option<Domid>) {
        self.last = last;
        // A late step does not delay the others, and missed steps are skipped.
        let due = |next: Instant| (next + self.pause(rings)).max(now);
        self.next = self.next.map(due).filter(|_| rings > 0);
    }

    /// Checks the next rings, if a step is due. One comparison in most passes.
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
        let rings: SmallVec<[(Domid, Slot); RINGS_PER_STEP]> =
            clients.rings_after(self.last).take(RINGS_PER_STEP).collect();
        for &(domid, slot) in &rings {
            if let Some(position) = silent_news(core, clients, slot) {
                let until = core.now + GRACE;
                self.found.push_back(Found { domid, until, position });
            }
        }
        let last = rings.last().map(|(domid, _)| *domid);
        // The next round begins with the first ring.
        let end = clients.last_ring();
        self.step_done(core.now, clients.ring_count(), last.filter(|_| last != end));
    }

    /// Serves rings that had a change earlier and were not notified since.
    fn serve_found(&mut self, core: &Core, clients: &mut Clients) {
        // As many as a step checks, so that a pass has a bounded cost.
        for _ in 0..RINGS_PER_STEP {
            let due = |found: &mut Found| found.until <= core.now;
            let Some(found) = self.found.pop_front_if(due) else { return };
            let Some(slot) = clients.of_domain(found.domid) else { continue };
            // Its indices have moved, so it was served; or it has no news any more.
            if silent_news(core, clients, slot) != Some(found.position) {
                continue;
            }
            clients.make_ready(slot);
            if let Some(connection) = clients.get(slot)
                && !connection.session.domain.note_silent()
            {
                let domid = found.domid.0;
                tracing::warn!(
                    domid,
                    "ring written without a notification, served by the ring scan"
                );
            }
        }
    }
}

/// Returns the indices of a ring with an unnotified change, unless its connection is ready anyway. A quiesced domain's
/// page is not read, and requests count only while the connection is read. Room for replies is not checked: the tick
/// does that more often.
fn silent_news(core: &Core, clients: &mut Clients, slot: Slot) -> Option<(u32, u32)> {
    let connection = clients.idle(slot)?;
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
    fn scan_round_takes_one_interval_for_any_number_of_rings() {
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
    fn worker_without_rings_is_not_woken() {
        let (mut scan, start) = (Scan::new(INTERVAL), Instant::now());
        assert_eq!(scan.next(), None);
        scan.ring_added(start, 1);
        assert_eq!(scan.next(), Some(start + INTERVAL));
        scan.ring_added(start, RINGS_PER_STEP * 2);
        assert_eq!(scan.next(), Some(start + INTERVAL / 2), "more rings shorten the pause");
        scan.step_done(start + INTERVAL, 0, None);
        assert_eq!(scan.next(), None);
        let mut off = Scan::new(Duration::ZERO);
        off.ring_added(start, 1);
        assert_eq!(off.next(), None);
    }

    #[test]
    fn missed_scan_steps_are_skipped() {
        let (mut scan, start) = (Scan::new(INTERVAL), Instant::now());
        scan.ring_added(start, 1);
        let late = start + INTERVAL * 10;
        scan.step_done(late, 1, None);
        assert_eq!(scan.next(), Some(late));
        scan.step_done(late, 1, None);
        assert_eq!(scan.next(), Some(late + INTERVAL));
    }
}

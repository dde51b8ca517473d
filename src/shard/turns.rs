//! Whose turn it is: the rules of [`super::session::reservations`], without threads or clocks.
//!
//! ```text
//!               ask                     end, or TURN_TIME_MAX
//!   Nobodys -----------> Transactions -----------------------> Writers
//!      ^                      ^                                   |
//!      |                      | the first who asked               | all came through,
//!      +----------------------+-----------------------------------+ or GAP_TIME_MAX
//!        if nobody asked
//! ```
//!
//! There is one turn at a time, and whoever waits holds nothing: so nobody waits in a circle.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::mailbox::Asker;
use crate::words::{Path, PathBuf};

/// A transaction's turn: who would write what it guards waits no longer, whatever its client does.
pub const TURN_TIME_MAX: Duration = Duration::from_millis(50);
/// Those who waited to write have this long to do so; a thread comes to it in its next pass.
const GAP_TIME_MAX: Duration = Duration::from_millis(50);
/// Connections that wait for a turn; further transactions go without. Each time one asks, all who
/// wait are looked through.
const WAITING_MAX: usize = 1024;

/// What is to happen to who asks for a turn.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has it.
    Yours,
    /// To wait until it is told, and to ask again then or at this time.
    Wait(Instant),
    /// To go on without.
    Without,
}

/// Whose turn it is, and who waits.
#[derive(Default)]
pub struct Turns {
    phase: Phase,
    /// Who waits for a turn, in the order of asking, and what it will guard.
    queue: VecDeque<(Asker, Vec<PathBuf>)>,
    /// Who waits to write what is guarded: one entry for a connection.
    writers: HashSet<Asker, RandomState>,
    counts: Counts,
    /// Who is to be told that it may go on.
    woken: Vec<Asker>,
}

/// What came of turns.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Turns that began.
    pub begun: u64,
    /// Those that were over before their transaction was.
    pub overdue: u64,
    /// Times that something more was guarded in the middle of one.
    pub widened: u64,
    /// Paths that are guarded now.
    pub guarded: usize,
    /// Connections that wait for a turn now.
    pub waiting: usize,
}

#[derive(Default)]
enum Phase {
    /// Nobody asked.
    #[default]
    Nobodys,
    /// Only `owner` writes what is at, above or below one of `paths`.
    Transactions { owner: Asker, paths: Vec<PathBuf>, until: Instant },
    /// The next turn begins when these have written what they waited for.
    Writers { left: HashSet<Asker, RandomState>, until: Instant },
}

impl Turns {
    /// Ends what is over at `now`. To be called before anything else, and after.
    pub fn advance(&mut self, now: Instant) {
        loop {
            match &self.phase {
                Phase::Transactions { until, .. } if *until <= now => {
                    self.counts.overdue += 1;
                    self.let_writers(now);
                }
                Phase::Writers { left, until } if left.is_empty() || *until <= now => {
                    self.next(now);
                }
                Phase::Nobodys if !self.queue.is_empty() => self.next(now),
                _ => return,
            }
        }
    }

    fn let_writers(&mut self, now: Instant) {
        let left = std::mem::take(&mut self.writers);
        self.woken.extend(&left);
        self.phase = Phase::Writers { left, until: now + GAP_TIME_MAX };
    }

    fn next(&mut self, now: Instant) {
        self.phase = Phase::Nobodys;
        if let Some((owner, paths)) = self.queue.pop_front() {
            self.counts.begun += 1;
            self.woken.push(owner);
            self.phase = Phase::Transactions { owner, paths, until: now + TURN_TIME_MAX };
        }
    }

    /// Asks for a turn in which only `asker` writes at, above and below `paths`.
    pub fn ask(&mut self, asker: Asker, paths: &[PathBuf], now: Instant) -> Answer {
        if !self.is_of(asker) && self.queue.iter().all(|(other, _)| *other != asker) {
            if self.queue.len() >= WAITING_MAX {
                return Answer::Without;
            }
            self.queue.push_back((asker, paths.to_vec()));
            self.advance(now);
            // It is being told already.
            self.woken.retain(|woken| *woken != asker);
        }
        match &self.phase {
            Phase::Transactions { owner, .. } if *owner == asker => Answer::Yours,
            Phase::Transactions { until, .. } | Phase::Writers { until, .. } => {
                Answer::Wait(*until)
            }
            Phase::Nobodys => Answer::Without,
        }
    }

    /// Whether it is `asker`'s turn.
    pub fn is_of(&self, asker: Asker) -> bool {
        matches!(&self.phase, Phase::Transactions { owner, .. } if *owner == asker)
    }

    /// Guards these instead from now on, if it is `asker`'s turn.
    pub fn widen(&mut self, asker: Asker, wider: &[PathBuf]) {
        if let Phase::Transactions { owner, paths, .. } = &mut self.phase
            && *owner == asker
        {
            *paths = wider.to_vec();
            self.counts.widened += 1;
        }
    }

    /// Ends the turn, if it is `asker`'s.
    pub fn end(&mut self, asker: Asker, now: Instant) {
        if self.is_of(asker) {
            self.let_writers(now);
        }
    }

    /// Until when `asker` has to wait before it may write one of `paths`, if it has to.
    pub fn wait<'p>(
        &mut self,
        asker: Asker,
        paths: impl IntoIterator<Item = Path<'p>>,
    ) -> Option<Instant> {
        let Phase::Transactions { owner, paths: guarded, until } = &self.phase else {
            return None;
        };
        let overlap = |path: Path<'_>| {
            let overlaps = |guarded: &PathBuf| {
                let guarded = guarded.as_path();
                path.is_within(guarded) || guarded.is_within(path)
            };
            guarded.iter().any(overlaps)
        };
        if *owner == asker || !paths.into_iter().any(overlap) {
            return None;
        }
        self.writers.insert(asker);
        Some(*until)
    }

    /// Notes that a connection that waited was served, whatever it did.
    pub fn came_through(&mut self, asker: Asker) {
        if let Phase::Writers { left, .. } = &mut self.phase {
            left.remove(&asker);
        }
    }

    /// Forgets a connection that has ended. Cost: those who wait for a turn.
    pub fn leave(&mut self, asker: Asker, now: Instant) {
        self.queue.retain(|(other, _)| *other != asker);
        self.writers.remove(&asker);
        self.came_through(asker);
        self.end(asker, now);
    }

    /// Whether anything is guarded.
    pub fn guards(&self) -> bool {
        matches!(self.phase, Phase::Transactions { .. })
    }

    /// What came of turns.
    pub fn counts(&self) -> Counts {
        let guarded = match &self.phase {
            Phase::Transactions { paths, .. } => paths.len(),
            _ => 0,
        };
        Counts { guarded, waiting: self.queue.len(), ..self.counts }
    }

    /// Who is to be told that it may go on.
    pub fn take_woken(&mut self) -> Vec<Asker> {
        std::mem::take(&mut self.woken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(connection: usize) -> Asker {
        Asker { thread: 0, connection, id: 1 }
    }

    fn path(text: &str) -> PathBuf {
        Path::parse(text.as_bytes()).unwrap().to_buf()
    }

    fn writes(turns: &mut Turns, connection: usize, text: &str) -> bool {
        turns.wait(asker(connection), [path(text).as_path()]).is_none()
    }

    #[test]
    fn turns_come_in_the_order_of_asking_and_writers_in_between() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        assert_eq!(turns.ask(asker(1), &[path("/a")], now), Answer::Yours);
        assert!(matches!(turns.ask(asker(2), &[path("/b")], now), Answer::Wait(_)));
        assert!(matches!(turns.ask(asker(3), &[path("/a/x")], now), Answer::Wait(_)));
        turns.take_woken();
        for (text, writes_it) in [("/a", false), ("/a/x", false), ("/", false), ("/b", true)] {
            assert_eq!(writes(&mut turns, 9, text), writes_it, "{text}");
            assert!(writes(&mut turns, 1, text), "it is its own turn");
        }
        turns.end(asker(1), now);
        turns.advance(now);
        assert_eq!(turns.take_woken(), [asker(9)], "the writer goes first");
        assert!(!turns.is_of(asker(2)) && writes(&mut turns, 9, "/a"));
        turns.came_through(asker(9));
        turns.advance(now);
        assert!(turns.is_of(asker(2)) && !writes(&mut turns, 9, "/b"));
        turns.leave(asker(9), now);
        turns.leave(asker(2), now);
        turns.advance(now);
        assert!(turns.is_of(asker(3)));
        turns.end(asker(3), now);
        turns.advance(now);
        assert!(!turns.guards() && turns.counts() == Counts { begun: 3, ..Counts::default() });
    }

    #[test]
    fn who_does_nothing_holds_nobody_up_for_long() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        turns.ask(asker(1), &[path("/a")], now);
        turns.ask(asker(2), &[path("/a")], now);
        assert!(!writes(&mut turns, 9, "/a"));
        turns.advance(now + TURN_TIME_MAX);
        assert!(!turns.is_of(asker(1)) && writes(&mut turns, 9, "/a"));
        // The writer does not come either.
        let later = now + TURN_TIME_MAX + GAP_TIME_MAX;
        turns.advance(later);
        assert!(turns.is_of(asker(2)) && !writes(&mut turns, 9, "/a"));
        turns.end(asker(1), later);
        assert!(turns.is_of(asker(2)), "its turn was over");
        assert_eq!(turns.counts().overdue, 1);
    }

    #[test]
    fn so_many_wait_and_the_rest_goes_without() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        turns.ask(asker(0), &[path("/a")], now);
        for connection in 1..=WAITING_MAX {
            for _ in 0..2 {
                assert!(matches!(turns.ask(asker(connection), &[], now), Answer::Wait(_)));
            }
        }
        assert_eq!(turns.ask(asker(WAITING_MAX + 1), &[], now), Answer::Without);
        assert_eq!(turns.counts().waiting, WAITING_MAX);
    }
}

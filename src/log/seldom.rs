//! Lines about what may go on for ever.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// At most one line in this time about something that repeats as long as its cause lasts.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// A counter of something that is logged once in some time at most, by default in ten seconds.
pub struct Seldom {
    every: Duration,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Times since the last line.
    times: u64,
    last_line: Option<Instant>,
}

impl Default for Seldom {
    fn default() -> Seldom {
        Seldom::every(LINE_EVERY)
    }
}

impl Seldom {
    /// At most one line in this time.
    pub fn every(every: Duration) -> Seldom {
        Seldom { every, seen: Mutex::default() }
    }

    /// Counts one time. Returns the times since the last line if another one is due.
    pub fn count(&self) -> Option<u64> {
        self.count_at(Instant::now())
    }

    fn count_at(&self, now: Instant) -> Option<u64> {
        let mut seen = self.seen.lock();
        seen.times += 1;
        if seen.last_line.is_some_and(|last| now < last + self.every) {
            return None;
        }
        seen.last_line = Some(now);
        Some(std::mem::take(&mut seen.times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_when_repeated_is_due_once_in_ten_seconds() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let at = |tenths: u64| seldom.count_at(start + Duration::from_millis(100 * tenths));
        assert_eq!(at(0), Some(1));
        assert_eq!((1..100).find_map(at), None);
        assert_eq!(at(100), Some(100));
        assert_eq!(at(500), Some(1));
    }
}

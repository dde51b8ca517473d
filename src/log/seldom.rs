//! Rate limiting of log lines about conditions that persist.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Default minimum interval between two lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// A rate limiter of one log line per interval, which also counts the suppressed ones. The default interval is ten
/// seconds.
pub struct Seldom {
    every: Duration,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Occurrences since the last line.
    times: u64,
    last_line: Option<Instant>,
}

impl Default for Seldom {
    fn default() -> Seldom {
        Seldom::every(LINE_EVERY)
    }
}

impl Seldom {
    /// Makes a limiter of one line per `every`.
    pub fn every(every: Duration) -> Seldom {
        Seldom { every, seen: Mutex::default() }
    }

    /// Counts an occurrence. If a line is due, returns the number of occurrences since the last one.
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
    fn repeated_count_is_due_once_in_ten_seconds() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let at = |tenths: u64| seldom.count_at(start + Duration::from_millis(100 * tenths));
        assert_eq!(at(0), Some(1));
        assert_eq!((1..100).find_map(at), None);
        assert_eq!(at(100), Some(100));
        assert_eq!(at(500), Some(1));
    }
}

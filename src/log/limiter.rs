//! Keeps a guest from filling the log: so many lines for each key and interval, the rest counted.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Keys that are counted one by one. A flood of further keys shares one count, so that a limiter
/// stays at about 100 KB whatever guests do; a host has fewer domains in trouble at one time.
const MAX_KEYS: usize = 1024;

/// Whether a line may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Write it; `suppressed` lines of this key were not written since the last one that was.
    Write {
        /// How many lines were left out.
        suppressed: u64,
    },
    /// Leave it out.
    Suppress,
}

/// Limits lines to a number for each key and interval. The key is what a reader would want counted
/// apart, for example a domid and a quota.
pub struct Limiter<K> {
    lines: u32,
    interval: Duration,
    windows: Mutex<Windows<K>>,
}

struct Windows<K> {
    by_key: HashMap<K, Window>,
    /// Of all keys that found no place.
    others: Option<Window>,
}

#[derive(Clone, Copy)]
struct Window {
    start: Instant,
    written: u32,
    suppressed: u64,
}

impl<K: Copy + Eq + Hash> Limiter<K> {
    /// At most `lines` (at least one) for each key in any `interval` that starts with its first
    /// line.
    pub fn new(lines: u32, interval: Duration) -> Limiter<K> {
        let windows = Windows { by_key: HashMap::new(), others: None };
        Limiter { lines: lines.max(1), interval, windows: Mutex::new(windows) }
    }

    /// Asks whether a line about `key` may be written at `now`. Cost: a lookup; now and then, when
    /// the table is full, a walk of it.
    pub fn admit(&self, key: K, now: Instant) -> Verdict {
        let mut windows = self.windows.lock();
        let windows = &mut *windows;
        if windows.by_key.len() >= MAX_KEYS && !windows.by_key.contains_key(&key) {
            // At most once an interval for each new key that finds no place, as those share a
            // window that is asked first.
            if self.is_over(windows.others, now) {
                windows.by_key.retain(|_, window| !self.is_over(Some(*window), now));
            }
        }
        let fresh = Window { start: now, written: 0, suppressed: 0 };
        let has_place = windows.by_key.len() < MAX_KEYS || windows.by_key.contains_key(&key);
        let window = if has_place {
            windows.by_key.entry(key).or_insert(fresh)
        } else {
            windows.others.get_or_insert(fresh)
        };
        if self.is_over(Some(*window), now) {
            *window = Window { suppressed: window.suppressed, ..fresh };
        }
        if window.written == self.lines {
            window.suppressed += 1;
            return Verdict::Suppress;
        }
        window.written += 1;
        Verdict::Write { suppressed: std::mem::take(&mut window.suppressed) }
    }

    fn is_over(&self, window: Option<Window>, now: Instant) -> bool {
        window.is_none_or(|window| now.saturating_duration_since(window.start) >= self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn lines_over_the_limit_are_counted_and_the_count_is_told_once() {
        let limiter = Limiter::new(2, MINUTE);
        let start = Instant::now();
        let verdicts: Vec<_> = (0..5).map(|_| limiter.admit(7, start)).collect();
        let written = Verdict::Write { suppressed: 0 };
        assert_eq!(verdicts[..2], [written; 2]);
        assert_eq!(verdicts[2..], [Verdict::Suppress; 3]);
        assert_eq!(limiter.admit(8, start), written);
        assert_eq!(limiter.admit(7, start + MINUTE), Verdict::Write { suppressed: 3 });
        assert_eq!(limiter.admit(7, start + MINUTE), written);
    }

    #[test]
    fn a_flood_of_keys_is_bounded_and_shares_a_count() {
        let limiter = Limiter::new(1, MINUTE);
        let start = Instant::now();
        let written = (0..10 * MAX_KEYS)
            .filter(|&key| limiter.admit(key, start) != Verdict::Suppress)
            .count();
        assert_eq!(written, MAX_KEYS + 1);
        assert_eq!(limiter.windows.lock().by_key.len(), MAX_KEYS);
        // Once their intervals are over, the old keys make room.
        let later = start + MINUTE;
        assert_eq!(limiter.admit(usize::MAX, later), Verdict::Write { suppressed: 0 });
        assert_eq!(limiter.windows.lock().by_key.len(), 1);
    }
}

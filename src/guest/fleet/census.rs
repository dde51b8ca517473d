//! What the guests of a fleet reported, as lines.

use std::time::{Duration, Instant};

use super::super::worker::Step;
use super::place::HOSTS;
use crate::types::Domid;

/// Without a step for this time and some periods, a guest waits: it is quiesced, or its daemon does not serve it.
const WAITING: Duration = Duration::from_secs(1);
const PERIODS: u32 = 2;
/// The shortest time between two lines, so that a move one by one does not print as many.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Where each guest of the fleet is, and what all of them saw.
pub struct Census {
    guests: Vec<Seen>,
    /// The time without a step after which a guest waits.
    timeout: Duration,
    steps: u64,
    faults: usize,
    /// The longest wait for a reply since the last line.
    waited: Duration,
    /// Whether a guest has changed hosts since the last line.
    has_moved: bool,
    printed: Option<(Instant, Counts)>,
}

struct Seen {
    /// An index into the hosts.
    host: Option<usize>,
    at: Instant,
}

/// The guests on each host, and those that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    on: [usize; 2],
    waiting: usize,
}

impl Census {
    /// Creates the census of guests 1 to `guests` with this time between two steps, none of which has reported yet.
    pub fn new(guests: u16, period: Duration) -> Census {
        let at = Instant::now();
        let guests = (0..guests).map(|_| Seen { host: None, at }).collect();
        Census {
            guests,
            timeout: WAITING + PERIODS * period,
            steps: 0,
            faults: 0,
            waited: Duration::ZERO,
            has_moved: false,
            printed: None,
        }
    }

    /// Notes a step. Returns the host that the guest has left since its last step.
    pub fn note(&mut self, domid: Domid, step: &Step) -> Option<usize> {
        self.steps += 1;
        self.faults += step.faults.len();
        self.waited = self.waited.max(step.waited);
        let host = HOSTS.iter().position(|name| step.host.as_deref() == Some(*name))?;
        let seen = self.guests.get_mut(usize::from(domid.0).wrapping_sub(1))?;
        seen.at = Instant::now();
        let left = seen.host.replace(host).filter(|&before| before != host);
        self.has_moved |= left.is_some();
        left
    }

    /// Returns the number of faults so far.
    pub fn faults(&self) -> usize {
        self.faults
    }

    /// Returns a line if guests are elsewhere than in the last one, or were meanwhile.
    pub fn line(&mut self) -> Option<String> {
        let now = Instant::now();
        let counts = self.counts(now);
        let is_due = match &self.printed {
            None => counts.on.iter().sum::<usize>() == self.guests.len(),
            Some((at, last)) => (self.has_moved || *last != counts) && now - *at >= LINE_INTERVAL,
        };
        if !is_due {
            return None;
        }
        self.printed = Some((now, counts));
        self.has_moved = false;
        let Counts { on: [a, b], waiting } = counts;
        let waited = std::mem::take(&mut self.waited).as_secs_f64() * 1e3;
        let waits = match waiting {
            0 => String::new(),
            n => format!("; {n} wait: see xsctl status"),
        };
        let [first, second] = HOSTS;
        let sum = self.summary();
        Some(format!(
            "guests on {first}: {a}, on {second}: {b}{waits}; {sum}; longest wait for a reply {waited:.1} ms"
        ))
    }

    fn counts(&self, now: Instant) -> Counts {
        let mut counts = Counts::default();
        for seen in &self.guests {
            match seen.host {
                Some(host) if now - seen.at < self.timeout => counts.on[host] += 1,
                _ => counts.waiting += 1,
            }
        }
        counts
    }

    /// Returns what the guests did and saw since the start.
    pub fn summary(&self) -> String {
        let faults = match self.faults {
            0 => "nothing lost, nothing repeated".into(),
            n => format!("{n} losses or repetitions"),
        };
        format!("{} steps, {faults}", self.steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(host: &str, faults: &[&str]) -> Step {
        let faults = faults.iter().map(|&fault| fault.into()).collect();
        Step { host: Some(host.into()), waited: Duration::from_millis(3), faults }
    }

    #[test]
    fn line_says_where_guests_are_and_what_they_saw() {
        let mut census = Census::new(2, Duration::ZERO);
        assert_eq!(census.note(Domid(1), &step("a", &[])), None);
        assert_eq!(census.line(), None, "domain 2 has not reported");
        census.note(Domid(2), &step("b", &[]));
        let expected = "guests on a: 1, on b: 1; 2 steps, nothing lost, nothing repeated; longest \
                        wait for a reply 3.0 ms";
        assert_eq!(census.line().as_deref(), Some(expected));
        assert_eq!(census.line(), None, "nothing has changed");
        let fault = "the counter is 7, not 6: repeated";
        assert_eq!(census.note(Domid(2), &step("a", &[fault])), Some(1), "it has left host b");
        assert_eq!(census.summary(), "3 steps, 1 losses or repetitions");
    }
}

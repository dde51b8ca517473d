//! Stalls: clients of the control domain that stopped reading are logged.
//!
//! A guest's events are dropped after the timeout `watch-event`. Those of the control domain's clients never are, as
//! toolstacks rely on them: they wait until the client reads, or is closed at its limit, and an operator has to find
//! the process.

use std::time::{Duration, Instant};

/// The stall of a client that takes nothing of its output.
pub struct Stall {
    /// The position of the client's output, which moves when the client reads.
    position: u64,
    since: Instant,
    // Set once, so that a lasting stall is one line.
    named: bool,
}

impl Stall {
    /// Records the position of a client's pending output. Returns whether to log the stall now, once: the client has
    /// taken nothing during the timeout.
    pub fn note(stall: &mut Option<Stall>, position: u64, now: Instant, timeout: Duration) -> bool {
        match stall {
            Some(stall) if stall.position == position => {
                if stall.named || now.duration_since(stall.since) < timeout {
                    return false;
                }
                stall.named = true;
                true
            }
            stall => {
                *stall = Some(Stall { position, since: now, named: false });
                false
            }
        }
    }

    /// Returns whether the stall was logged and continues at this position.
    pub fn is_named_at(&self, position: u64) -> bool {
        self.named && self.position == position
    }
}

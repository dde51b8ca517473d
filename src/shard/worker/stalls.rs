//! Clients of the control domain that stopped reading: named in the log.
//!
//! A guest's events are dropped after the timeout `watch-event`. Those of the control domain's clients never are, as
//! toolstacks rely on them: they wait until the client reads or is closed at its limit, and an operator has to find
//! the process.

use std::time::{Duration, Instant};

/// A client that does not take what waits for it.
pub struct Stall {
    /// Where its output stood; it reads if that is elsewhere now.
    position: u64,
    since: Instant,
    named: bool,
}

impl Stall {
    /// Notes where the output of a client stands that something waits for. Returns whether it is to be named now, once:
    /// it has taken nothing during the timeout.
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

    /// Whether the client was named and has read nothing since, as its output stands here.
    pub fn is_named_at(&self, position: u64) -> bool {
        self.named && self.position == position
    }
}

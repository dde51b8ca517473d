//! Deferred events: one per group of a guest's watches for which there is no room, naming the watched path. So a change
//! costs the same however many watches the guest has on a path.

/// The watches of a group that must be notified. A watch set between two changes may be notified of the first too,
/// which is a spurious event at worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Notification {
    /// The highest number of these watches.
    seq: u64,
    /// The least depth of these watches.
    levels: usize,
}

impl Notification {
    /// Extends this to the watches of both, and returns whether there are more of them now.
    fn merge(&mut self, other: Notification) -> bool {
        let before = *self;
        self.seq = self.seq.max(other.seq);
        // The nearest change reaches the most watches, and a farther one only some of these.
        self.levels = self.levels.min(other.levels);
        *self != before
    }
}

/// The deferred events of one group.
#[derive(Debug)]
pub struct Deferral {
    notification: Notification,
    /// Watches up to this number have been notified.
    after: u64,
    /// The changes since the first watch was notified, which need another round.
    again: Option<Notification>,
}

impl Deferral {
    /// Creates a deferral of a change `levels` below the watched path, for the watches numbered above `after`, up to
    /// `seq`.
    pub fn new(seq: u64, levels: usize, after: u64) -> Deferral {
        Deferral { notification: Notification { seq, levels }, after, again: None }
    }

    /// Adds a change for all watches up to `seq`. Returns whether this notifies any watch that would not be notified
    /// otherwise.
    pub fn add(&mut self, seq: u64, levels: usize) -> bool {
        let notification = Notification { seq, levels };
        match &mut self.again {
            // No watch has been notified in this round yet, so the round covers the new change as well.
            None if self.after == 0 => self.notification.merge(notification),
            None => {
                self.again = Some(notification);
                true
            }
            Some(again) => again.merge(notification),
        }
    }

    /// Returns the number of the last watch that was notified.
    pub fn after(&self) -> u64 {
        self.after
    }

    /// Returns whether the watch numbered `seq` must still be notified.
    pub fn concerns(&self, seq: u64, depth: Option<u16>) -> bool {
        seq > self.after
            && seq <= self.notification.seq
            && depth.is_none_or(|depth| self.notification.levels <= usize::from(depth))
    }

    /// Records that the watches up to `seq` have been notified.
    pub fn advance(&mut self, seq: u64) {
        self.after = seq;
    }

    /// Ends the round, and returns the deferral of the next one if there were changes meanwhile.
    pub fn next_round(self) -> Option<Deferral> {
        // For all watches again, as each may have been notified before the change.
        self.again.map(|notification| Deferral { notification, after: 0, again: None })
    }
}

//! The events of a guest's watches that there is no room for: of each group of watches that it is to be told of its
//! own path. So a change costs the same however many watches the guest has on a path.

/// What a group's watches are to be told of. One that was set between two changes may be told of the first, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    /// Watches up to this number.
    seq: u64,
    /// Whose depth is at least this.
    levels: usize,
}

impl Told {
    /// Of both; returns whether that is more than `self` was.
    fn merge(&mut self, other: Told) -> bool {
        let before = *self;
        self.seq = self.seq.max(other.seq);
        self.levels = self.levels.min(other.levels);
        *self != before
    }
}

/// The deferred events of one group.
#[derive(Debug)]
pub struct Deferral {
    told: Told,
    /// The watches up to this number have had theirs.
    after: u64,
    /// What changed since the first of them had its event.
    again: Option<Told>,
}

impl Deferral {
    /// A change `levels` below the path, for the watches numbered from `after` on, without that, to `seq`.
    pub fn new(seq: u64, levels: usize, after: u64) -> Deferral {
        Deferral { told: Told { seq, levels }, after, again: None }
    }

    /// One more such change for all watches up to `seq`; returns whether any watch is told of more than without it.
    pub fn add(&mut self, seq: u64, levels: usize) -> bool {
        let told = Told { seq, levels };
        match &mut self.again {
            None if self.after == 0 => self.told.merge(told),
            None => {
                self.again = Some(told);
                true
            }
            Some(again) => again.merge(told),
        }
    }

    /// The number after which the next watch to be told has its own.
    pub fn after(&self) -> u64 {
        self.after
    }

    /// Whether a watch after that is to be told.
    pub fn concerns(&self, seq: u64, depth: Option<u16>) -> bool {
        seq > self.after
            && seq <= self.told.seq
            && depth.is_none_or(|depth| self.told.levels <= usize::from(depth))
    }

    /// The watches up to `seq` are told.
    pub fn advance(&mut self, seq: u64) {
        self.after = seq;
    }

    /// All watches are told; returns what they are to be told of again.
    pub fn next_round(self) -> Option<Deferral> {
        self.again.map(|told| Deferral { told, after: 0, again: None })
    }
}

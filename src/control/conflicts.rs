//! Statistics of failed transactions.

use std::collections::VecDeque;

use crate::store::Conflict;
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::types::Domid;

/// Number of reasons kept: enough to show a pattern; their paths take at most 100 KB.
const REASONS_MAX: usize = 32;

/// A counter of the transactions that failed with EAGAIN, and a log of the latest reasons.
#[derive(Default)]
pub struct Conflicts {
    count: AtomicU64,
    last: Mutex<VecDeque<Reason>>,
}

/// The reason for one transaction's failure.
#[derive(Clone, Debug)]
pub struct Reason {
    /// The domain whose transaction failed.
    pub domid: Domid,
    /// The request whose reply would have differed, and the domain that presumably made the change.
    pub conflict: Conflict,
}

impl Conflicts {
    /// Records a failed transaction.
    pub fn note(&self, domid: Domid, conflict: Conflict) {
        // Relaxed: a statistic, which orders nothing.
        self.count.fetch_add(1, Ordering::Relaxed);
        // END has released the store's locks by now, so this mutex is never taken below them.
        let mut last = self.last.lock();
        if last.len() == REASONS_MAX {
            last.pop_front();
        }
        last.push_back(Reason { domid, conflict });
    }

    /// Returns the number of failed transactions since the start.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns the latest reasons, oldest first.
    pub fn last(&self) -> Vec<Reason> {
        self.last.lock().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Path;

    #[test]
    fn conflict_reasons_keep_the_last_32() {
        let conflicts = Conflicts::default();
        for domid in 1..=33 {
            let path = Path::ROOT.to_buf();
            conflicts.note(Domid(domid), Conflict { verb: "READ", path, changed_by: None });
        }
        let last: Vec<u16> = conflicts.last().iter().map(|reason| reason.domid.0).collect();
        assert_eq!(last, (2..=33).collect::<Vec<_>>());
        assert_eq!(conflicts.count(), 33);
    }
}

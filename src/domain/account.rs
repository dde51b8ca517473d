//! A domain's usage of each quota, exact under concurrent charges.

use super::{Quota, Report, Reports};
use crate::log;
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::types::Domid;

/// Counters in the units of their [`Quota`]. Only the quotas that accumulate over an incarnation are counted: nodes,
/// watches, outstanding, memory and transactions.
pub struct Account {
    domid: Domid,
    /// Queue for traced changes.
    reports: Arc<Reports>,
    /// All accesses are relaxed: a counter publishes nothing, and a reader that compares it with nodes holds all
    /// shards' locks (`Store::check`).
    used: [AtomicU64; Quota::COUNT],
    refused: [AtomicU64; Quota::COUNT],
    peaks: [AtomicU64; Quota::COUNT],
}

impl Account {
    /// Creates the account of an incarnation of `domid`.
    pub(super) fn new(domid: Domid, reports: Arc<Reports>) -> Account {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Account { domid, reports, used: zeros(), refused: zeros(), peaks: zeros() }
    }

    /// Returns the usage of a quota.
    pub fn used(&self, quota: Quota) -> u64 {
        self.used[quota as usize].load(Ordering::Relaxed)
    }

    /// Charges `amount` if the sum does not exceed `limit` (0: no limit). Returns the new sum, or `None` with the
    /// account unchanged.
    pub fn reserve(&self, quota: Quota, amount: u64, limit: u32) -> Option<u64> {
        let used = &self.used[quota as usize];
        // Comparison and charge are one atomic step, as two threads could otherwise both take the last unit.
        let within = |used: u64| {
            let sum = used.saturating_add(amount);
            (limit == 0 || sum <= u64::from(limit)).then_some(sum)
        };
        #[allow(deprecated)] // Newer Rust calls it try_update, which shuttle's atomics lack.
        let before = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).ok()?;
        self.trace(quota, before, before + amount);
        Some(before + amount)
    }

    /// Charges `amount` regardless of the limit, for usage that the domain did not cause itself.
    pub fn charge(&self, quota: Quota, amount: u64) {
        let before = self.used[quota as usize].fetch_add(amount, Ordering::Relaxed);
        self.note_peak(quota, before + amount);
        self.trace(quota, before, before + amount);
    }

    /// Releases `amount` and returns the usage before.
    pub fn release(&self, quota: Quota, amount: u64) -> u64 {
        let before = self.used[quota as usize].fetch_sub(amount, Ordering::Relaxed);
        // Otherwise the usage would wrap to an enormous one, and every further request would be refused.
        debug_assert!(before >= amount, "{} of {before} given back {amount}", quota.name());
        self.trace(quota, before, before.saturating_sub(amount));
        before
    }

    /// Queues a change for the trace: accounts change under locks of the store, where no file is written.
    fn trace(&self, quota: Quota, before: u64, used: u64) {
        if before != used && tracing::enabled!(target: log::ACC, tracing::Level::TRACE) {
            self.reports.push(Report::Changed { domid: self.domid, quota, before, used });
        }
    }

    /// Raises the peak to `sum` if that is higher. For a quota on single sizes, `sum` is a size.
    pub fn note_peak(&self, quota: Quota, sum: u64) {
        let peak = &self.peaks[quota as usize];
        // Loaded first, as most sums are below the peak and `fetch_max` takes the cache line from other threads even
        // then.
        if sum > peak.load(Ordering::Relaxed) {
            peak.fetch_max(sum, Ordering::Relaxed);
        }
    }

    /// Returns the peak usage.
    pub fn peak(&self, quota: Quota) -> u64 {
        self.peaks[quota as usize].load(Ordering::Relaxed)
    }

    /// Charges (`change` > 0) or releases, regardless of the limit.
    pub fn change(&self, quota: Quota, change: i64) {
        if change > 0 {
            self.charge(quota, change.unsigned_abs());
        } else {
            self.release(quota, change.unsigned_abs());
        }
    }

    /// Counts a refusal and returns the number before it.
    pub fn refuse(&self, quota: Quota) -> u64 {
        self.refused[quota as usize].fetch_add(1, Ordering::Relaxed)
    }

    /// Returns how often the quota refused a request.
    pub fn refused(&self, quota: Quota) -> u64 {
        self.refused[quota as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_n_allows_exactly_n() {
        let account = Account::new(Domid(5), Arc::default());
        for n in 1..=3 {
            assert_eq!(account.reserve(Quota::Nodes, 1, 3), Some(n));
        }
        assert_eq!(account.reserve(Quota::Nodes, 1, 3), None);
        account.release(Quota::Nodes, 1);
        assert_eq!(account.reserve(Quota::Nodes, 1, 3), Some(3));
        assert_eq!(account.reserve(Quota::Nodes, 100, 0), Some(103));
    }

    #[test]
    fn peak_is_the_highest_usage() {
        let account = Account::new(Domid(5), Arc::default());
        account.charge(Quota::Memory, 2);
        account.charge(Quota::Memory, 3);
        account.release(Quota::Memory, 4);
        account.charge(Quota::Memory, 2);
        assert_eq!((account.peak(Quota::Memory), account.used(Quota::Memory)), (5, 3));
    }
}

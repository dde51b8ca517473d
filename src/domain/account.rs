//! What a domain uses of each quota, exact while threads charge it at once.

use super::{Quota, Report, Reports};
use crate::log;
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::words::Domid;

/// Counters in the units of their [`Quota`]. Only the quotas that add up over a domain's life are
/// used: nodes, watches, outstanding, memory and transactions.
pub struct Account {
    domid: Domid,
    /// Where changes go that are traced.
    reports: Arc<Reports>,
    used: [AtomicU64; Quota::COUNT],
    refused: [AtomicU64; Quota::COUNT],
    peaks: [AtomicU64; Quota::COUNT],
}

impl Account {
    /// The account of a life of `domid`.
    pub(super) fn new(domid: Domid, reports: Arc<Reports>) -> Account {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Account { domid, reports, used: zeros(), refused: zeros(), peaks: zeros() }
    }

    /// What is in use.
    pub fn used(&self, quota: Quota) -> u64 {
        self.used[quota as usize].load(Ordering::Relaxed)
    }

    /// Takes `amount` if the sum stays at most `limit` (0: no limit). Answers the new sum, or
    /// `None`, having changed nothing.
    pub fn reserve(&self, quota: Quota, amount: u64, limit: u32) -> Option<u64> {
        let used = &self.used[quota as usize];
        let within = |used: u64| {
            let sum = used.saturating_add(amount);
            (limit == 0 || sum <= u64::from(limit)).then_some(sum)
        };
        #[allow(deprecated)] // Newer Rust calls it try_update, which shuttle's atomics do not know.
        let before = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).ok()?;
        self.trace(quota, before, before + amount);
        Some(before + amount)
    }

    /// Takes `amount` whatever the limit: for what is not the domain's own doing.
    pub fn charge(&self, quota: Quota, amount: u64) {
        let before = self.used[quota as usize].fetch_add(amount, Ordering::Relaxed);
        self.note_peak(quota, before + amount);
        self.trace(quota, before, before + amount);
    }

    /// Gives `amount` back; answers what was in use before.
    pub fn release(&self, quota: Quota, amount: u64) -> u64 {
        let before = self.used[quota as usize].fetch_sub(amount, Ordering::Relaxed);
        debug_assert!(before >= amount, "{} of {before} given back {amount}", quota.name());
        self.trace(quota, before, before.saturating_sub(amount));
        before
    }

    /// Keeps a change for the trace: accounts change under the locks of the store, where nothing is
    /// written to a file.
    fn trace(&self, quota: Quota, before: u64, used: u64) {
        if before != used && tracing::enabled!(target: log::ACC, tracing::Level::TRACE) {
            self.reports.push(Report::Changed { domid: self.domid, quota, before, used });
        }
    }

    /// Remembers a sum if it is the highest yet; of a quota that does not add up, a size.
    pub fn note_peak(&self, quota: Quota, sum: u64) {
        let peak = &self.peaks[quota as usize];
        if sum > peak.load(Ordering::Relaxed) {
            peak.fetch_max(sum, Ordering::Relaxed);
        }
    }

    /// The highest use.
    pub fn peak(&self, quota: Quota) -> u64 {
        self.peaks[quota as usize].load(Ordering::Relaxed)
    }

    /// Takes (`change` > 0) or gives back, whatever the limit.
    pub fn change(&self, quota: Quota, change: i64) {
        if change > 0 {
            self.charge(quota, change.unsigned_abs());
        } else {
            self.release(quota, change.unsigned_abs());
        }
    }

    /// Counts a refusal; answers how many there were before.
    pub fn refuse(&self, quota: Quota) -> u64 {
        self.refused[quota as usize].fetch_add(1, Ordering::Relaxed)
    }

    /// How often the quota refused something.
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
    fn a_peak_is_the_highest_sum() {
        let account = Account::new(Domid(5), Arc::default());
        account.charge(Quota::Memory, 2);
        account.charge(Quota::Memory, 3);
        account.release(Quota::Memory, 4);
        account.charge(Quota::Memory, 2);
        assert_eq!((account.peak(Quota::Memory), account.used(Quota::Memory)), (5, 3));
    }
}

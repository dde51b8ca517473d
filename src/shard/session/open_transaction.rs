//! A transaction that a client has open, and what is charged for it.

use std::cmp::Ordering;
use std::time::Instant;

use crate::domain::{Domain, Quota, Registry};
use crate::store::{Caller, Transaction};
use crate::words::Path;

/// What a transaction that no quota binds is charged with at a time, in bytes. All toolstacks have one
/// account: were it brought up to date with each request, all threads would write to it in turn.
const CHARGE_STEP: u64 = 16 << 10;

/// A transaction that a client has open.
pub struct OpenTransaction {
    /// What it did.
    pub transaction: Transaction,
    /// When its snapshots were taken, if it has any.
    pub snapshots_from: Option<Instant>,
    /// What is charged for it in the quota `memory`.
    pub charged: u64,
}

impl OpenTransaction {
    /// Sees to it that `needed` bytes are charged for a request on `path`; `false` if a quota of the caller's
    /// is reached.
    pub fn reserve(
        &mut self,
        registry: &Registry,
        caller: &Caller,
        needed: u64,
        path: Path<'_>,
    ) -> bool {
        let step = if caller.subject.privileged { CHARGE_STEP } else { 1 };
        let missing = needed.saturating_sub(self.charged).next_multiple_of(step);
        let domain = &caller.domain;
        if missing > 0 && !registry.reserve(domain, Quota::Memory, missing, Some(path)) {
            return false;
        }
        self.charged += missing;
        true
    }

    /// Charges what it holds, whatever the quota: what one request copies may be above it. A transaction whose
    /// snapshots were given up keeps its charge until its log has been run again, which takes as much anew.
    pub fn recharge(&mut self, caller: &Caller) {
        let is_privileged = caller.subject.privileged;
        let held = self.transaction.bytes() as u64;
        let step = if is_privileged { CHARGE_STEP } else { 1 };
        let held = held.next_multiple_of(step);
        if held < self.charged && (is_privileged || self.transaction.is_behind()) {
            return;
        }
        charge_anew(&caller.domain, &mut self.charged, held);
        self.transaction.note_charged();
    }
}

/// Charges `held` bytes in the quota `memory`, of which `charged` are charged already. What stays as it is is not
/// written: threads share the control domain's account.
pub fn charge_anew(domain: &Domain, charged: &mut u64, held: u64) {
    let before = std::mem::replace(charged, held);
    match held.cmp(&before) {
        Ordering::Greater => domain.account.charge(Quota::Memory, held - before),
        Ordering::Equal => {}
        Ordering::Less => _ = domain.account.release(Quota::Memory, before - held),
    }
}

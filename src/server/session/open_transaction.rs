//! An open transaction of a client, and its charge.

use std::cmp::Ordering;
use std::time::Instant;

use crate::domain::{Domain, Quota, Registry};
use crate::store::{Caller, Transaction};
use crate::types::Path;

/// The unit of charges for a caller without quotas, in bytes. All toolstacks share one account: charging each request
/// exactly would make all threads contend for it.
const CHARGE_STEP: u64 = 16 << 10;

/// An open transaction.
pub struct OpenTransaction {
    pub transaction: Transaction,
    /// When the transaction's snapshots were taken, or last renewed for a replay; `None` without snapshots.
    pub snapshots_from: Option<Instant>,
    /// The charge for the transaction in the quota `memory`.
    pub charged: u64,
}

impl OpenTransaction {
    /// Raises the charge for the transaction to `needed` bytes, for a request on `path`. Returns `false` if a quota of
    /// the caller is reached.
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
        // A step covers several requests of a toolstack, which then do not touch the shared account.
        if missing > 0 && !registry.reserve(domain, Quota::Memory, missing, Some(path)) {
            return false;
        }
        self.charged += missing;
        true
    }

    /// Sets the charge to the memory that the transaction holds, even above the quota, which the nodes copied by a
    /// request may exceed. A transaction whose snapshots were dropped keeps its charge until its replay, which copies
    /// as much again.
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

/// Changes the charge in the quota `memory` from `charged` to `held` bytes. An unchanged charge is not written, since
/// threads contend for the control domain's account.
pub fn charge_anew(domain: &Domain, charged: &mut u64, held: u64) {
    let before = std::mem::replace(charged, held);
    match held.cmp(&before) {
        Ordering::Greater => domain.account.charge(Quota::Memory, held - before),
        Ordering::Equal => {}
        Ordering::Less => _ = domain.account.release(Quota::Memory, before - held),
    }
}

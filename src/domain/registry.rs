//! The registry of living incarnations, and the clock of their births.

use std::collections::BTreeSet;

use super::incarnation::packed;
use super::reports::shown;
use super::{Domain, Limits, OwnSettings, Quota, Report, Reports};
use crate::log;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, RwLock, room_for};
use crate::types::{Births, Domid, Path, Subject};

/// All incarnations known to the store.
pub struct Registry {
    births: Births,
    /// Advances when an incarnation is registered, and when one dies.
    clock: AtomicU64,
    /// Advances when an incarnation dies, and when its target or one of its limits changes.
    rights: AtomicU64,
    /// One lock for each domid, so that look-ups of different domains do not contend.
    slots: Box<[RwLock<Option<Arc<Domain>>>]>,
    /// Whether a domain ever got a target. Few hosts have device models in domains of their own; on others a watcher's
    /// rights are known without its slot's lock, which is taken for each event.
    has_targets: AtomicBool,
    /// The domids in use, for enumeration. Its lock also serialises births and deaths.
    known: Mutex<BTreeSet<Domid>>,
    defaults: Limits,
    /// The peak usage of each quota over all unprivileged domains.
    peaks: [AtomicU64; Quota::COUNT],
    privileged: Option<Domid>,
    /// Whether the nodes of dead domains are transferred to the control domain.
    keeps_orphans: bool,
    /// Reports are queued under locks and logged without.
    reports: Arc<Reports>,
}

impl Registry {
    /// Creates a registry that knows only the control domain. `privileged` is a second domain with the control
    /// domain's rights (`--priv-domid`).
    pub fn new(defaults: Limits, privileged: Option<Domid>) -> Registry {
        let slots = (0..room_for(Domid::FIRST_RESERVED)).map(|_| RwLock::new(None)).collect();
        let registry = Registry {
            births: Births::new(),
            clock: AtomicU64::new(Births::CONTROL),
            rights: AtomicU64::new(0),
            slots,
            has_targets: AtomicBool::new(false),
            known: Mutex::new(BTreeSet::from([Domid::CONTROL])),
            defaults,
            peaks: std::array::from_fn(|_| AtomicU64::new(0)),
            privileged,
            keeps_orphans: false,
            reports: Arc::default(),
        };
        let reports = Arc::clone(&registry.reports);
        let limits = registry.defaults.copy();
        let control = Domain::new(Domid::CONTROL, Births::CONTROL, 0, limits, reports);
        *registry.slots[0].write() = Some(Arc::new(control));
        registry
    }

    /// Returns this registry, changed to keep the nodes of dead domains (`--keep-orphans`).
    pub fn keeping_orphans(self) -> Registry {
        Registry { keeps_orphans: true, ..self }
    }

    /// Returns whether a dead domain's nodes are transferred to the control domain instead of being removed.
    pub fn keeps_orphans(&self) -> bool {
        self.keeps_orphans
    }

    /// Returns the birth table used by permission checks.
    pub fn births(&self) -> &Births {
        &self.births
    }

    /// Returns the birth clock.
    pub fn now(&self) -> u64 {
        self.clock.load(Ordering::Acquire)
    }

    /// Returns a version that changes with every death and every change of a target or a limit. While it is unchanged,
    /// permission checks and quotas give the same results. A birth does not change the version: rights set before a
    /// birth do not apply to the new incarnation.
    pub fn rights(&self) -> u64 {
        self.rights.load(Ordering::Acquire)
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Called after the change: a transaction that ran on the former state then finds another version at END.
    fn rights_changed(&self) {
        self.rights.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns the present incarnation of `domid`. Cost: constant.
    pub fn get(&self, domid: Domid) -> Option<Arc<Domain>> {
        self.slots.get(usize::from(domid.0))?.read().clone()
    }

    /// Returns the incarnation that owns a node whose permissions were set at `stamp`, if it is still alive.
    pub fn owner(&self, domid: Domid, stamp: u64) -> Option<Arc<Domain>> {
        self.get(domid).filter(|domain| domain.birth <= stamp)
    }

    /// Registers a living `domid`, with the host's unique id of this incarnation and the current default quotas, and
    /// returns the incarnation; if one is registered, returns that. Returns `None` for a reserved domid. The caller has
    /// queried the host.
    pub fn admit(&self, domid: Domid, unique_id: u64) -> Option<Arc<Domain>> {
        let slot = self.slots.get(usize::from(domid.0))?;
        // Lock order: `known`, then a slot, also in `bury` and `faults`.
        let mut known = self.known.lock();
        // Held until both tables are updated, so that a thread that finds the domain also finds its birth.
        let mut slot = slot.write();
        if let Some(domain) = &*slot {
            return Some(Arc::clone(domain));
        }
        let birth = self.tick();
        let reports = Arc::clone(&self.reports);
        // A copy: a default that is set later applies to domains that become known after that (xenstore.txt,
        // SET_QUOTA).
        let limits = self.defaults.copy();
        // With an account of its own: nodes of the domid's former incarnation do not count (XSA-483).
        let domain = Arc::new(Domain::new(domid, birth, unique_id, limits, reports));
        self.births.begin(domid, birth);
        *slot = Some(Arc::clone(&domain));
        known.insert(domid);
        // No lock is held while a line is formatted and queued.
        drop((slot, known));
        tracing::trace!(target: log::OBJ, domid = domid.0, birth, unique_id, "create domain");
        Some(domain)
    }

    /// Ends an incarnation, which from then on has no rights and no account. The caller then removes the incarnation's
    /// nodes. Returns `false` if the incarnation had ended before.
    pub fn bury(&self, domain: &Arc<Domain>) -> bool {
        let mut known = self.known.lock();
        let mut slot = self.slots[usize::from(domain.domid.0)].write();
        // The slot may hold the next incarnation by now, which a late report of this death must not end.
        if !slot.as_ref().is_some_and(|present| Arc::ptr_eq(present, domain)) {
            return false;
        }
        self.births.end(domain.domid, self.tick());
        *slot = None;
        known.remove(&domain.domid);
        self.rights_changed();
        drop((slot, known));
        tracing::trace!(target: log::OBJ, domid = domain.domid.0, "destroy domain");
        true
    }

    /// Returns all registered domids in ascending order. Cost: linear in the number of registered domids.
    pub fn known(&self) -> Vec<Domid> {
        self.known.lock().iter().copied().collect()
    }

    /// Returns all inconsistencies: a registered domain without an incarnation or with a birth other than in the
    /// birth table, or a domid present in only one of the tables. Cost: checks every domid, about a millisecond,
    /// during which no domain is born or dies.
    pub fn faults(&self) -> Vec<String> {
        let known = self.known.lock();
        let births = |domid| self.births.of(domid);
        let fault = |domid: Domid| {
            let birth = self.get(domid).map(|domain| domain.birth);
            match (known.contains(&domid), birth, births(domid)) {
                (false, None, 0) => None,
                (true, Some(birth), table) if birth == table => None,
                (true, Some(birth), table) => Some(format!(
                    "domain {domid} was born at {birth}, and the table of births says {table}"
                )),
                (true, None, _) => Some(format!("domain {domid} is known, but has no account")),
                (false, Some(_), _) => {
                    Some(format!("domain {domid} has an account, but is not known"))
                }
                (false, None, table) => Some(format!(
                    "domain {domid} is not known, and the table of births says {table}"
                )),
            }
        };
        (0..Domid::FIRST_RESERVED).map(Domid).filter_map(fault).collect()
    }

    /// Returns whether a domain is exempt from quotas and permission checks.
    pub fn is_privileged(&self, domid: Domid) -> bool {
        domid == Domid::CONTROL || Some(domid) == self.privileged
    }

    /// Returns a domain's identity in permission checks, with its target if that is still alive.
    pub fn subject(&self, domain: &Domain) -> Subject {
        let target = domain.target.load(Ordering::Acquire);
        let [_, _, _, _, _, _, high, low] = target.to_be_bytes();
        let tdomid = Domid(u16::from_be_bytes([high, low]));
        // The birth is compared, so a stub domain gains no rights over the next domain with its dead target's domid.
        let lives = target != 0 && self.births.of(tdomid) == target >> 16;
        Subject {
            domid: domain.domid,
            target: lives.then_some(tdomid),
            privileged: self.is_privileged(domain.domid),
        }
    }

    /// Like [`Registry::subject`], but takes a domid, for watchers.
    pub fn subject_of(&self, domid: Domid) -> Subject {
        if self.is_privileged(domid) {
            return Subject { domid, target: None, privileged: true };
        }
        if !self.has_targets.load(Ordering::Acquire) {
            return Subject::guest(domid);
        }
        // Without a clone: threads would contend for the domain's reference count with each event.
        let slot = self.slots.get(usize::from(domid.0)).map(|slot| slot.read());
        match slot.as_deref() {
            Some(Some(domain)) => self.subject(domain),
            _ => Subject::guest(domid),
        }
    }

    /// Gives `domain` the rights of `target` (SET_TARGET).
    pub fn set_target(&self, domain: &Domain, target: &Domain) {
        self.has_targets.store(true, Ordering::Release);
        domain.target.store(packed(target), Ordering::Release);
        domain.setting_changed();
        self.rights_changed();
    }

    /// Restores a domain's quotas, features and target.
    pub fn restore(&self, domain: &Domain, settings: &OwnSettings) {
        // The settings may contain a target.
        self.has_targets.store(true, Ordering::Release);
        domain.set_own(settings);
        self.rights_changed();
    }

    /// Returns a domain's value of a quota; 0 (no limit) for privileged domains.
    pub fn limit(&self, domain: &Domain, quota: Quota) -> u32 {
        if self.is_privileged(domain.domid) {
            return 0;
        }
        domain.limits.get(quota)
    }

    /// Returns the quota values given to newly registered domains.
    pub fn defaults(&self) -> &Limits {
        &self.defaults
    }

    /// Sets a quota for one domain, or for those registered from now on.
    pub fn set_limit(&self, domain: Option<&Domain>, quota: Quota, value: u32) {
        match domain {
            Some(domain) => {
                domain.limits.set(quota, value);
                domain.setting_changed();
                self.rights_changed();
            }
            None => self.defaults.set(quota, value),
        }
    }

    /// Sets the soft memory quota for one domain, or for those registered from now on.
    pub fn set_soft_memory(&self, domain: Option<&Domain>, value: u32) {
        match domain {
            Some(domain) => {
                domain.limits.set_soft_memory(value);
                domain.setting_changed();
            }
            None => self.defaults.set_soft_memory(value),
        }
    }

    /// Charges `amount` of a quota to `domain`. Returns `false` on a refusal, which is counted and reported,
    /// rate-limited, with the path of the request, if any.
    pub fn reserve(
        &self,
        domain: &Domain,
        quota: Quota,
        amount: u64,
        path: Option<Path<'_>>,
    ) -> bool {
        let sum = domain.account.reserve(quota, amount, self.limit(domain, quota));
        match sum {
            Some(sum) => {
                self.note_peak(domain, quota, sum);
                if quota == Quota::Memory {
                    self.note_soft_memory(domain, sum - amount, sum);
                }
            }
            None => self.refuse(domain, quota, path),
        }
        sum.is_some()
    }

    /// Charges `nodes` nodes and `bytes` bytes to `domain`: both or neither.
    pub fn reserve_nodes(
        &self,
        domain: &Domain,
        nodes: u64,
        bytes: u64,
        path: Option<Path<'_>>,
    ) -> bool {
        if nodes > 0 && !self.reserve(domain, Quota::Nodes, nodes, path) {
            return false;
        }
        let room = bytes == 0 || self.reserve(domain, Quota::Memory, bytes, path);
        if !room {
            domain.account.release(Quota::Nodes, nodes);
        }
        room
    }

    /// Returns whether one object of `size` is within a quota that does not accumulate (sizes, lengths).
    pub fn permits(
        &self,
        domain: &Domain,
        quota: Quota,
        size: usize,
        path: Option<Path<'_>>,
    ) -> bool {
        let limit = self.limit(domain, quota);
        self.note_peak(domain, quota, size as u64);
        let permitted = limit == 0 || size as u64 <= u64::from(limit);
        if !permitted {
            self.refuse(domain, quota, path);
        }
        permitted
    }

    /// Counts a refusal, and reports the 1st, 2nd, 4th, 8th ... of a domain and quota.
    pub fn refuse(&self, domain: &Domain, quota: Quota, path: Option<Path<'_>>) {
        let refused = domain.account.refuse(quota) + 1;
        if refused.is_power_of_two() {
            let (domid, limit) = (domain.domid, self.limit(domain, quota));
            let path = path.map(shown);
            // Only queued: the caller may hold shards' locks.
            self.reports.push(Report::Refused { domid, quota, limit, refused, path });
        }
    }

    fn note_soft_memory(&self, domain: &Domain, before: u64, used: u64) {
        let (domid, limit) = (domain.domid, domain.limits.soft_memory());
        let over = u64::from(limit);
        // Reported by the charge that crosses the limit, not by each one above it.
        if limit != 0 && before <= over && over < used && !self.is_privileged(domid) {
            let crossed = domain.soft_crossings.fetch_add(1, Ordering::Relaxed) + 1;
            if crossed.is_power_of_two() {
                self.reports.push(Report::SoftMemory { domid, used, limit });
            }
        }
    }

    /// Logs the queued reports. The caller holds no lock.
    pub fn log_reports(&self) {
        self.reports.log();
    }

    fn note_peak(&self, domain: &Domain, quota: Quota, sum: u64) {
        domain.account.note_peak(quota, sum);
        let peak = &self.peaks[quota as usize];
        // The control domain, which no limit binds, would hide the guests' peaks.
        if !self.is_privileged(domain.domid) && sum > peak.load(Ordering::Relaxed) {
            peak.fetch_max(sum, Ordering::Relaxed);
        }
    }

    /// Returns the peak usage of a quota over all unprivileged domains.
    pub fn peak(&self, quota: Quota) -> u64 {
        self.peaks[quota as usize].load(Ordering::Relaxed)
    }

    /// Resets the peaks (`quota max -r`).
    pub fn reset_peaks(&self) {
        self.peaks.iter().for_each(|peak| peak.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests;

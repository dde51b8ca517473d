//! One life of a domid, with all that ends with it.

use super::{Account, Limits, Reports};
use crate::sync::{Arc, AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::words::{Domid, Presence};

/// Something that a guest can make the log say of it as often as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// What it wrote into its ring's page ended its connection.
    GivenUp,
    /// It did not take its events in time.
    EventsDropped,
}

impl Notice {
    const COUNT: usize = 2;
}

/// One life of a domid. Accounts, quota values and tickets belong to it, never to the bare number.
pub struct Domain {
    /// The number.
    pub domid: Domid,
    /// When it was first known, on the birth clock.
    pub birth: u64,
    /// The host's number for this life.
    pub unique_id: u64,
    /// What it uses.
    pub account: Account,
    /// Its quotas: the defaults of when it became known, until they are set for it (xenstore.txt,
    /// SET_QUOTA).
    pub(super) limits: Limits,
    /// How often its memory rose over the soft quota.
    pub(super) soft_crossings: AtomicU32,
    notices: [AtomicU32; Notice::COUNT],
    /// See [`super::Load`].
    pub(super) undelivered: AtomicU64,
    pub(super) unread_bytes: AtomicU64,
    features: AtomicU32,
    settings: AtomicU64,
    /// The host's number that it had where an import of it came from; 0 for none.
    origin: AtomicU64,
    /// The incarnation whose rights it has too: birth and domid packed; 0 for none.
    pub(super) target: AtomicU64,
    /// A [`Presence`], as the home thread last published it.
    presence: AtomicU8,
    shutdown: AtomicBool,
    silent: AtomicBool,
}

/// What others have set of a domain: quotas, features, target.
pub struct OwnSettings {
    limits: Limits,
    features: u32,
    target: u64,
}

impl Domain {
    pub(super) fn new(
        domid: Domid,
        birth: u64,
        unique_id: u64,
        limits: Limits,
        reports: Arc<Reports>,
    ) -> Domain {
        Domain {
            domid,
            birth,
            unique_id,
            account: Account::new(domid, reports),
            limits,
            soft_crossings: AtomicU32::new(0),
            notices: std::array::from_fn(|_| AtomicU32::new(0)),
            undelivered: AtomicU64::new(0),
            unread_bytes: AtomicU64::new(0),
            features: AtomicU32::new(super::SERVER_FEATURES),
            settings: AtomicU64::new(0),
            origin: AtomicU64::new(0),
            target: AtomicU64::new(0),
            presence: AtomicU8::new(Presence::Absent as u8),
            shutdown: AtomicBool::new(false),
            silent: AtomicBool::new(false),
        }
    }

    /// The weight of the events that its requests caused and that are not delivered.
    pub fn undelivered(&self) -> u64 {
        self.undelivered.load(Ordering::Acquire)
    }

    /// The bytes of the events that its requests caused and that the control domain's kernel has not read.
    pub fn unread_bytes(&self) -> u64 {
        self.unread_bytes.load(Ordering::Acquire)
    }

    /// Returns the values of its quotas. A privileged domain has them too, and none binds it.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The feature bits that it is offered (xenstore-ring.txt, "Server feature bitmap").
    pub fn features(&self) -> u32 {
        self.features.load(Ordering::Relaxed)
    }

    /// Sets the feature bits, before INTRODUCE.
    pub fn set_features(&self, features: u32) {
        self.features.store(features, Ordering::Relaxed);
        self.setting_changed();
    }

    /// How often its quotas, features or target were set: what is taken of them after this was
    /// asked is what it is as long as this does not change.
    pub fn settings(&self) -> u64 {
        self.settings.load(Ordering::Acquire)
    }

    /// Its quotas, features and target as they are set now.
    pub fn own_settings(&self) -> OwnSettings {
        OwnSettings {
            limits: self.limits.copy(),
            features: self.features(),
            target: self.target.load(Ordering::Acquire),
        }
    }

    /// Sets all of them.
    pub(super) fn set_own(&self, settings: &OwnSettings) {
        self.limits.set_all(&settings.limits);
        self.target.store(settings.target, Ordering::Release);
        self.set_features(settings.features);
    }

    /// One of them was set.
    pub(super) fn setting_changed(&self) {
        self.settings.fetch_add(1, Ordering::Release);
    }

    /// The number of [`Domain::unique_id`] that the domain had at the source of the import that
    /// brought it; 0 if none did, or the stream does not say it.
    pub fn origin(&self) -> u64 {
        self.origin.load(Ordering::Relaxed)
    }

    /// Notes an import, or with 0 that it was taken back.
    pub fn set_origin(&self, unique_id: u64) {
        self.origin.store(unique_id, Ordering::Relaxed);
    }

    /// Returns its state, as its home thread last published it.
    pub fn presence(&self) -> Presence {
        let value = usize::from(self.presence.load(Ordering::Acquire));
        Presence::ALL.get(value).copied().unwrap_or(Presence::Absent)
    }

    /// Publishes its state. Only its home thread does.
    pub fn set_presence(&self, presence: Presence) {
        self.presence.store(presence as u8, Ordering::Release);
    }

    /// Whether INTRODUCE was done, and no RELEASE since.
    pub fn is_introduced(&self) -> bool {
        self.presence().is_introduced()
    }

    /// Counts something that the log could say of it. Returns the count if it is logged: the 1st, 2nd,
    /// 4th, 8th ... time, so that a life has at most 32 lines of a kind.
    pub fn notice(&self, notice: Notice) -> Option<u32> {
        let count = self.notices[notice as usize].fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        count.is_power_of_two().then_some(count)
    }

    /// Notes whether it is shut down; answers what was noted before. RESUME sets it back, so that
    /// the next shutdown is reported again. It is a flag as the host has it.
    pub fn swap_shutdown(&self, shutdown: bool) -> bool {
        self.shutdown.swap(shutdown, Ordering::AcqRel)
    }

    /// Notes that its guest does not notify; returns whether that was noted before.
    pub fn note_silent(&self) -> bool {
        self.silent.swap(true, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_keeps_what_is_noted_of_it() {
        let domain = Domain::new(Domid(5), 2, 1, Limits::defaults(), Arc::default());
        assert_eq!(domain.features(), crate::domain::SERVER_FEATURES);
        domain.set_features(1);
        assert_eq!((domain.features(), domain.settings()), (1, 1));
        assert!(!domain.swap_shutdown(true));
        assert!(domain.swap_shutdown(false));
        assert!(!domain.swap_shutdown(false));
        assert!(!domain.is_introduced());
        for presence in Presence::ALL {
            domain.set_presence(presence);
            assert_eq!(domain.presence(), presence);
        }
    }

    #[test]
    fn notice_when_repeated_is_logged_at_powers_of_two() {
        let domain = Domain::new(Domid(5), 2, 1, Limits::defaults(), Arc::default());
        let logged: Vec<_> = (0..20).filter_map(|_| domain.notice(Notice::GivenUp)).collect();
        assert_eq!(logged, [1, 2, 4, 8, 16]);
        assert_eq!(domain.notice(Notice::EventsDropped), Some(1), "each kind for itself");
    }
}

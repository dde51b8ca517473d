//! An incarnation of a domid, with all the state that ends with it.

use super::{Account, Limits, Reports};
use crate::sync::{Arc, AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::types::{Domid, Presence};

/// A logged event that a guest can cause as often as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumCount)]
pub enum Notice {
    /// The guest's writes to its ring page ended its connection.
    GivenUp,
    /// The guest did not read its events in time.
    EventsDropped,
}

impl Notice {
    const COUNT: usize = <Notice as strum::EnumCount>::COUNT;
}

/// An incarnation of a domid. Accounts, quota values and tickets belong to an incarnation, never to the bare domid.
pub struct Domain {
    /// The domid.
    pub domid: Domid,
    /// The time of registration, on the birth clock.
    pub birth: u64,
    /// The unique id that the host gave this incarnation.
    pub unique_id: u64,
    /// The domain's usage of the quotas.
    pub account: Account,
    /// The domain's quotas: the defaults at its registration, until they are set for this domain (xenstore.txt,
    /// SET_QUOTA).
    pub(super) limits: Limits,
    /// Number of times that the domain's memory rose above the soft quota.
    pub(super) soft_crossings: AtomicU32,
    notices: [AtomicU32; Notice::COUNT],
    /// See [`super::Load`].
    pub(super) undelivered: AtomicU64,
    pub(super) unread_bytes: AtomicU64,
    features: AtomicU32,
    settings: AtomicU64,
    /// The unique id that the incarnation had at the source of its import; 0 for none.
    origin: AtomicU64,
    /// The incarnation whose rights this one shares (SET_TARGET); 0 for none. Birth and domid are packed into one word,
    /// so that no reader pairs one target's birth with another's domid.
    pub(super) target: AtomicU64,
    /// A [`Presence`], as last published by the owner thread.
    presence: AtomicU8,
    shutdown: AtomicBool,
    silent: AtomicBool,
}

/// The settings made for a domain by the control domain: quotas, features, target.
pub struct OwnSettings {
    /// The quota values.
    pub limits: Limits,
    /// The feature bits.
    pub features: u32,
    /// The target's birth and domid, packed; 0 for none.
    target: u64,
}

impl OwnSettings {
    /// Creates settings, with a target.
    pub fn new(limits: Limits, features: u32, target: Option<&Domain>) -> OwnSettings {
        OwnSettings { limits, features, target: target.map_or(0, packed) }
    }

    /// Returns the domid and the birth of the target, if there is one; it may have died.
    pub fn target(&self) -> Option<(Domid, u64)> {
        let [_, _, _, _, _, _, high, low] = self.target.to_be_bytes();
        let domid = Domid(u16::from_be_bytes([high, low]));
        (self.target != 0).then_some((domid, self.target >> 16))
    }
}

/// Returns an incarnation in the form of [`Domain::target`]: birth and domid in one word.
pub(super) fn packed(domain: &Domain) -> u64 {
    domain.birth << 16 | u64::from(domain.domid.0)
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

    /// Returns the weight of the undelivered events caused by this domain's requests.
    pub fn undelivered(&self) -> u64 {
        self.undelivered.load(Ordering::Acquire)
    }

    /// Returns the number of bytes of events that were caused by this domain's requests and are unread by the control
    /// domain's kernel.
    pub fn unread_bytes(&self) -> u64 {
        self.unread_bytes.load(Ordering::Acquire)
    }

    /// Returns the domain's quota values. A privileged domain has quota values too, but is not bound by them.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the feature bits offered to the domain (xenstore-ring.txt, "Server feature bitmap").
    pub fn features(&self) -> u32 {
        self.features.load(Ordering::Relaxed)
    }

    /// Sets the feature bits; called before INTRODUCE.
    pub fn set_features(&self, features: u32) {
        self.features.store(features, Ordering::Relaxed);
        // After the store: a copy of the settings that lacks it finds another count.
        self.setting_changed();
    }

    /// Returns how often the domain's quotas, features or target were set. A copy of these settings taken after this
    /// call is current while the count does not change.
    pub fn settings(&self) -> u64 {
        self.settings.load(Ordering::Acquire)
    }

    /// Returns the domain's current quotas, features and target.
    pub fn own_settings(&self) -> OwnSettings {
        OwnSettings {
            limits: self.limits.copy(),
            features: self.features(),
            target: self.target.load(Ordering::Acquire),
        }
    }

    /// Sets the domain's quotas, features and target.
    pub(super) fn set_own(&self, settings: &OwnSettings) {
        self.limits.set_all(&settings.limits);
        self.target.store(settings.target, Ordering::Release);
        // Last, as it counts the change.
        self.set_features(settings.features);
    }

    /// Sets what [`Domain::settings`] counts, and whether the domain is shut down, as another process left them.
    pub fn continue_from(&self, settings: u64, shutdown: bool, silent: bool) {
        self.settings.store(settings, Ordering::Release);
        self.shutdown.store(shutdown, Ordering::Release);
        self.silent.store(silent, Ordering::Relaxed);
    }

    /// Returns whether the domain is shut down, and whether its guest does not notify.
    pub fn reported(&self) -> (bool, bool) {
        (self.shutdown.load(Ordering::Acquire), self.silent.load(Ordering::Relaxed))
    }

    /// Counts a change of a setting.
    pub(super) fn setting_changed(&self) {
        self.settings.fetch_add(1, Ordering::Release);
    }

    /// Returns the value that [`Domain::unique_id`] had at the source of the import that brought the domain; 0 if the
    /// domain was not imported, or the stream lacks the id.
    pub fn origin(&self) -> u64 {
        self.origin.load(Ordering::Relaxed)
    }

    /// Records an import; 0 clears the record.
    pub fn set_origin(&self, unique_id: u64) {
        self.origin.store(unique_id, Ordering::Relaxed);
    }

    /// Returns the domain's state, as last published by its owner thread.
    pub fn presence(&self) -> Presence {
        let value = usize::from(self.presence.load(Ordering::Acquire));
        Presence::ALL.get(value).copied().unwrap_or(Presence::Absent)
    }

    /// Publishes its state. Called only by the domain's owner thread.
    pub fn set_presence(&self, presence: Presence) {
        self.presence.store(presence as u8, Ordering::Release);
    }

    /// Returns whether the domain was introduced and has not been released since.
    pub fn is_introduced(&self) -> bool {
        self.presence().is_introduced()
    }

    /// Counts an event for the log. Returns the count if this occurrence is logged: the 1st, 2nd, 4th, 8th ..., at
    /// most 32 lines of a kind per incarnation.
    pub fn notice(&self, notice: Notice) -> Option<u32> {
        let count = self.notices[notice as usize].fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        count.is_power_of_two().then_some(count)
    }

    /// Records whether the domain is shut down, as reported by the host, and returns the previous value. RESUME clears
    /// it, so that the next shutdown is reported again.
    pub fn swap_shutdown(&self, shutdown: bool) -> bool {
        self.shutdown.swap(shutdown, Ordering::AcqRel)
    }

    /// Records that its guest does not notify; returns whether that was recorded before.
    pub fn note_silent(&self) -> bool {
        self.silent.swap(true, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incarnation_keeps_its_attributes() {
        let domain = Domain::new(Domid(5), 2, 1, Limits::defaults(), Arc::default());
        assert_eq!(domain.features(), crate::domain::SERVER_FEATURES);
        domain.set_features(1);
        assert_eq!((domain.features(), domain.settings()), (1, 1));
        assert!(!domain.swap_shutdown(true));
        assert!(domain.swap_shutdown(false));
        assert!(!domain.swap_shutdown(false));
        assert!(!domain.is_introduced());
        for &presence in Presence::ALL {
            domain.set_presence(presence);
            assert_eq!(domain.presence(), presence);
        }
    }

    #[test]
    fn repeated_notice_is_logged_at_powers_of_two() {
        let domain = Domain::new(Domid(5), 2, 1, Limits::defaults(), Arc::default());
        let logged: Vec<_> = (0..20).filter_map(|_| domain.notice(Notice::GivenUp)).collect();
        assert_eq!(logged, [1, 2, 4, 8, 16]);
        assert_eq!(domain.notice(Notice::EventsDropped), Some(1), "kinds are counted separately");
    }
}

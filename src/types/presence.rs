//! The migration state of a domain at one daemon, as docs/MIGRATION.md names it.

/// The migration state of a domain at one daemon. One byte, since the owner thread publishes it as an atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, strum::VariantArray)]
#[repr(u8)]
pub enum Presence {
    /// Not introduced, and no connection state is kept.
    Absent,
    /// Not introduced; an import of it is in progress.
    Arriving,
    /// Imported, not yet introduced.
    Arrived,
    /// Imported, introduced, not yet served: quiesced.
    ArrivedIntroduced,
    /// Introduced and served.
    Running,
    /// Introduced and quiesced, neither exported (without a mark) nor imported.
    Quiesced,
    /// Quiesced, with the mark of an export.
    Exported,
    /// Released with a mark; its connection state is kept.
    Left,
    /// Introduced; its last request is being drained, and no further one is accepted.
    Quiescing,
}

impl Presence {
    /// All states, in the order of their discriminants.
    pub const ALL: &[Presence] = <Presence as strum::VariantArray>::VARIANTS;

    /// Returns the name used in the reply of DOMAIN_STATES, where `Quiescing` counts as quiesced.
    pub fn name(self) -> &'static str {
        match self {
            Presence::Absent => "absent",
            Presence::Arriving => "arriving",
            Presence::Arrived => "arrived",
            Presence::ArrivedIntroduced => "arrived-introduced",
            Presence::Running => "running",
            Presence::Quiescing | Presence::Quiesced => "quiesced",
            Presence::Exported => "exported",
            Presence::Left => "left",
        }
    }

    /// The inverse of [`Presence::name`]; never `Quiescing`.
    pub fn from_name(name: &str) -> Option<Presence> {
        Presence::ALL.iter().copied().find(|presence| presence.name() == name)
    }

    /// Returns whether the domain was imported and not served since, so that it can be discarded.
    pub fn has_arrived(self) -> bool {
        matches!(self, Presence::Arrived | Presence::ArrivedIntroduced)
    }

    /// Returns whether the domain's ring page is mapped, served or not.
    pub fn is_introduced(self) -> bool {
        use Presence::{ArrivedIntroduced, Exported, Quiesced, Quiescing, Running};
        matches!(self, ArrivedIntroduced | Running | Quiescing | Quiesced | Exported)
    }

    /// Returns whether the domain's ring page is mapped but its requests are not served.
    pub fn is_quiesced(self) -> bool {
        self.is_introduced() && self != Presence::Running
    }

    /// Returns why the domain cannot be imported in this state, and which xsctl command resolves it.
    pub fn in_the_way(self) -> &'static str {
        match self {
            Presence::Absent => "it is not introduced",
            Presence::Arriving => "another import of it is in progress: wait until it ends",
            Presence::Arrived => {
                "it is imported and not introduced: xsctl introduce continues, xsctl discard \
                 undoes the import"
            }
            Presence::ArrivedIntroduced => {
                "it is imported and introduced, but not served yet: xsctl unquiesce serves it once \
                 its source has released it, xsctl discard undoes the import"
            }
            Presence::Running => "it is introduced and served",
            Presence::Quiescing | Presence::Quiesced => {
                "it is introduced and quiesced, but was not imported: xsctl unquiesce serves it"
            }
            Presence::Exported => {
                "it is introduced and exported from here: xsctl release ends it here, xsctl \
                 unquiesce serves it"
            }
            Presence::Left => {
                "it was released here, but the domain has not been destroyed: destroy it with the \
                 toolstack, or reconnect it with xsctl introduce"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_unique_name_and_sentence() {
        for presence in Presence::ALL.iter().copied().filter(|it| *it != Presence::Quiescing) {
            assert_eq!(Presence::from_name(presence.name()), Some(presence));
            let like = |other: &&Presence| other.in_the_way() == presence.in_the_way();
            let alike = 1 + usize::from(presence == Presence::Quiesced);
            assert_eq!(Presence::ALL.iter().filter(like).count(), alike);
        }
        assert_eq!(Presence::from_name("served"), None);
    }
}

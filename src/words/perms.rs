//! Permission sets: an entry holds only for an incarnation that the birth clock tells from the next.

use smallvec::SmallVec;

use super::{Births, Domid, Errno};
use crate::sync::Arc;

/// What may be done with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access(u8);

impl Access {
    /// Nothing (letter `n`).
    pub const NONE: Access = Access(0);
    /// Reading (letter `r`).
    pub const READ: Access = Access(1);
    /// Writing (letter `w`).
    pub const WRITE: Access = Access(2);
    /// Both (letter `b`).
    pub const BOTH: Access = Access(3);
    /// What the owner and the control domain have: both, and changing permissions.
    pub const OWNER: Access = Access(7);

    /// What SET_PERMS needs: writing, as its owner.
    pub const SET_PERMS: Access = Access(6);

    /// Whether any of `wanted` is allowed.
    pub fn overlaps(self, wanted: Access) -> bool {
        self.0 & wanted.0 != 0
    }

    /// Whether all of `wanted` is allowed.
    pub fn allows(self, wanted: Access) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// The letter of xenstore.txt, SET_PERMS.
    pub fn letter(self) -> u8 {
        match self.0 & 3 {
            0 => b'n',
            1 => b'r',
            2 => b'w',
            _ => b'b',
        }
    }

    /// The inverse of [`Access::letter`].
    pub fn from_letter(letter: u8) -> Option<Access> {
        match letter {
            b'n' => Some(Access::NONE),
            b'r' => Some(Access::READ),
            b'w' => Some(Access::WRITE),
            b'b' => Some(Access::BOTH),
            _ => None,
        }
    }
}

/// One permission entry: `r5` is `READ` for domain 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Whom it is about. In the first entry: the owner.
    pub domid: Domid,
    /// What they may do. In the first entry: what everybody without an entry may do.
    pub access: Access,
    /// Shown, never applied: set without the right to set it (`DOMID_ANY` without the feature), or for
    /// a domain that was not there.
    pub ignored: bool,
}

impl Entry {
    /// Reads `<letter><domid>` (xenstore.txt, SET_PERMS).
    ///
    /// # Errors
    /// `EINVAL` for anything else.
    pub fn parse(text: &[u8]) -> Result<Entry, Errno> {
        let (&letter, digits) = text.split_first().ok_or(Errno::EINVAL)?;
        let access = Access::from_letter(letter).ok_or(Errno::EINVAL)?;
        let domid = Domid::parse(digits).ok_or(Errno::EINVAL)?;
        Ok(Entry { domid, access, ignored: false })
    }
}

/// Who asks: a domain, and the domain that it stands in for (SET_TARGET).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The domain itself. Sockets are the control domain.
    pub domid: Domid,
    /// The living domain whose rights it has besides its own.
    pub target: Option<Domid>,
    /// Whether it may do everything: the control domain, and a `--priv-domid`.
    pub privileged: bool,
}

impl Subject {
    /// The control domain, or the daemon itself.
    pub const CONTROL: Subject = Subject { domid: Domid::CONTROL, target: None, privileged: true };

    /// A domain without privileges or target.
    pub fn guest(domid: Domid) -> Subject {
        Subject { domid, target: None, privileged: false }
    }

    fn is(&self, domid: Domid) -> bool {
        domid == self.domid || Some(domid) == self.target
    }
}

/// Who may do what with a node: the owner first, then up to a quota's worth of entries.
///
/// A set carries the *birth clock* of the moment at which it was set. Only SET_PERMS sets it; a
/// created node inherits its parent's set, stamp included. An entry holds only for an incarnation
/// that was known by then, so a reused domid inherits nothing (XSA-322, XSA-417).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermSet {
    stamp: u64,
    entries: SmallVec<[Entry; 2]>,
}

/// A shared permission set: most nodes share their parent's.
pub type Perms = Arc<PermSet>;

impl PermSet {
    /// A set of `owner` first and `others` after it, set when the birth clock stood at `stamp`.
    pub fn new(stamp: u64, owner: Entry, others: &[Entry]) -> PermSet {
        let mut entries = SmallVec::with_capacity(1 + others.len());
        entries.push(owner);
        entries.extend_from_slice(others);
        PermSet { stamp, entries }
    }

    /// `n0`: the control domain's own, unreadable to guests.
    pub fn control_only() -> PermSet {
        let owner = Entry { domid: Domid::CONTROL, access: Access::NONE, ignored: false };
        PermSet::new(Births::CONTROL, owner, &[])
    }

    /// Returns the entries that clients see: the owner's first, then the others without those set before a
    /// death of their domain. Such an entry is left in the set, as taking it out would cost a death a
    /// walk over all nodes; shown, it would be written back by a client that changes another entry, and
    /// then hold for the next incarnation. The owner's entry is always shown: a node of a dead domain is
    /// about to be removed. Cost: a lookup for each entry.
    pub fn shown<'p>(&'p self, births: &'p Births) -> impl Iterator<Item = &'p Entry> {
        let (owner, others) = self.entries.split_at(1);
        owner.iter().chain(others.iter().filter(|entry| !self.is_dead(entry, births)))
    }

    fn is_dead(&self, entry: &Entry, births: &Births) -> bool {
        births.died_since(entry.domid, self.stamp)
    }

    /// Returns all entries, the owner's first, also those of dead domains: what the set costs.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The domain that owns the node.
    pub fn owner(&self) -> Domid {
        self.entries[0].domid
    }

    /// When it was set, on the birth clock.
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// What a node created by `subject` below one with these permissions gets: the same, with a
    /// guest as its owner (guests own what they create). `now` is the birth clock.
    ///
    /// A new owner needs a stamp that is not older than it. Under that stamp entries of the dead would
    /// look alive, so they are left out; those that do not hold otherwise are marked (XSA-417).
    pub fn inherited(self: &Arc<Self>, subject: &Subject, births: &Births, now: u64) -> Perms {
        let is_owner = self.owner() == subject.domid && births.holds(subject.domid, self.stamp);
        if subject.privileged || is_owner {
            return Arc::clone(self);
        }
        let mark = |entry: &Entry| {
            let holds = entry.domid == Domid::ANY || births.holds(entry.domid, self.stamp);
            Entry { ignored: entry.ignored || !holds, ..*entry }
        };
        let owner = Entry { domid: subject.domid, ..self.entries[0] };
        let others = self.shown(births).skip(1).map(mark);
        let entries = [owner].into_iter().chain(others).collect();
        Arc::new(PermSet { stamp: now, entries })
    }

    /// What `subject` may do. Cost: the number of entries.
    pub fn access(&self, subject: &Subject, births: &Births) -> Access {
        if subject.privileged {
            return Access::OWNER;
        }
        let holds = |entry: &Entry| {
            !entry.ignored
                && (entry.domid == Domid::ANY
                    || subject.is(entry.domid) && births.holds(entry.domid, self.stamp))
        };
        let (owner, others) = (&self.entries[0], &self.entries[1..]);
        if holds(owner) {
            return Access::OWNER;
        }
        others.iter().find(|entry| holds(entry)).map_or(owner.access, |entry| entry.access)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(stamp: u64, texts: &[&str]) -> Perms {
        let entries: Vec<_> =
            texts.iter().map(|text| Entry::parse(text.as_bytes()).unwrap()).collect();
        Arc::new(PermSet::new(stamp, entries[0], &entries[1..]))
    }

    #[test]
    fn the_first_entry_names_the_owner_and_the_default() {
        let births = Births::new();
        births.begin(Domid(5), 2);
        births.begin(Domid(6), 2);
        births.begin(Domid(7), 2);
        let perms = set(3, &["r5", "b6", "n7"]);
        let access = |domid| perms.access(&Subject::guest(Domid(domid)), &births);
        assert_eq!(access(5), Access::OWNER);
        assert_eq!(access(6), Access::BOTH);
        assert_eq!(access(7), Access::NONE);
        assert_eq!(access(8), Access::READ);
        assert_eq!(perms.access(&Subject::CONTROL, &births), Access::OWNER);
        let stub = Subject { domid: Domid(8), target: Some(Domid(6)), privileged: false };
        assert_eq!(perms.access(&stub, &births), Access::BOTH);
    }

    #[test]
    fn xsa_322_a_reused_domid_inherits_nothing() {
        let births = Births::new();
        births.begin(Domid(5), 2);
        let perms = set(3, &["n0", "r5"]);
        let access = || perms.access(&Subject::guest(Domid(5)), &births);
        assert_eq!(access(), Access::READ);
        births.end(Domid(5), 4);
        assert_eq!(access(), Access::NONE);
        births.begin(Domid(5), 5);
        assert_eq!(access(), Access::NONE);
    }

    #[test]
    fn xsa_417_inheriting_revives_no_early_entry() {
        let births = Births::new();
        let parent = set(3, &["b0", "b5"]);
        births.begin(Domid(5), 4);
        births.begin(Domid(6), 5);
        let child = parent.inherited(&Subject::guest(Domid(6)), &births, 6);
        assert_eq!(child.owner(), Domid(6));
        assert_eq!(child.access(&Subject::guest(Domid(6)), &births), Access::OWNER);
        assert!(child.entries()[1].ignored);
        let shared = child.inherited(&Subject::guest(Domid(6)), &births, 7);
        assert!(Arc::ptr_eq(&shared, &child));
    }

    #[test]
    fn entries_of_the_dead_are_neither_shown_nor_inherited() {
        let births = Births::new();
        births.begin(Domid(5), 2);
        births.begin(Domid(6), 3);
        let parent = set(4, &["b0", "b5", "r6", "w9"]);
        births.end(Domid(5), 5);
        let texts = |perms: &Perms| -> Vec<String> {
            let text = |entry: &Entry| format!("{}{}", entry.access.letter() as char, entry.domid);
            perms.shown(&births).map(text).collect()
        };
        assert_eq!(texts(&parent), ["b0", "r6", "w9"], "9 was never there");
        births.begin(Domid(5), 6);
        assert_eq!(texts(&parent), ["b0", "r6", "w9"], "the next 5 is another domain");
        assert_eq!(texts(&set(6, &["b0", "b5"])), ["b0", "b5"], "set for the next 5");
        let child = parent.inherited(&Subject::guest(Domid(6)), &births, 7);
        assert_eq!(texts(&child), ["b6", "r6", "w9"]);
        assert_eq!(child.entries().len(), 3);
        assert_eq!(child.access(&Subject::guest(Domid(6)), &births), Access::OWNER);
        let owned = set(6, &["n5", "r6"]);
        births.end(Domid(5), 8);
        assert_eq!(texts(&owned), ["n5", "r6"], "the owner's is always shown");
    }

    #[test]
    fn all_domains_hold_unless_set_without_the_right() {
        let births = Births::new();
        births.begin(Domid(5), 2);
        let mut any = Entry::parse(b"r32757").unwrap();
        let owner = Entry::parse(b"n0").unwrap();
        let read = |any| PermSet::new(3, owner, &[any]).access(&Subject::guest(Domid(5)), &births);
        assert_eq!(read(any), Access::READ);
        any.ignored = true;
        assert_eq!(read(any), Access::NONE);
    }

    #[test]
    fn malformed_entries_are_einval() {
        for text in ["", "r", "x5", "r-1", "r65536", "5r", "r5 "] {
            assert_eq!(Entry::parse(text.as_bytes()), Err(Errno::EINVAL), "{text:?}");
        }
    }
}

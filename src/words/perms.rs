//! Permission sets and the births that decide whether an entry still means anybody.

use smallvec::SmallVec;

use super::{Domid, Errno};
use crate::sync::{Arc, AtomicU64, Ordering, room_for};

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
    /// Set without the right to set it (`DOMID_ANY` without the feature): shown, never applied.
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

    /// The entries, the owner's first.
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
    /// A new owner needs a stamp that is not older than it; entries that no longer hold must not
    /// come back to life by the new stamp, so they are marked (XSA-417).
    pub fn inherited(self: &Arc<Self>, subject: &Subject, births: &Births, now: u64) -> Perms {
        let is_owner = self.owner() == subject.domid && births.holds(subject.domid, self.stamp);
        if subject.privileged || is_owner {
            return Arc::clone(self);
        }
        let mut entries = self.entries.clone();
        for entry in &mut entries[1..] {
            entry.ignored |= entry.domid != Domid::ANY && !births.holds(entry.domid, self.stamp);
        }
        entries[0].domid = subject.domid;
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

/// When each living domain was first known, on the birth clock; 0 for none.
pub struct Births {
    table: Box<[AtomicU64]>,
}

impl Births {
    /// The control domain's birth: before everything.
    pub const CONTROL: u64 = 1;

    /// A table in which only the control domain lives.
    pub fn new() -> Births {
        let table: Box<[AtomicU64]> =
            (0..room_for(Domid::FIRST_RESERVED)).map(|_| AtomicU64::new(0)).collect();
        table[0].store(Births::CONTROL, Ordering::Relaxed);
        Births { table }
    }

    /// The birth of the domain's present incarnation, 0 if there is none.
    pub fn of(&self, domid: Domid) -> u64 {
        self.table.get(usize::from(domid.0)).map_or(0, |birth| birth.load(Ordering::Acquire))
    }

    /// Begins (`birth` > 0) or ends (0) an incarnation.
    pub fn set(&self, domid: Domid, birth: u64) {
        if let Some(slot) = self.table.get(usize::from(domid.0)) {
            slot.store(birth, Ordering::Release);
        }
    }

    /// Whether an entry about `domid` set at `stamp` means the present incarnation.
    pub fn holds(&self, domid: Domid, stamp: u64) -> bool {
        let birth = self.of(domid);
        0 < birth && birth <= stamp
    }
}

impl Default for Births {
    fn default() -> Births {
        Births::new()
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
        births.set(Domid(5), 2);
        births.set(Domid(6), 2);
        births.set(Domid(7), 2);
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
        births.set(Domid(5), 2);
        let perms = set(3, &["n0", "r5"]);
        let access = || perms.access(&Subject::guest(Domid(5)), &births);
        assert_eq!(access(), Access::READ);
        births.set(Domid(5), 0);
        assert_eq!(access(), Access::NONE);
        births.set(Domid(5), 4);
        assert_eq!(access(), Access::NONE);
    }

    #[test]
    fn xsa_417_inheriting_revives_no_stale_entry() {
        let births = Births::new();
        births.set(Domid(5), 2);
        let parent = set(3, &["b0", "b5"]);
        births.set(Domid(5), 4);
        births.set(Domid(6), 5);
        let child = parent.inherited(&Subject::guest(Domid(6)), &births, 6);
        assert_eq!(child.owner(), Domid(6));
        assert_eq!(child.access(&Subject::guest(Domid(6)), &births), Access::OWNER);
        assert!(child.entries()[1].ignored);
        let shared = child.inherited(&Subject::guest(Domid(6)), &births, 7);
        assert!(Arc::ptr_eq(&shared, &child));
    }

    #[test]
    fn all_domains_hold_unless_set_without_the_right() {
        let births = Births::new();
        births.set(Domid(5), 2);
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

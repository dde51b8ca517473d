//! Permission sets. An entry applies to one incarnation of its domain; the birth clock distinguishes incarnations.

use smallvec::SmallVec;

use super::{Births, Domid, Errno};
use crate::sync::Arc;

/// Access rights to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access(u8);

impl Access {
    /// No access (letter `n`).
    pub const NONE: Access = Access(0);
    /// Read access (letter `r`).
    pub const READ: Access = Access(1);
    /// Write access (letter `w`).
    pub const WRITE: Access = Access(2);
    /// Read and write access (letter `b`).
    pub const BOTH: Access = Access(3);
    /// The rights of the owner and of the control domain: read, write, and change permissions.
    /// The third right has no letter, so that no entry can grant it.
    pub const OWNER: Access = Access(7);

    /// The rights that SET_PERMS requires: write access as the owner.
    pub const SET_PERMS: Access = Access(6);

    /// Returns whether any of the rights `wanted` is granted.
    pub fn overlaps(self, wanted: Access) -> bool {
        self.0 & wanted.0 != 0
    }

    /// Returns whether all of the rights `wanted` are granted.
    pub fn allows(self, wanted: Access) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// Returns the letter of xenstore.txt, SET_PERMS. [`Access::OWNER`] is `b`.
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

/// A permission entry: `r5` is `READ` for domain 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The domain that gets the access; in the first entry: the owner.
    pub domid: Domid,
    /// The access that the domain gets; in the first entry: that of every domain without an entry.
    pub access: Access,
    /// Listed but never applied: it was set without the right to set it (`DOMID_ANY` without the feature), or for a
    /// domain that did not exist.
    pub ignored: bool,
}

impl Entry {
    /// Parses `<letter><domid>` (xenstore.txt, SET_PERMS).
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

/// The subject of an access check: a domain, and the domain that it stands in for (SET_TARGET).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The domain itself; the control domain for a client of the socket.
    pub domid: Domid,
    /// The living domain whose rights the subject has in addition to its own.
    pub target: Option<Domid>,
    /// Whether all checks are bypassed: the control domain, and that of `--priv-domid`.
    pub privileged: bool,
}

impl Subject {
    /// The control domain, or the daemon itself.
    pub const CONTROL: Subject = Subject { domid: Domid::CONTROL, target: None, privileged: true };

    /// Makes the subject of a domain without privileges or target.
    pub fn guest(domid: Domid) -> Subject {
        Subject { domid, target: None, privileged: false }
    }

    fn is(&self, domid: Domid) -> bool {
        domid == self.domid || Some(domid) == self.target
    }
}

/// The permissions of a node: the owner's entry first, then others up to a quota.
///
/// A set is stamped with the *birth clock* at the time when it was set. Only SET_PERMS changes the set; a created node
/// inherits its parent's set, stamp included. An entry applies only to an incarnation born by then, so a reused domid
/// inherits nothing (XSA-322, XSA-417).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermSet {
    stamp: u64,
    entries: SmallVec<[Entry; 2]>,
}

/// A shared permission set: most nodes share their parent's.
pub type Perms = Arc<PermSet>;

impl PermSet {
    /// Makes a set of `owner` followed by `others`, with the birth clock at `stamp`.
    pub fn new(stamp: u64, owner: Entry, others: &[Entry]) -> PermSet {
        let mut entries = SmallVec::with_capacity(1 + others.len());
        entries.push(owner);
        entries.extend_from_slice(others);
        PermSet { stamp, entries }
    }

    /// Returns `n0`: owned by the control domain, no access for guests.
    pub fn control_only() -> PermSet {
        let owner = Entry { domid: Domid::CONTROL, access: Access::NONE, ignored: false };
        PermSet::new(Births::CONTROL, owner, &[])
    }

    /// Returns the entries that clients see: the owner's, then the others except those set before a death of their
    /// domain. Such stale entries stay in the set, because removing them would make each death walk all nodes. Stale
    /// entries are hidden because a client that changes another entry would write them back, and they would then apply
    /// to the next incarnation. The owner's entry is always shown: a node of a dead domain is about to be removed.
    /// Cost: one lookup per entry.
    pub fn shown<'p>(&'p self, births: &'p Births) -> impl Iterator<Item = &'p Entry> {
        let (owner, others) = self.entries.split_at(1);
        owner.iter().chain(others.iter().filter(|entry| !self.is_dead(entry, births)))
    }

    /// Returns the entries that clients see, for a reader that does not know when they were set, such as another daemon:
    /// those that apply to no living domain are marked as ignored. Cost: one lookup per entry.
    pub fn lasting<'p>(&'p self, births: &'p Births) -> impl Iterator<Item = Entry> + use<'p> {
        self.shown(births).map(|entry| {
            let holds = entry.domid == Domid::ANY || births.holds(entry.domid, self.stamp);
            Entry { ignored: entry.ignored || !holds, ..*entry }
        })
    }

    fn is_dead(&self, entry: &Entry, births: &Births) -> bool {
        // Only the last death is kept, which suffices: an entry that an earlier one made stale is older than the last
        // too.
        births.died_since(entry.domid, self.stamp)
    }

    /// Returns all entries, the owner's first, including those of dead domains. Accounting charges for all of them.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the domain that owns the node.
    pub fn owner(&self) -> Domid {
        self.entries[0].domid
    }

    /// Returns the value of the birth clock when the set was set.
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// Returns the permissions of a node that `subject` creates below a node with this set: the same set, but owned by
    /// `subject` unless that is privileged: guests own the nodes that they create, as in C xenstored (COMPATIBILITY.md,
    /// o-inherited-owner). `now` is the birth clock.
    ///
    /// A new owner needs a stamp no older than its birth. Under the new stamp, entries of dead domains would appear
    /// alive, so they are left out; other entries that do not apply are marked `ignored` (XSA-417).
    pub fn inherited(self: &Arc<Self>, subject: &Subject, births: &Births, now: u64) -> Perms {
        // By the stamp too: a set of the domid's earlier incarnation must not be shared with this one.
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

    /// Returns the rights of `subject`. Cost: the number of entries.
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
        // The first entry that applies decides, even if a later one grants more.
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
    fn entries_of_dead_domains_are_neither_shown_nor_inherited() {
        let births = Births::new();
        births.begin(Domid(5), 2);
        births.begin(Domid(6), 3);
        let parent = set(4, &["b0", "b5", "r6", "w9"]);
        births.end(Domid(5), 5);
        let texts = |perms: &Perms| -> Vec<String> {
            let text = |entry: &Entry| format!("{}{}", entry.access.letter() as char, entry.domid);
            perms.shown(&births).map(text).collect()
        };
        assert_eq!(texts(&parent), ["b0", "r6", "w9"], "9 never existed, so its entry is shown");
        births.begin(Domid(5), 6);
        assert_eq!(
            texts(&parent),
            ["b0", "r6", "w9"],
            "a new incarnation of 5 does not revive the entry"
        );
        assert_eq!(
            texts(&set(6, &["b0", "b5"])),
            ["b0", "b5"],
            "an entry set for the new incarnation is shown"
        );
        let child = parent.inherited(&Subject::guest(Domid(6)), &births, 7);
        assert_eq!(texts(&child), ["b6", "r6", "w9"]);
        assert_eq!(child.entries().len(), 3);
        assert_eq!(child.access(&Subject::guest(Domid(6)), &births), Access::OWNER);
        let owned = set(6, &["n5", "r6"]);
        births.end(Domid(5), 8);
        assert_eq!(texts(&owned), ["n5", "r6"], "the owner's entry is always shown");
    }

    #[test]
    fn entry_for_all_domains_applies_unless_ignored() {
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
    fn malformed_permission_entries_are_einval() {
        for text in ["", "r", "x5", "r-1", "r65536", "5r", "r5 "] {
            assert_eq!(Entry::parse(text.as_bytes()), Err(Errno::EINVAL), "{text:?}");
        }
    }
}

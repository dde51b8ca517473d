//! Telling those who watch: from changes to batches of events, with the commit's locks held.

use std::cell::{LazyCell, OnceCell};
use std::collections::HashSet;

use foldhash::fast::RandomState;
use indexmap::IndexMap;
use smallvec::SmallVec;

use super::context::{Caller, Change, Removed};
use super::forest::{LockSet, Locked};
use super::node::{Node, NodeArc};
use super::touched::TouchedHomes;
use super::tree::find;
use super::{Shard, Store};
use crate::domain::Ticket;
use crate::sync::Arc;
use crate::watch::{Batch, Entry, Event, Matches, Trie};
use crate::words::{Access, Domid, Path, PermSet, Perms};

impl Store {
    /// Pushes the events of `changes` to the threads of those who watch. Cost: the depth of each
    /// path, the watches below each removed one, and the matches.
    ///
    /// `replaced` are the homes that a transaction changed, if it is one: what neither was there
    /// before nor is there now has not changed.
    ///
    /// Answers the ticket that a guest's request holds for them, if there are any.
    pub(super) fn publish(
        &self,
        locked: &Locked<'_>,
        replaced: Option<&TouchedHomes>,
        changes: &[Change],
        caller: &Caller,
    ) -> Option<Arc<Ticket>> {
        let concerns = |change: &Change| {
            !change.removed.is_empty() || self.upper.may_match(change.path.as_path())
        };
        let upper = changes.iter().any(concerns).then(|| self.upper.load());
        let removes = changes.iter().any(|change| !change.removed.is_empty());
        let paths = OnceCell::new();
        let scene = Scene { store: self, locked, replaced, changes, removes, paths, upper };
        let mut looks = Looks::default();
        let mut found = Vec::new();
        for change in changes {
            let start = found.len();
            scene.matches(change, &mut looks, &mut found);
            found[start..].sort_by_key(order);
        }
        if found.is_empty() {
            return None;
        }
        let unblocked = caller.unblocked.as_ref();
        let ticket = unblocked.map(|told| Ticket::new(&caller.domain, &self.registry, told));
        self.push(found, ticket.as_ref());
        ticket
    }

    /// Sorts events by thread; the order within each thread stays.
    fn push(&self, mut found: Vec<Event>, ticket: Option<&Arc<Ticket>>) {
        while let Some(first) = found.first() {
            let thread = first.watcher.thread;
            let is_its = |event: &Event| event.watcher.thread == thread;
            // Mostly they are all one thread's.
            let (events, rest) = match found.iter().all(is_its) {
                true => (found, Vec::new()),
                false => found.into_iter().partition(is_its),
            };
            self.outlet.push(thread, Batch { events, ticket: ticket.cloned() });
            found = rest;
        }
    }

    /// Reports that a domain was introduced or released (xenstore.txt, WATCH): to watches without a
    /// depth by the name alone, to others with the domain's number behind it.
    pub fn publish_special(&self, name: &'static [u8], domid: Domid) {
        let Ok(special) = Path::parse(name) else { return };
        let spine = self.layout.spine();
        let locked = Locked::take(self, &LockSet::one(spine, false));
        let home = self.layout.home(special);
        let Some(node) = locked.shard(spine).and_then(|shard| shard.tree.get(&home, special))
        else {
            return;
        };
        let of_domain = special.child(domid.to_string().as_bytes());
        let upper = self.upper.load();
        let mut found = Vec::new();
        let mut plain = Told::new(self, special, &mut found);
        upper.exact(special, |entry| {
            if entry.depth.is_none() {
                plain.tell(entry, [&*node.perms]);
            }
        });
        let mut named = Told::new(self, of_domain.as_path(), &mut found);
        upper.exact(special, |entry| {
            if entry.depth.is_some_and(|depth| depth > 0) {
                named.tell(entry, [&*node.perms]);
            }
        });
        upper.exact(of_domain.as_path(), |entry| named.tell(entry, [&*node.perms]));
        found.sort_by_key(order);
        self.push(found, None);
    }
}

/// A commit, as those who watch it see it.
struct Scene<'a, 's> {
    store: &'a Store,
    locked: &'a Locked<'s>,
    replaced: Option<&'a TouchedHomes>,
    changes: &'a [Change],
    /// Some of them removed something.
    removes: bool,
    /// Those of `changes`, for whoever asks [`Scene::has_changed`].
    paths: OnceCell<HashSet<&'a [u8], RandomState>>,
    /// If some of its watches may match.
    upper: Option<Arc<Trie>>,
}

/// The looks for watches: in the tries of the shards, and in the upper one.
#[derive(Default)]
struct Looks<'a> {
    own: Matches<'a, 'a>,
    upper: Matches<'a, 'a>,
}

impl Scene<'_, '_> {
    fn shard(&self, path: Path<'_>) -> Option<&Shard> {
        self.locked.shard(self.store.layout.home(path).shard)
    }

    /// The node at `path` before the transaction that changed it; `None` outside of one.
    fn before(&self, path: Path<'_>) -> Option<Option<&NodeArc>> {
        let replaced = self.replaced?;
        let home = self.store.layout.home(path);
        replaced.base(&home).map(|root| find(root, &home, path).node())
    }

    /// Whether `path` is there now, which some change concerns.
    fn is_there(&self, path: Path<'_>) -> bool {
        let home = self.store.layout.home(path);
        let tree = self.locked.shard(home.shard).map(|shard| &shard.tree);
        !self.removes || tree.is_some_and(|tree| tree.get(&home, path).is_some())
    }

    /// Whether `path` was only there within a transaction.
    fn never_was(&self, path: Path<'_>) -> bool {
        self.before(path).is_some_and(|before| before.is_none()) && !self.is_there(path)
    }

    /// Whether `path` has a change of its own: who watches it is told once, also if it went with what
    /// is above it and came back.
    fn has_changed(&self, path: Path<'_>) -> bool {
        let paths = || self.changes.iter().map(|change| change.path.as_path().bytes()).collect();
        self.paths.get_or_init(paths).contains(path.bytes())
    }

    /// The permissions that say who may know of a change: those before it, those after, the parent's.
    /// `None` if the path was only there within a transaction: that is nobody's to see (XSA-115).
    fn perms<'c>(&'c self, change: &'c Change) -> Option<[Option<&'c Perms>; 3]> {
        let path = change.path.as_path();
        let (before, after) = match self.before(path) {
            None => (change.before.as_ref(), Some(&change.after)),
            Some(before) => {
                let after = Some(&change.after).filter(|_| self.is_there(path));
                (before.map(|node| &node.perms), after)
            }
        };
        (before.is_some() || after.is_some()).then_some([before, after, change.parent.as_ref()])
    }

    fn matches<'c>(&'c self, change: &'c Change, looks: &mut Looks<'c>, found: &mut Vec<Event>) {
        let path = change.path.as_path();
        // Most changes of most transactions are watched by nobody.
        let perms = LazyCell::new(|| self.perms(change));
        let mut told = Told::new(self.store, path, found);
        let mut tell = |entry: &Entry| {
            if let Some(perms) = &*perms {
                told.tell(entry, perms.iter().flatten().map(|perms| &***perms));
            }
        };
        if let Some(shard) = self.locked.shard(change.shard) {
            looks.own.of(&shard.watches, path, &mut tell);
        }
        if let Some(upper) = &self.upper {
            looks.upper.of(upper, path, &mut tell);
        }
        if !change.removed.is_empty() && perms.is_some() {
            self.matches_below(change, found);
        }
    }

    /// Removed descendants are told to those only who watch exactly them; an own event for the
    /// removed path has been found already.
    fn matches_below<'c>(&self, change: &'c Change, found: &mut Vec<Event>) {
        let root = change.path.as_path();
        // A transaction may remove the same more than once, and put something else there meanwhile.
        let mut by_path = IndexMap::<_, SmallVec<[&'c Removed; 1]>, RandomState>::default();
        for removed in &change.removed {
            by_path.entry(removed.path.as_path()).or_default().push(removed);
        }
        // What went, went with its own home, or with the removed root if that is below the home's.
        let seen = |path: Path<'_>| {
            let home = self.store.layout.home(path).root;
            let removed = by_path.get(&home).or_else(|| by_path.get(&root))?;
            removed.iter().find_map(|removed| last_seen(removed, path))
        };
        let mut tell = |path: Path<'_>, entries: &mut dyn Iterator<Item = &Entry>| {
            if let Some((node, parent)) = seen(path)
                && !self.never_was(path)
                && !self.has_changed(path)
            {
                // Above the root of a home is a node of another subtree that went with it.
                let parent = parent.or_else(|| Some(seen(path.parent()?)?.0));
                let parent = parent.map(|parent| &*parent.perms);
                let perms = [Some(&*node.perms), parent];
                let mut told = Told::new(self.store, path, found);
                entries.for_each(|entry| told.tell(entry, perms.into_iter().flatten()));
            }
        };
        if let Some(upper) = &self.upper {
            upper.below(root, |path, entries| tell(path, &mut entries.iter()));
        }
        for &path in by_path.keys() {
            let Some(shard) = self.shard(path) else { continue };
            if path != root {
                shard.watches.exact(path, |entry| tell(path, &mut std::iter::once(entry)));
            }
            shard.watches.below(path, |path, entries| tell(path, &mut entries.iter()));
        }
    }
}

/// A connection is told of one change in the order in which it set its watches.
fn order(event: &Event) -> (u16, u32, u64) {
    (event.watcher.thread, event.watcher.connection, event.watcher.seq)
}

/// Collects the watchers of one path that may know of it.
struct Told<'a> {
    store: &'a Store,
    path: Path<'a>,
    /// Made when the first event needs it; shared by all.
    shared: Option<Arc<[u8]>>,
    found: &'a mut Vec<Event>,
    /// The domain asked about last, and the answer: many watches belong to few domains.
    last: Option<(Domid, bool)>,
}

impl<'a> Told<'a> {
    fn new(store: &'a Store, path: Path<'a>, found: &'a mut Vec<Event>) -> Told<'a> {
        Told { store, path, shared: None, found, last: None }
    }

    fn tell<'p>(&mut self, entry: &Entry, perms: impl IntoIterator<Item = &'p PermSet>) {
        let allowed = match self.last {
            Some((domid, allowed)) if domid == entry.domid => allowed,
            _ => {
                let registry = &self.store.registry;
                let subject = registry.subject_of(entry.domid);
                let reads = |perms: &PermSet| {
                    perms.access(&subject, registry.births()).allows(Access::READ)
                };
                perms.into_iter().any(reads)
            }
        };
        self.last = Some((entry.domid, allowed));
        if allowed {
            let path = self.shared.get_or_insert_with(|| self.path.bytes().into());
            self.found.push(Event { watcher: entry.watcher, path: Arc::clone(path) });
        }
    }
}

/// The node that was at `path` in what was cut off, and its parent if that was there too.
fn last_seen<'r>(removed: &'r Removed, path: Path<'_>) -> Option<(&'r Node, Option<&'r Node>)> {
    let below = path.below(removed.path.as_path())?;
    let mut parent = None;
    let mut node = &*removed.root;
    for name in below.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        parent = Some(node);
        node = node.children().get(name)?.as_deref()?;
    }
    Some((node, parent))
}

//! Matching of a commit's changes with watches, and the push of its events, with the commit's locks held.

use std::cell::OnceCell;

use crossbeam::utils::CachePadded;

use super::access_set::AccessSet;
use super::commit_view::{CommitView, Found, NAMED_BYTES_MAX, Source, order};
use super::context::{Caller, Change};
use super::forest::{LockSet, Locked};
use super::looks::Budget;
use super::recipients::Recipients;
use super::unmatched::THREAD_LOOKS_MAX;
use super::{Matcher, Store};
use crate::domain::{Registry, Ticket};
use crate::sync::Arc;
use crate::types::{Domid, Layout, Path};
use crate::watch::{Batch, Event, GlobalTrie, Outlet};

/// Maximum number of looks at levels and watches that a commit takes with its locks held: some twenty microseconds, as
/// a look is about fifty instructions. Guests that watch each level of a path make one change match thousands of
/// watches: 500 changes below 900 levels that 8 guests watched took 350 ms. Beyond this they are found after the locks
/// are released (unmatched.rs).
pub const LOOKS_MAX: u64 = 640;

/// Up to this many changes are compared with the counters of the global watch trie.
const CHECKED_MAX: usize = 64;

/// The result of publishing a commit.
pub struct Published {
    /// The ticket that a guest's request holds, if it caused events or may have.
    pub ticket: Option<Arc<Ticket>>,
    /// What was found, if that is not all; then nothing was pushed.
    pub incomplete: Option<Found>,
}

/// Finds the events of commits, and pushes them to the threads that serve the watchers.
pub struct Publisher {
    pub layout: Layout,
    pub registry: Arc<Registry>,
    /// The watches that changes in any shard may match.
    pub global: CachePadded<GlobalTrie>,
    pub outlet: Arc<dyn Outlet>,
    pub matcher: Matcher,
    /// [`LOOKS_MAX`], but in tests.
    pub looks_max: u64,
    /// [`THREAD_LOOKS_MAX`], but in tests.
    pub thread_looks_max: u64,
}

impl Publisher {
    /// Creates a publisher without watches.
    pub fn new(
        layout: Layout,
        registry: Arc<Registry>,
        outlet: Arc<dyn Outlet>,
        matcher: Matcher,
    ) -> Publisher {
        Publisher {
            layout,
            registry,
            global: CachePadded::default(),
            outlet,
            matcher,
            looks_max: LOOKS_MAX,
            thread_looks_max: THREAD_LOOKS_MAX,
        }
    }

    /// Pushes the events of `changes` to the threads that serve the watchers. This happens before the locks are
    /// released, so that an event that caused another precedes it in every mailbox. Cost: the depth of each path, the
    /// matches, and for a removed tree at each level the smaller of its nodes and the watched names; together at most
    /// [`LOOKS_MAX`]. If that does not suffice, nothing is pushed.
    ///
    /// `replaced` are the partitions that a transaction changed. A path that existed neither before nor after the
    /// transaction has not changed.
    pub fn publish(
        &self,
        locked: &Locked<'_>,
        replaced: Option<&AccessSet>,
        changes: &[Change],
        caller: &Caller,
    ) -> Published {
        // The counters cover the watches on a path and its ancestors. A removal also fires watches below it.
        let concerns =
            |change: &Change| change.removes() || self.global.may_match(change.path.as_path());
        // Its lock and reference count are shared by all threads: a commit of few changes loads it only if its counters
        // admit a match.
        let is_large = changes.len() > CHECKED_MAX;
        let global = (is_large || changes.iter().any(concerns)).then(|| self.global.load());
        let view = CommitView {
            layout: self.layout,
            registry: &self.registry,
            source: Source::Locked(locked),
            replaced,
            changes,
            removes: changes.iter().any(Change::removes),
            collapses: !caller.subject.privileged,
            paths: OnceCell::new(),
            global: global.as_deref(),
            budget: Budget::new(self.looks_max),
            names: Budget::new(NAMED_BYTES_MAX),
        };
        let mut found = Found::default();
        let is_complete = view.find(&mut found);
        if is_complete && found.events.is_empty() {
            return Published { ticket: None, incomplete: None };
        }
        let unblocked = caller.unblocked.as_ref();
        let ticket = unblocked.map(|call| Ticket::new(&caller.domain, &self.registry, call));
        if !is_complete {
            return Published { ticket, incomplete: Some(found) };
        }
        self.push(found.events, ticket.as_ref());
        Published { ticket, incomplete: None }
    }

    /// Pushes events by thread, in their order within each.
    fn push(&self, mut found: Vec<Event>, ticket: Option<&Arc<Ticket>>) {
        while let Some(first) = found.first() {
            let thread = first.watcher.thread;
            let is_its = |event: &Event| event.watcher.thread == thread;
            // Usually all events are for one thread.
            let (events, rest) = match found.iter().all(is_its) {
                true => (found, Vec::new()),
                false => found.into_iter().partition(is_its),
            };
            // Does not wake the thread: a wake-up is a system call, and the pass of this thread ends with one for all
            // its pushes.
            self.outlet.push(thread, Batch::new(events, ticket));
            found = rest;
        }
    }
}

impl Store {
    /// Notifies watches that a domain was introduced or released (xenstore.txt, WATCH): watches without a depth of the
    /// special path, watches with a depth of that path with the domid appended.
    pub fn publish_special(&self, name: &'static [u8], domid: Domid) {
        let Ok(special) = Path::parse(name) else { return };
        let publisher = &self.publisher;
        let root_shard = self.layout.root_shard();
        // Held until the push, which orders this event among the commits that change the special node.
        let locked = Locked::take(&self.shards, &LockSet::one(root_shard, false));
        let partition = self.layout.partition(special);
        let Some(node) =
            locked.shard(root_shard).and_then(|shard| shard.tree.get(&partition, special))
        else {
            return;
        };
        let perms = [Some(&node.perms), None, None];
        let of_domain = special.child(domid.to_string().as_bytes());
        let global = publisher.global.load();
        let mut found = Vec::new();
        // No limit is needed: a connection is one entry, however many watches on this path it has set.
        let budget = Budget::new(u64::MAX);
        let mut plain = Recipients::new(&self.registry, special, &budget, &mut found);
        for entry in global.exact(special).into_iter().flat_map(|entries| entries.iter()) {
            if entry.depth.is_none() {
                plain.notify(entry, perms);
            }
        }
        let mut named = Recipients::new(&self.registry, of_domain.as_path(), &budget, &mut found);
        for entry in global.exact(special).into_iter().flat_map(|entries| entries.iter()) {
            if entry.depth.is_some_and(|depth| depth > 0) {
                named.notify(entry, perms);
            }
        }
        for entry in
            global.exact(of_domain.as_path()).into_iter().flat_map(|entries| entries.iter())
        {
            named.notify(entry, perms);
        }
        // A connection may have both kinds of watches.
        found.sort_by_key(order);
        // Without a ticket: no guest's request caused these events.
        publisher.push(found, None);
    }
}

//! From changes to batches of events, with the commit's locks held.

use std::cell::OnceCell;

use super::Store;
use super::commit_view::{CommitView, WatchCursors};
use super::context::{Caller, Change};
use super::forest::{LockSet, Locked};
use super::recipients::Recipients;
use super::touched::TouchedHomes;
use crate::domain::Ticket;
use crate::sync::Arc;
use crate::watch::{Batch, Event};
use crate::words::{Domid, Path};

impl Store {
    /// Pushes the events of `changes` to the threads that serve the watchers. Cost: the depth of each path,
    /// the matches, and for a removed tree the smaller of its nodes and the watched paths below it, level by
    /// level. Of a guest's commit, at most [`super::commit_view::REPORTED_MAX`] matches of a watch.
    ///
    /// `replaced` are the homes that a transaction changed, if it is one: what neither was there
    /// before nor is there now has not changed.
    ///
    /// Returns the ticket that a guest's request holds for them, if there are any.
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
        let view = CommitView {
            store: self,
            locked,
            replaced,
            changes,
            removes: changes.iter().any(|change| !change.removed.is_empty()),
            collapses: !caller.subject.privileged,
            paths: OnceCell::new(),
            upper: changes.iter().any(concerns).then(|| self.upper.load()),
        };
        let mut cursors = WatchCursors::default();
        let mut found = Vec::new();
        for change in changes {
            let start = found.len();
            view.matches(change, &mut cursors, &mut found);
            found[start..].sort_by_key(order);
        }
        if found.is_empty() {
            return None;
        }
        let unblocked = caller.unblocked.as_ref();
        let ticket = unblocked.map(|call| Ticket::new(&caller.domain, &self.registry, call));
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
            self.outlet.push(thread, Batch::new(events, ticket));
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
        let perms = [Some(&node.perms), None, None];
        let of_domain = special.child(domid.to_string().as_bytes());
        let upper = self.upper.load();
        let mut found = Vec::new();
        let mut plain = Recipients::new(self, special, &mut found);
        for entry in upper.exact(special).into_iter().flat_map(|entries| entries.iter()) {
            if entry.depth.is_none() {
                plain.notify(entry, perms);
            }
        }
        let mut named = Recipients::new(self, of_domain.as_path(), &mut found);
        for entry in upper.exact(special).into_iter().flat_map(|entries| entries.iter()) {
            if entry.depth.is_some_and(|depth| depth > 0) {
                named.notify(entry, perms);
            }
        }
        for entry in upper.exact(of_domain.as_path()).into_iter().flat_map(|entries| entries.iter())
        {
            named.notify(entry, perms);
        }
        found.sort_by_key(order);
        self.push(found, None);
    }
}

/// A connection is notified of one change in the order in which it set its watches.
fn order(event: &Event) -> (u16, u32, u64) {
    (event.watcher.thread, event.watcher.connection, event.watcher.seq)
}

//! The watchers of one change that have permission to see it.

use super::looks::{Budget, RIGHTS_LOOKS};
use crate::domain::Registry;
use crate::sync::Arc;
use crate::types::{Access, Domid, Path, Perms};
use crate::watch::{Entry, Event, Nearest};

/// The permissions that decide which domains may see a change: the node's former and new ones, and its parent's.
pub type ChangePerms<'a> = [Option<&'a Perms>; 3];

/// A collector of the events of one path.
pub struct Recipients<'a> {
    registry: &'a Registry,
    path: Path<'a>,
    /// Bounds the look-ups of permissions.
    budget: &'a Budget,
    /// The path, allocated for the first event and shared by all.
    shared: Option<Arc<[u8]>>,
    found: &'a mut Vec<Event>,
    /// The last domain checked, and the result. Those of others are not kept: a table costs more than the check.
    last: Option<(Domid, bool)>,
}

impl<'a> Recipients<'a> {
    /// Creates a collector that appends to `found`.
    pub fn new(
        registry: &'a Registry,
        path: Path<'a>,
        budget: &'a Budget,
        found: &'a mut Vec<Event>,
    ) -> Recipients<'a> {
        Recipients { registry, path, budget, shared: None, found, last: None }
    }

    /// Returns the number of events of the whole commit so far.
    pub fn found(&self) -> usize {
        self.found.len()
    }

    /// Returns whether the watcher may know of a change with these permissions (XSA-115). The last result is
    /// kept, so `perms` must be the same in all calls for one path.
    pub fn may_know(&mut self, entry: &Entry, perms: ChangePerms<'_>) -> bool {
        if let Some((domid, allowed)) = self.last
            && domid == entry.domid
        {
            return allowed;
        }
        let allowed = self.reads(entry.domid, perms);
        self.last = Some((entry.domid, allowed));
        allowed
    }

    /// Any of the permissions suffices: after a removal, that of the parent too, whose reader sees the name disappear
    /// (COMPATIBILITY.md, parent-sees).
    fn reads(&self, domid: Domid, perms: ChangePerms<'_>) -> bool {
        let registry = self.registry;
        self.budget.take(RIGHTS_LOOKS);
        let subject = registry.subject_of(domid);
        let reads = |perms: &Perms| perms.access(&subject, registry.births()).allows(Access::READ);
        perms.into_iter().flatten().any(reads)
    }

    /// Adds the event for a watcher if it may see the change.
    pub fn notify(&mut self, entry: &Entry, perms: ChangePerms<'_>) {
        if self.may_know(entry, perms) {
            let path = self.shared.get_or_insert_with(|| self.path.bytes().into());
            let path = Some(Arc::clone(path));
            let (watcher, watches) = (entry.watcher, entry.watches);
            self.found.push(Event { watcher, watches, path, nearest: None });
        }
    }

    /// Adds an event that names the watched path instead of the change, if the watcher may see the change; returns
    /// whether it may. A watcher of the control domain instead gets the change's own event, and the result is `false`,
    /// while `names` has bytes left: its kernel learns of backends only by name.
    pub fn collapse(
        &mut self,
        entry: &Entry,
        perms: ChangePerms<'_>,
        names: &Budget,
        nearest: Option<Nearest>,
    ) -> bool {
        let is_privileged = self.registry.is_privileged(entry.domid);
        if is_privileged && names.take(self.path.bytes().len()) {
            self.notify(entry, perms);
            return false;
        }
        let allowed = self.may_know(entry, perms);
        if allowed {
            let (watcher, watches) = (entry.watcher, entry.watches);
            self.found.push(Event { watcher, watches, path: None, nearest });
        }
        allowed
    }
}

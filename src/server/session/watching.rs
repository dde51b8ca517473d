//! A session's watches in the store's tries and in the accounts.

use super::Session;
use super::core::Core;
use super::former::FormerGroup;
use super::watches::{GroupSummary, Watch, WatchId};
use crate::domain::Quota;
use crate::server::mailbox::Slot;
use crate::store::Caller;
use crate::sync::Arc;
use crate::types::{Domid, Errno, Path, PathSpace};
use crate::watch::{Entry, Watcher};

impl Session {
    /// Resolves a path as the client wrote it, absolute or relative to its domain's partition.
    pub fn resolve<'a>(
        &self,
        core: &Core,
        raw: &'a [u8],
        space: &'a mut PathSpace,
    ) -> Result<Path<'a>, Errno> {
        let limit = core.registry().limit(&self.domain, Quota::PathMax);
        let limit = if limit == 0 { usize::MAX } else { limit as usize };
        Path::resolve(raw, self.domid(), limit, space)
    }

    /// Queues the initial event of a new watch.
    pub fn fire_once(&mut self, core: &Core, id: WatchId) {
        self.queue_event(id, None, None, core.now);
    }

    /// Adds a watch, from the path as the client wrote it, the token and the depth.
    ///
    /// # Errors
    /// `EEXIST` if it is set already, `ENOSPC` if a quota is reached, or why the path is invalid.
    pub fn add_watch(
        &mut self,
        core: &mut Core,
        caller: &Caller,
        (raw, token, depth): (&[u8], &[u8], Option<u16>),
    ) -> Result<WatchId, Errno> {
        let mut space = PathSpace::new();
        let path = self.resolve(core, raw, &mut space)?;
        if self.watches.contains(path, token) {
            return Err(Errno::EEXIST);
        }
        let watch = new_watch(core, path, (raw, token, depth));
        let registry = core.registry();
        let path = Some(watch.path.as_path());
        // ENOSPC as in C xenstored of 2026, which returned E2BIG before (docs/COMPATIBILITY.md).
        if !registry.reserve(&caller.domain, Quota::Watches, 1, path) {
            return Err(Errno::ENOSPC);
        }
        // Both or none, or a refused WATCH would leave a charge behind.
        if !registry.reserve(&caller.domain, Quota::Memory, watch.charge_bytes(), path) {
            caller.domain.account.release(Quota::Watches, 1);
            return Err(Errno::ENOSPC);
        }
        Ok(self.insert_watch(core, watch))
    }

    /// Charges a watch of another daemon or process, regardless of the quotas, which must not take it.
    pub fn charge_watch(&self, watch: &Watch) {
        self.domain.account.charge(Quota::Watches, 1);
        self.domain.account.charge(Quota::Memory, watch.charge_bytes());
    }

    /// Adds a watch that is charged already.
    pub fn insert_watch(&mut self, core: &Core, watch: Watch) -> WatchId {
        self.trace_watch("create", &watch);
        let (reply_to, domid) = (self.reply_to, self.domid());
        let (id, group) = self.watches.insert(watch);
        // The entry has the number of the newest watch: an event concerns the watches up to it, not later ones.
        core.shared.store.watch(group.path, entry(core, reply_to.connection, domid, &group));
        id
    }

    /// Removes a watch.
    ///
    /// # Errors
    /// `ENOENT` if it is not set.
    pub fn remove_watch(
        &mut self,
        core: &mut Core,
        path: Path<'_>,
        token: &[u8],
    ) -> Result<(), Errno> {
        let generation = core.next_number();
        let (slot, domid) = (self.reply_to.connection, self.domid());
        let removed = self.watches.remove(path, token, generation);
        let (watch, group, left) = removed.ok_or(Errno::ENOENT)?;
        match left {
            Some(left) => core.shared.store.watch(path, entry(core, slot, domid, &left)),
            None => _ = core.shared.store.unwatch(path, watcher(core, slot, group, watch.seq)),
        }
        self.forget_watch(&watch);
        Ok(())
    }

    fn forget_watch(&self, watch: &Watch) {
        self.trace_watch("destroy", watch);
        self.domain.account.release(Quota::Watches, 1);
        self.domain.account.release(Quota::Memory, watch.charge_bytes());
    }

    /// Removes all watches; the first slice leaves the tries at once, the others in later passes. Cost: their number.
    pub fn drop_watches(&mut self, core: &mut Core) {
        let generation = core.next_number();
        let (slot, domid) = (self.reply_to.connection, self.domid());
        let watches = self.watches.take(generation);
        watches.iter().for_each(|watch| self.trace_watch("destroy", watch));
        // Otherwise these wait behind the others: a pass removes one slice of all former watches.
        let is_idle = core.former.is_empty();
        for group in watches.groups() {
            let entry = entry(core, slot, domid, &group);
            let (path, watches, charged_bytes) = watches.charges(group.group);
            let domain = Arc::clone(&self.domain);
            let former = FormerGroup { path, entry, domain, watches, charged_bytes };
            self.former_watches = core.former.add(former);
        }
        if is_idle {
            core.former.take_out(&core.shared.store);
        }
    }

    fn trace_watch(&self, what: &str, watch: &Watch) {
        let (path, token) = (watch.path.as_path(), watch.token.escape_ascii());
        self.trace(format_args!("{what} watch {path} \"{token}\""));
    }
}

/// Creates a watch of `path`, which ends with the path that the client wrote.
pub fn new_watch(
    core: &mut Core,
    path: Path<'_>,
    (raw, token, depth): (&[u8], &[u8], Option<u16>),
) -> Watch {
    // A path has at most ABS_PATH_MAX bytes.
    let prefix_len = u32::try_from(path.bytes().len() - raw.len()).unwrap_or(0);
    let path = Arc::new(path.to_buf());
    let seq = core.next_number();
    Watch { path, token: token.into(), prefix_len, depth, seq }
}

/// Returns a group's entry for the tries.
pub fn entry(core: &Core, slot: Slot, domid: Domid, group: &GroupSummary<'_>) -> Entry {
    let watcher = watcher(core, slot, group.group, group.seq);
    Entry { watcher, domid, depth: group.depth, watches: group.watches }
}

fn watcher(core: &Core, slot: Slot, group: u32, seq: u64) -> Watcher {
    // Open files limit the slots far below this type's range.
    let connection = u32::try_from(slot).unwrap_or(u32::MAX);
    Watcher { thread: core.number, connection, group, seq }
}

//! WATCH and UNWATCH.

use super::super::thread::Place;
use super::super::watches::{GroupSummary, Watch, WatchId};
use super::{ACK, Connection, RequestContext, Thread};
use crate::domain::{FEATURE_WATCH_DEPTH, Quota};
use crate::store::Caller;
use crate::sync::Arc;
use crate::watch::{Entry, Watcher};
use crate::words::{Domid, Errno, Path, PathSpace};

/// WATCH: the reply, then at once an event with the path as the client wrote it.
pub fn watch(cx: &mut RequestContext<'_>, raw: &[u8], token: &[u8], depth: Option<u16>) {
    let has_depth = cx.connection.domain.features() & FEATURE_WATCH_DEPTH != 0;
    let result = if depth.is_some() && !has_depth {
        Err(Errno::EINVAL)
    } else {
        cx.thread.add_watch(cx.connection, cx.caller, (raw, token, depth))
    };
    cx.reply(result.map(|_| ACK));
    if let Ok(id) = result {
        cx.thread.fire_once(cx.connection, id);
    }
}

/// UNWATCH: no event of the watch follows its reply.
pub fn unwatch(cx: &mut RequestContext<'_>, raw: &[u8], token: &[u8]) -> Result<(), Errno> {
    let mut space = PathSpace::new();
    let path = cx.thread.resolve(cx.connection, raw, &mut space)?;
    cx.thread.remove_watch(cx.connection, path, token)
}

impl Thread {
    /// The event that every new watch begins with.
    pub(in crate::shard) fn fire_once(&mut self, connection: &mut Connection, id: WatchId) {
        connection.queue_event(id, None, None, self.now);
    }

    /// Sets a watch for a connection: the path as its client writes it, the token, and how deep.
    pub(in crate::shard) fn add_watch(
        &mut self,
        connection: &mut Connection,
        caller: &Caller,
        (raw, token, depth): (&[u8], &[u8], Option<u16>),
    ) -> Result<WatchId, Errno> {
        let mut space = PathSpace::new();
        let path = self.resolve(connection, raw, &mut space)?;
        if connection.watches.contains(path, token) {
            return Err(Errno::EEXIST);
        }
        let watch = self.new_watch(path, (raw, token, depth));
        let registry = self.shared.store.registry();
        let path = Some(watch.path.as_path());
        if !registry.reserve(&caller.domain, Quota::Watches, 1, path) {
            return Err(Errno::ENOSPC);
        }
        if !registry.reserve(&caller.domain, Quota::Memory, watch.charge_bytes(), path) {
            caller.domain.account.release(Quota::Watches, 1);
            return Err(Errno::ENOSPC);
        }
        Ok(self.insert_watch(connection, watch))
    }

    /// A watch of this path, which is what the client wrote or ends with it.
    pub(in crate::shard) fn new_watch(
        &mut self,
        path: Path<'_>,
        (raw, token, depth): (&[u8], &[u8], Option<u16>),
    ) -> Watch {
        // A path has at most ABS_PATH_MAX bytes.
        let prefix_len = u32::try_from(path.bytes().len() - raw.len()).unwrap_or(0);
        let path = Arc::new(path.to_buf());
        let seq = self.next_number();
        Watch { path, token: token.into(), prefix_len, depth, seq }
    }

    /// Sets a watch that is paid for.
    pub(in crate::shard) fn insert_watch(
        &mut self,
        connection: &mut Connection,
        watch: Watch,
    ) -> WatchId {
        self.trace_watch("create", connection, &watch);
        let (place, domid) = (connection.asker.connection, connection.domid());
        let (id, group) = connection.watches.insert(watch);
        self.shared.store.watch(group.path, self.entry(place, domid, &group));
        id
    }

    /// A group as the tries know it.
    pub(in crate::shard) fn entry(
        &self,
        place: Place,
        domid: Domid,
        group: &GroupSummary<'_>,
    ) -> Entry {
        let watcher = self.watcher(place, group.group, group.seq);
        Entry { watcher, domid, depth: group.depth, watches: group.watches }
    }

    fn watcher(&self, place: Place, group: u32, seq: u64) -> Watcher {
        // Places are limited by open files, far below what fits.
        let connection = u32::try_from(place).unwrap_or(u32::MAX);
        Watcher { thread: self.number, connection, group, seq }
    }

    pub(in crate::shard) fn remove_watch(
        &mut self,
        connection: &mut Connection,
        path: Path<'_>,
        token: &[u8],
    ) -> Result<(), Errno> {
        self.sequence += 1;
        let (place, domid) = (connection.asker.connection, connection.domid());
        let removed = connection.watches.remove(path, token, self.sequence);
        let (watch, group, left) = removed.ok_or(Errno::ENOENT)?;
        match left {
            Some(left) => self.shared.store.watch(path, self.entry(place, domid, &left)),
            None => _ = self.shared.store.unwatch(path, self.watcher(place, group, watch.seq)),
        }
        self.forget_watch(connection, &watch);
        Ok(())
    }

    fn forget_watch(&self, connection: &Connection, watch: &Watch) {
        self.trace_watch("destroy", connection, watch);
        connection.domain.account.release(Quota::Watches, 1);
        connection.domain.account.release(Quota::Memory, watch.charge_bytes());
    }

    pub(in crate::shard) fn trace_watch(&self, what: &str, connection: &Connection, watch: &Watch) {
        let (path, token) = (watch.path.as_path(), watch.token.escape_ascii());
        connection.trace(format_args!("{what} watch {path} \"{token}\""));
    }
}

//! Watches that no connection has any more and that are still in the tries: they are taken out in slices, since a
//! guest may have as many as take tens of milliseconds. Events that they cause meanwhile find no watch. Their guest
//! is charged with them until they are out.

use std::collections::VecDeque;

use super::connection::Connection;
use super::thread::Thread;
use crate::domain::{Domain, Quota};
use crate::sync::Arc;
use crate::watch::Entry;
use crate::words::PathBuf;

/// What is taken out in one pass, in bytes of paths: a few tenths of a millisecond. Ordinary guests have less.
const BYTES_PER_PASS: usize = 16 << 10;
/// What a watched path costs beside its bytes, in these.
const PATH_COST: usize = 64;

/// The watches that a connection had on one path.
pub struct FormerGroup {
    /// The watched path.
    pub path: Arc<PathBuf>,
    /// How the trie knows them.
    pub entry: Entry,
    /// Is charged with them.
    pub domain: Arc<Domain>,
    /// How many they are.
    pub watches: u64,
    /// What they are charged with in the quota `memory`.
    pub charged_bytes: u64,
}

/// The former watches of a thread's connections, oldest first.
#[derive(Default)]
pub struct FormerWatches {
    groups: VecDeque<FormerGroup>,
    /// How many groups there ever were.
    added: u64,
}

impl FormerWatches {
    /// Adds the watches on one path; returns a number for [`FormerWatches::are_out`].
    pub fn add(&mut self, group: FormerGroup) -> u64 {
        self.groups.push_back(group);
        self.added += 1;
        self.added
    }

    /// Whether all up to that number are out of the tries.
    pub fn are_out(&self, number: u64) -> bool {
        self.added - self.groups.len() as u64 >= number
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// All that are left.
    pub fn iter(&self) -> impl Iterator<Item = &FormerGroup> {
        self.groups.iter()
    }
}

impl Thread {
    /// Takes the next former watches out of the tries.
    pub(super) fn take_out_former(&mut self) {
        let mut bytes = BYTES_PER_PASS;
        while bytes > 0
            && let Some(group) = self.former.groups.pop_front()
        {
            let path = group.path.as_path();
            bytes = bytes.saturating_sub(path.bytes().len() + PATH_COST);
            self.shared.store.unwatch(path, group.entry.watcher);
            let account = &group.domain.account;
            account.release(Quota::Watches, group.watches);
            account.release(Quota::Memory, group.charged_bytes);
        }
    }

    /// Takes all watches of a connection back, the first of them at once. Cost: their number.
    pub(super) fn drop_watches(&mut self, connection: &mut Connection) {
        self.sequence += 1;
        let (place, domid) = (connection.asker.connection, connection.domid());
        let watches = connection.watches.take(self.sequence);
        watches.iter().for_each(|watch| self.trace_watch("destroy", connection, watch));
        let is_idle = self.former.is_empty();
        for group in watches.groups() {
            let entry = self.entry(place, domid, &group);
            let (path, watches, charged_bytes) = watches.charges(group.group);
            let domain = Arc::clone(&connection.domain);
            let former = FormerGroup { path, entry, domain, watches, charged_bytes };
            connection.former_watches = self.former.add(former);
        }
        if is_idle {
            self.take_out_former();
        }
    }
}

//! WATCH, UNWATCH, and the delivery of events.

use std::time::{Duration, Instant};

use super::connection::Connection;
use super::requests::{ACK, Outcome};
use super::thread::{Place, Thread};
use super::trace;
use super::watches::Watch;
use crate::domain::{FEATURE_WATCH_DEPTH, Notice, Quota, Ticket};
use crate::protocol::{Header, decimal, strings};
use crate::store::Caller;
use crate::sync::Arc;
use crate::watch::{Batch, Entry, Event, Watcher};
use crate::words::{Errno, PathBuf, PathSpace};

/// So many events of one connection wait for its reply; with one more, all are queued in front of it.
const LATE_MAX: usize = 1024;

impl Thread {
    /// WATCH: the reply, then at once an event with the path as the client wrote it.
    pub(super) fn watch(
        &mut self,
        place: Place,
        connection: &mut Connection,
        caller: &Caller,
        header: &Header,
        payload: &[u8],
    ) -> Outcome {
        let result = self.parse_and_watch(place, connection, caller, payload);
        self.answer(connection, header, result.map(|_| ACK), None);
        if let Ok(watcher) = result {
            self.fire_once(connection, watcher);
        }
        Outcome::Used
    }

    /// The event that every new watch begins with.
    pub(super) fn fire_once(&mut self, connection: &mut Connection, watcher: Watcher) {
        let Some(watch) = connection.watches.get(watcher.watch, watcher.seq) else { return };
        let shown = watch.shown(watch.path.as_path().bytes());
        let start = connection.output.buffer().len();
        connection.output.push_event(shown, &watch.token, None, self.now);
        trace::queued(self.number, connection, start);
    }

    fn parse_and_watch(
        &mut self,
        place: Place,
        connection: &mut Connection,
        caller: &Caller,
        payload: &[u8],
    ) -> Result<Watcher, Errno> {
        let mut arguments = strings(payload);
        let (Some(raw), Some(token)) = (arguments.next(), arguments.next()) else {
            return Err(Errno::EINVAL);
        };
        let has_depth = connection.domain.features() & FEATURE_WATCH_DEPTH != 0;
        let depth = match (arguments.next(), arguments.next()) {
            (None, _) => None,
            (Some(depth), None) if has_depth => Some(limited_depth(decimal(depth)?)),
            _ => return Err(Errno::EINVAL),
        };
        self.add_watch(place, connection, caller, (raw, token, depth))
    }

    /// Sets a watch for a connection: the path as its client writes it, the token, and how deep.
    pub(super) fn add_watch(
        &mut self,
        place: Place,
        connection: &mut Connection,
        caller: &Caller,
        (raw, token, depth): (&[u8], &[u8], Option<u16>),
    ) -> Result<Watcher, Errno> {
        let mut space = PathSpace::new();
        let path = self.resolve(connection, raw, &mut space)?.to_buf();
        if connection.watches.contains(&path, token) {
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
        Ok(self.insert_watch(place, connection, watch))
    }

    /// A watch of this path, which is what the client wrote or ends with it.
    pub(super) fn new_watch(
        &mut self,
        path: PathBuf,
        (raw, token, depth): (&[u8], &[u8], Option<u16>),
    ) -> Watch {
        let prefix_len = path.as_path().bytes().len() - raw.len();
        Watch { path, token: token.into(), prefix_len, depth, seq: self.next_number() }
    }

    /// Sets a watch that is paid for.
    pub(super) fn insert_watch(
        &mut self,
        place: Place,
        connection: &mut Connection,
        watch: Watch,
    ) -> Watcher {
        self.trace_watch("create", connection, &watch);
        let (path, seq, depth) = (watch.path.clone(), watch.seq, watch.depth);
        let slot = connection.watches.insert(watch);
        let watcher = self.watcher(place, slot, seq);
        let domid = connection.domid();
        self.shared.store.watch(path.as_path(), Entry { watcher, domid, depth });
        watcher
    }

    pub(super) fn watcher(&self, place: Place, slot: usize, seq: u64) -> Watcher {
        // Places are limited by open files and quotas, far below what fits.
        let small = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Watcher { thread: self.number, connection: small(place), watch: small(slot), seq }
    }

    /// UNWATCH: no event of the watch follows its reply.
    pub(super) fn unwatch(
        &mut self,
        place: Place,
        connection: &mut Connection,
        payload: &[u8],
    ) -> Result<(), Errno> {
        let mut arguments = strings(payload);
        let (Some(raw), Some(token), None) = (arguments.next(), arguments.next(), arguments.next())
        else {
            return Err(Errno::EINVAL);
        };
        let mut space = PathSpace::new();
        let path = self.resolve(connection, raw, &mut space)?.to_buf();
        self.remove_watch(place, connection, path, token)
    }

    pub(super) fn remove_watch(
        &mut self,
        place: Place,
        connection: &mut Connection,
        path: PathBuf,
        token: &[u8],
    ) -> Result<(), Errno> {
        self.sequence += 1;
        let removed = connection.watches.remove(path, token, self.sequence);
        let (slot, watch) = removed.ok_or(Errno::ENOENT)?;
        self.forget_watch(place, connection, slot, &watch);
        Ok(())
    }

    fn forget_watch(&self, place: Place, connection: &Connection, slot: usize, watch: &Watch) {
        self.trace_watch("destroy", connection, watch);
        let watcher = self.watcher(place, slot, watch.seq);
        self.shared.store.unwatch(watch.path.as_path(), watcher);
        connection.domain.account.release(Quota::Watches, 1);
        connection.domain.account.release(Quota::Memory, watch.charge_bytes());
    }

    fn trace_watch(&self, what: &str, connection: &Connection, watch: &Watch) {
        let (path, token) = (watch.path.as_path(), watch.token.escape_ascii());
        trace::object(self.number, connection, format_args!("{what} watch {path} \"{token}\""));
    }

    /// Takes all watches of a connection back. Cost: their number.
    pub(super) fn drop_watches(&mut self, place: Place, connection: &mut Connection) {
        self.sequence += 1;
        for (slot, watch) in connection.watches.take(self.sequence).iter() {
            self.forget_watch(place, connection, slot, watch);
        }
    }

    /// Delivers a commit's events to connections of this thread; what is gone is dropped.
    pub(super) fn deliver(&mut self, batch: Batch, mut serving: Option<(Place, &mut Connection)>) {
        let telling = self.telling();
        let mut behind: Vec<Place> = Vec::new();
        for event in batch.events {
            let place = event.watcher.connection as usize;
            let connection = match &mut serving {
                Some((serving, connection)) if *serving == place => Some(&mut **connection),
                _ => self.connections.get_mut(place).and_then(|slot| slot.as_deref_mut()),
            };
            let Some(connection) = connection else { continue };
            let ticket = batch.ticket.clone();
            match &mut connection.late {
                Some(late) if late.len() < LATE_MAX => late.push((event, ticket)),
                Some(_) => {
                    telling.tell_late(connection);
                    telling.tell(connection, &event, ticket);
                }
                None => telling.tell(connection, &event, ticket),
            }
            if behind.last() != Some(&place) {
                behind.push(place);
            }
        }
        for place in behind {
            self.make_ready(place);
            self.check_backlog(place);
        }
    }

    /// Queues what came while a connection waited for the settling of what it removed.
    pub(super) fn tell_late(&mut self, connection: &mut Connection) {
        self.telling().tell_late(connection);
    }

    fn telling(&mut self) -> Telling {
        Telling { thread: self.number, now: self.now, version: self.next_number() }
    }

    /// Closes a socket client that takes nothing, or it would take all memory.
    fn check_backlog(&mut self, place: Place) {
        if let Some(Some(connection)) = self.connections.get(place)
            && connection.is_over_its_limit()
        {
            self.close(place);
        }
    }

    /// Drops the events that a guest has not taken for too long, though it could.
    pub(super) fn expire_events(&mut self, connection: &mut Connection) {
        let timeout = self.shared.watch_event_timeout;
        if !connection.is_guest() || timeout == Duration::ZERO || connection.quiesce.is_some() {
            return;
        }
        let Some(deadline) = self.now.checked_sub(timeout) else { return };
        if connection.output.oldest_event().is_some_and(|queued| queued < deadline) {
            let dropped = connection.output.drop_events_before(deadline);
            connection.recharge_output();
            if let Some(count) = connection.domain.notice(Notice::EventsDropped) {
                let domid = connection.domid().0;
                tracing::warn!(domid, dropped, count, "events not taken in time");
            }
        }
    }
}

/// What it takes to queue events.
struct Telling {
    thread: u16,
    now: Instant,
    /// Of connections that are quiesced, from then on.
    version: u64,
}

impl Telling {
    /// Queues an event for a connection, if its watch is still there.
    fn tell(&self, connection: &mut Connection, event: &Event, ticket: Option<Arc<Ticket>>) {
        let (_, collapse) = connection.output_limits();
        let collapsing = connection.output.len() > collapse;
        let Some(watch) = connection.watches.get(event.watcher.watch, event.watcher.seq) else {
            return;
        };
        // Equal events merge, so what collapses adds one until that is visible.
        let path = if collapsing { watch.path.as_path().bytes() } else { &*event.path };
        let waits = connection.quiesce.is_none();
        let ticket = ticket.filter(|_| waits);
        let start = connection.output.buffer().len();
        let is_of_host = watch.path.as_path().is_special();
        connection.output.push_event(watch.shown(path), &watch.token, ticket, self.now);
        trace::queued(self.thread, connection, start);
        if !waits && !is_of_host && connection.output.buffer().len() > start {
            connection.outdate(self.version);
        }
    }

    fn tell_late(&self, connection: &mut Connection) {
        for (event, ticket) in connection.late.take().into_iter().flatten() {
            self.tell(connection, &event, ticket);
        }
    }
}

/// Depths beyond every path's are all alike.
pub(super) fn limited_depth(depth: u32) -> u16 {
    u16::try_from(depth).unwrap_or(u16::MAX)
}

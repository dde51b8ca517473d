//! CONTROL: dispatch of its commands, and their interface to the workers.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::context::{Reply, RequestContext};
use crate::control::{self, Counters, Served, State};
use crate::server::mailbox::Message;
use crate::server::shared::{Shared, spawn};
use crate::store::{Store, WatchList};
use crate::sync::{Arc, Ordering};
use crate::types::Errno;

/// Executes CONTROL. Returns `None` if the command runs on its own thread, which sends the reply later.
pub fn serve(cx: &mut RequestContext<'_>, words: &[&[u8]]) -> Option<Reply> {
    let served: Arc<dyn Served> = Arc::<Shared>::clone(&cx.core.shared);
    let work = match control::command(&served, words) {
        control::Reply::Now(reply) => return Some(reply.map(Cow::Owned)),
        control::Reply::Later(work) => work,
    };
    // Parked first: the thread may have replied before `spawn` returns.
    let reply_to = cx.park();
    let mailboxes = cx.core.shared.mailboxes.clone();
    let run = move || mailboxes.send(reply_to.thread, Message::Reply(reply_to, work.run()));
    if let Err(error) = spawn("control", run) {
        tracing::warn!(%error, "cannot start a thread for a command");
        cx.session.unpark(cx.core);
        return Some(Err(Errno::ENOMEM));
    }
    None
}

impl Served for Shared {
    fn store(&self) -> &Arc<Store> {
        &self.store
    }

    fn state(&self) -> &State {
        &self.control
    }

    fn counters(&self) -> Counters {
        let reservations = self.reservations.counts();
        Counters {
            clients: self.clients.load(Ordering::Relaxed),
            reservations: reservations.begun,
            reservations_overdue: reservations.overdue,
            reservations_awaited: reservations.waiting,
            reserved: reservations.reserved,
            deaths: self.deaths.load(Ordering::Relaxed),
        }
    }

    fn watch_lists(&self, timeout: Duration) -> Vec<WatchList> {
        let deadline = Instant::now() + timeout;
        let (sender, lists) = crossbeam::channel::unbounded();
        for thread in self.store.layout().all().take(self.threads()) {
            self.mailboxes.send(thread.0, Message::CheckWatches(sender.clone()));
        }
        // The last sender is a worker's, so the iteration ends early once no worker can reply any more.
        drop(sender);
        std::iter::from_fn(|| lists.recv_deadline(deadline).ok()).take(self.threads()).collect()
    }

    fn threads(&self) -> usize {
        usize::from(self.store.layout().shards())
    }
}

//! CONTROL: from the message to the command, and what commands need of the threads.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::{Message, Reply, RequestContext, Shared, Thread, spawn};
use crate::control::{self, Counters, Served, State};
use crate::store::{Store, WatchList};
use crate::sync::{Arc, Ordering};
use crate::words::Errno;

/// CONTROL. `None` if the reply comes later: then a thread of the command's own sends it.
pub fn serve(cx: &mut RequestContext<'_>, words: &[&[u8]]) -> Option<Reply> {
    let served: Arc<dyn Served> = Arc::<Shared>::clone(&cx.thread.shared);
    let work = match control::command(&served, words) {
        control::Reply::Now(answer) => return Some(answer.map(Cow::Owned)),
        control::Reply::Later(work) => work,
    };
    let asker = cx.park();
    let mailboxes = cx.thread.shared.mailboxes.clone();
    let run = move || mailboxes.send(asker.thread, Message::Answer(asker, work.run()));
    if let Err(error) = spawn("control", run) {
        tracing::warn!(%error, "a command cannot be started");
        cx.thread.unpark(cx.connection);
        return Some(Err(Errno::ENOMEM));
    }
    None
}

impl Thread {
    /// The watches of this thread's connections. Cost: a copy of each; no connection is being
    /// served meanwhile, so the tries hold just these of this thread.
    pub(in crate::shard) fn watch_list(&self) -> WatchList {
        let mut watches = Vec::new();
        for (place, connection) in &self.connections {
            let Some(connection) = connection else { continue };
            for group in connection.watches.groups() {
                let entry = self.entry(place, connection.domid(), &group);
                watches.push((group.path.to_buf(), entry));
            }
        }
        for former in self.former.iter() {
            watches.push((former.path.as_path().to_buf(), former.entry));
        }
        WatchList { thread: self.number, watches, tries: self.shared.store.tries() }
    }
}

impl Served for Shared {
    fn store(&self) -> &Arc<Store> {
        &self.store
    }

    fn state(&self) -> &State {
        &self.control
    }

    fn counters(&self) -> Counters {
        let turns = self.guards.counts();
        Counters {
            clients: self.clients.load(Ordering::Relaxed),
            turns: turns.begun,
            turns_overdue: turns.overdue,
            turns_awaited: turns.waiting,
            guarded: turns.guarded,
            deaths: self.deaths.load(Ordering::Relaxed),
        }
    }

    fn watch_lists(&self, patience: Duration) -> Vec<WatchList> {
        let deadline = Instant::now() + patience;
        let (sender, lists) = crossbeam::channel::unbounded();
        for thread in self.store.layout().all().take(self.threads()) {
            self.mailboxes.send(thread.0, Message::CheckWatches(sender.clone()));
        }
        drop(sender);
        std::iter::from_fn(|| lists.recv_deadline(deadline).ok()).take(self.threads()).collect()
    }

    fn threads(&self) -> usize {
        usize::from(self.store.layout().shards())
    }
}

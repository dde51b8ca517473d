//! Turns, as the workers share them: [`super::turns`] behind a lock, and in step with the store's epoch.

use std::time::Instant;

use super::mailbox::Asker;
use super::turns::{Counts, Turns};
use crate::store::Store;
use crate::sync::{AtomicBool, Mutex, Ordering};

/// Turns, as the threads share them.
#[derive(Default)]
pub struct Guards {
    /// Something is guarded.
    any: AtomicBool,
    turns: Mutex<Turns>,
}

impl Guards {
    /// Whether anything is guarded. Cost: a load, which is all that a write pays when nothing is.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// What came of turns.
    pub fn counts(&self) -> Counts {
        self.turns.lock().counts()
    }

    /// Does `work` on the turns as they are at `now`; answers also who is to be told to go on.
    pub fn with<T>(
        &self,
        store: &Store,
        now: Instant,
        work: impl FnOnce(&mut Turns) -> T,
    ) -> (T, Vec<Asker>) {
        let mut turns = self.turns.lock();
        let before = turns.counts();
        turns.advance(now);
        let result = work(&mut turns);
        turns.advance(now);
        self.any.store(turns.guards(), Ordering::Release);
        let after = turns.counts();
        if (before.begun, before.widened) != (after.begun, after.widened) {
            store.begin_epoch();
        }
        (result, turns.take_woken())
    }
}

//! Timers of a stage's tasks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// The waiting tasks by time, with a number that distinguishes equal times.
#[derive(Default)]
pub(super) struct Timers {
    waiting: RefCell<BTreeMap<(Instant, u64), Waker>>,
    last: Cell<u64>,
}

impl Timers {
    /// Returns the earliest time for which a task waits.
    pub(super) fn first(&self) -> Option<Instant> {
        self.waiting.borrow().keys().next().map(|&(when, _)| when)
    }

    /// Wakes the tasks whose timers have expired.
    pub(super) fn fire(&self, now: Instant) {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(entry) = waiting.first_entry().filter(|entry| entry.key().0 <= now) {
            entry.remove().wake();
        }
    }
}

/// A future that completes at a time.
pub struct Until {
    timers: Rc<Timers>,
    key: (Instant, u64),
}

impl Until {
    pub(super) fn new(timers: &Rc<Timers>, when: Instant) -> Until {
        let number = timers.last.get() + 1;
        timers.last.set(number);
        Until { timers: Rc::clone(timers), key: (when, number) }
    }
}

impl Future for Until {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.key.0 {
            return Poll::Ready(());
        }
        self.timers.waiting.borrow_mut().insert(self.key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Until {
    fn drop(&mut self) {
        self.timers.waiting.borrow_mut().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::client::Stage;

    use super::*;

    #[test]
    fn timers_resume_tasks_in_the_order_of_deadlines() {
        let stage = Stage::new().unwrap();
        let begun = Instant::now();
        let order = Rc::new(RefCell::new(Vec::new()));
        for late in [30, 10, 20, 10] {
            let (until, order) =
                (stage.until(begun + Duration::from_millis(late)), Rc::clone(&order));
            stage.spawn(async move {
                until.await;
                assert!(begun.elapsed() >= Duration::from_millis(late));
                order.borrow_mut().push(late);
                Ok(())
            });
        }
        drop(stage.until(begun));
        stage.run(Duration::from_secs(20)).unwrap();
        assert_eq!(*order.borrow(), [10, 10, 20, 30]);
    }
}

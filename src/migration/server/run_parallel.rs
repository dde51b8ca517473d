//! Parallel work on the descriptors of a request.

use std::collections::VecDeque;
use std::thread;

use crossbeam::channel::{Sender, unbounded};
use parking_lot::Mutex;

/// Applies `work` to each of `items`, and passes the results to `done` in the order of the items. At most one thread
/// per core takes the items in that order too, so a peer may read or write its pipes one after another. These threads
/// may block; the workers (`sync::workers`) are for work that does not.
pub fn run_parallel<T: Send, R: Send>(
    items: Vec<T>,
    work: impl Fn(T) -> R + Sync,
    mut done: impl FnMut(R),
) {
    // Determining the number of cores reads some files.
    let threads = match items.len() {
        0 | 1 => 1,
        many => many.min(thread::available_parallelism().map_or(1, usize::from)),
    };
    if threads == 1 {
        return items.into_iter().map(work).for_each(done);
    }
    // Results wait here for those of earlier items.
    let mut results: VecDeque<Option<R>> = items.iter().map(|_| None).collect();
    let mut sent = 0;
    let items = Mutex::new(items.into_iter().enumerate());
    let next = || items.lock().next();
    // Unbounded, but it holds one result for each item at most.
    let (sender, receiver) = unbounded();
    let take = |sender: Sender<(usize, R)>| {
        while let Some((place, item)) = next() {
            // The receiver outlives all senders.
            let _ = sender.send((place, work(item)));
        }
    };
    thread::scope(|scope| {
        let begin = |_| {
            let (take, sender) = (&take, sender.clone());
            let name = thread::Builder::new().name("migration-io".into());
            name.spawn_scoped(scope, move || take(sender)).is_ok()
        };
        // The threads that could be started do all the work.
        if (0..threads).map(begin).filter(|begun| *begun).count() == 0 {
            take(sender.clone());
        }
        // Otherwise the loop below would never end.
        drop(sender);
        for (place, result) in receiver {
            results[place - sent] = Some(result);
            while let Some(Some(result)) = results.pop_front_if(|first| first.is_some()) {
                sent += 1;
                done(result);
            }
        }
    });
}

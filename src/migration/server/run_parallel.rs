//! One piece of work for each descriptor of a request, several at the same time.

use std::collections::VecDeque;
use std::thread;

use crossbeam::channel::{Sender, unbounded};
use parking_lot::Mutex;

/// Does `work` with each of `items`, and tells `done` of each what came of it, in their order. Threads
/// take them in that order too, at most one for each core: so whoever is at the other end of several
/// pipes may read or write one after another. These threads may wait; the workers
/// (`sync::workers`) are for what does not.
pub fn run_parallel<T: Send, R: Send>(
    items: Vec<T>,
    work: impl Fn(T) -> R + Sync,
    mut done: impl FnMut(R),
) {
    // How many cores there are takes a look at some files.
    let threads = match items.len() {
        0 | 1 => 1,
        many => many.min(thread::available_parallelism().map_or(1, usize::from)),
    };
    if threads == 1 {
        return items.into_iter().map(work).for_each(done);
    }
    let mut results: VecDeque<Option<R>> = items.iter().map(|_| None).collect();
    let mut told = 0;
    let items = Mutex::new(items.into_iter().enumerate());
    let next = || items.lock().next();
    let (sender, receiver) = unbounded();
    let take = |sender: Sender<(usize, R)>| {
        while let Some((place, item)) = next() {
            // The other end waits for all of them.
            let _ = sender.send((place, work(item)));
        }
    };
    thread::scope(|scope| {
        let begin = |_| {
            let (take, sender) = (&take, sender.clone());
            let name = thread::Builder::new().name("migration-io".into());
            name.spawn_scoped(scope, move || take(sender)).is_ok()
        };
        // Those that can be had do it all.
        if (0..threads).map(begin).filter(|begun| *begun).count() == 0 {
            take(sender.clone());
        }
        drop(sender);
        for (place, result) in receiver {
            results[place - told] = Some(result);
            while let Some(Some(result)) = results.pop_front_if(|first| first.is_some()) {
                told += 1;
                done(result);
            }
        }
    });
}

//! Threads that parallelise work on many nodes or domains: checks, exports and imports.
//!
//! The threads form a separate rayon pool: rayon's global pool panics if the system refuses threads, and then stays
//! unusable even when threads are available later. Without workers the calling thread does the work.

use parking_lot::Mutex;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::Arc;

// Not `sync::Mutex`, whose variant that measures holds has no const constructor.
static POOL: Mutex<Option<Arc<ThreadPool>>> = Mutex::new(None);

/// A handle to the worker threads, if there are any.
pub struct Workers(Option<Arc<ThreadPool>>);

impl Workers {
    /// Returns the workers, and starts them at the first call: one for each core. The handle has no threads if the
    /// system refuses them now.
    pub fn find() -> Workers {
        Workers::start(0)
    }

    /// Like [`Workers::find`], but with a given number of threads if none are started yet; 0: one for each core.
    pub fn start(threads: usize) -> Workers {
        // Held while the threads start, so that two callers do not start two pools.
        let mut pool = POOL.lock();
        if pool.is_none() {
            let named = ThreadPoolBuilder::new().thread_name(|number| format!("pool{number}"));
            match named.num_threads(threads).build() {
                Ok(built) => *pool = Some(Arc::new(built)),
                // The pool stays empty, so the next call tries again.
                Err(error) => tracing::warn!(%error, "no pool threads, working on one thread"),
            }
        }
        Workers(pool.clone())
    }

    /// Applies `work` to each of `items`, and returns the results in the items' order.
    pub fn map<I, T, R>(&self, items: I, work: impl Fn(T) -> R + Send + Sync) -> Vec<R>
    where
        I: IntoIterator<Item = T> + IntoParallelIterator<Item = T> + Send,
        T: Send,
        R: Send,
    {
        match &self.0 {
            Some(pool) => pool.install(|| items.into_par_iter().map(work).collect()),
            None => items.into_iter().map(work).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_with_and_without_workers_returns_the_same() {
        let items: Vec<u32> = (0..1000).collect();
        let expected: Vec<u32> = items.iter().map(|item| item + 1).collect();
        for workers in [Workers::find(), Workers(None)] {
            assert_eq!(workers.map(&items, |item| item + 1), expected);
            assert_eq!(workers.map(items.clone(), |item| item + 1), expected);
        }
    }
}
